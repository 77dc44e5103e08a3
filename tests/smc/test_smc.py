"""``lvm.smc``: known posteriors and evidence, the result, runs in folders, and what is refused."""

from __future__ import annotations

import math
import signal

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from smc_models import doubles

import pyrolvm as lvm

QUIET = {"progress": False}


def same(one, other):
    pairs = zip(one.data["posterior"].data_vars.values(), other.data["posterior"].data_vars.values(), strict=True)
    return all(np.array_equal(a.values, b.values) for a, b in pairs) and one.evidence.value == other.evidence.value


# --- known values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "regression",
        "two_modes",
        "funnel",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("rates", "banana", "hidden_states")),
    ],
)
def test_means_and_evidence_are_right(name, known):
    one = known(name)
    found = lvm.smc(one.problem, seed=2, **QUIET)
    assert one.off(found) < 0.1
    assert abs(found.evidence.value - one.evidence) < 3 * found.evidence.error and found.evidence.error < 0.15
    assert found.verdict.trusted and found.evidence.reliable


def test_exchangeable_components_are_covered_alike(known, particles):
    one = known("mixture")
    assert one.off(particles) < 0.1 and particles.verdict.trusted
    assert abs(particles.evidence.value - one.evidence) < 3 * particles.evidence.error
    drawn = particles.data["posterior"]["middle"].values.reshape(-1, 3)
    orders = np.unique(np.argsort(drawn, axis=1), axis=0, return_counts=True)[1] / len(drawn)
    assert len(orders) == 6 and orders == pytest.approx(np.full(6, 1 / 6), abs=0.02)


@pytest.mark.parametrize("name", ["regression", "banana"])
def test_particles_start_at_a_posterior(name, known):
    one = known(name)
    fit = lvm.fit(one.problem, "mean_field", max_steps=300, seed=1, **QUIET)
    found = lvm.smc(one.problem, start=fit, seed=2, **QUIET)
    assert one.off(found) < 0.1 and found.data["posterior"].attrs["start"] == fit.name
    assert abs(found.evidence.value - one.evidence) < 3 * found.evidence.error


def test_a_start_in_one_copy_counts_the_others(known):
    one = known("mixture")
    start = {"middle": doubles([-4.0, 0.0, 4.0])}
    chains = lvm.nuts(one.problem, init=start, precondition="none", chains=2, warmup=200, draws=200, **QUIET)
    found = lvm.smc(one.problem, start=chains, seed=2, **QUIET)
    assert one.off(found) < 0.1
    if found.verdict.trusted:
        assert abs(found.evidence.value - one.evidence) < 3 * found.evidence.error
        assert found.verdict.figures.get("nats of other copies", math.log(6)) == pytest.approx(math.log(6))
    else:
        assert "copies" in str(found.verdict)


def test_learnable_parameters_are_held_at_those_of_the_fit():
    y = doubles([0.5, 1.5, 2.5, 0.1])

    def learned(y):
        scale = pyro.param("scale", torch.tensor(1.0, dtype=y.dtype), constraint=dist.constraints.positive)
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, scale))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    problem = lvm.Problem(learned, y)
    with pytest.raises(lvm.ProblemError, match=r"learnable.*scale.*params=fit"):
        lvm.smc(problem, **QUIET)
    fit = lvm.fit(problem, "mean_field", max_steps=300, **QUIET)
    scale = float(fit.params["scale"].exp())
    exact = float(dist.Normal(0.0, math.sqrt(1 + scale**2)).log_prob(y).sum())
    for found in (lvm.smc(problem, start=fit, **QUIET), lvm.smc(problem, params=fit, **QUIET)):
        assert abs(found.evidence.value - exact) < 3 * found.evidence.error


def test_too_few_particles_for_a_hard_problem_are_not_trusted():
    def many(y):
        z = pyro.sample("z", dist.Normal(y.new_zeros(20), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z.sinh(), 0.01).to_event(1), obs=y)

    found = lvm.smc(lvm.Problem(many, torch.linspace(-2, 2, 20, dtype=torch.float64)), particles=200, seed=1, **QUIET)
    assert found.verdict.status == "doubtful" and "particles=" in str(found.verdict)


# --- the result -------------------------------------------------------------------------------------------------------


def test_a_result_is_one_of_arviz_with_what_happened(particles):
    import arviz_stats

    data = particles.data
    assert isinstance(particles, lvm.Particles) and particles.num_draws == 2048
    assert dict(data["posterior"].sizes)["chain"] == 4 and data["posterior"].attrs["inference_method"] == "smc"
    assert {"lp", "island", "ancestor"} <= set(data["sample_stats"].data_vars)
    assert {"log_likelihood", "posterior_predictive", "prior", "observed_data", "tempering"} <= set(data.children)
    history = particles.history
    assert list(history["beta"]) == list(particles.temperatures)
    assert history["beta"].is_monotonic_increasing and history["beta"].iloc[-1] == 1.0
    assert ((particles.acceptance > 0) & (particles.acceptance <= 1)).all()
    assert history["ancestors"].iloc[-1] == pytest.approx(particles.verdict.figures["ancestors"])
    assert particles.evidence.evaluations == history["evaluations"].sum()
    assert np.isfinite(arviz_stats.summary(data)["mean"].astype(float)).all()
    assert particles.sample(10).sizes["draw"] == 10 and particles.log_q is None


def test_draws_are_of_the_density_they_say(particles):
    problem = particles.attached
    middle = particles.data["posterior"]["middle"].values.reshape(-1, 3)
    y = problem.args[0].numpy()
    prior = dist.Normal(0.0, 4.0).log_prob(torch.as_tensor(middle)).sum(-1).numpy()
    each = dist.Normal(torch.as_tensor(middle)[:, None], 0.7).log_prob(torch.as_tensor(y)[None, :, None])
    wanted = prior + (each - math.log(3)).logsumexp(-1).sum(-1).numpy()
    assert particles.log_p.reshape(-1) == pytest.approx(wanted, rel=1e-9)


def test_a_result_can_be_kept_and_compared(particles, known, tmp_path):
    particles.save(tmp_path / "kept")
    loaded = lvm.load(tmp_path / "kept", problem=known("mixture").problem)
    assert isinstance(loaded, lvm.Particles) and same(loaded, particles)
    assert loaded.verdict == particles.verdict and str(loaded.evidence) == str(particles.evidence)
    assert loaded.history.equals(particles.history)
    report = lvm.compare({"smc": particles, "again": loaded}, reference="smc")
    assert "smc" in str(report)
    assert lvm.diagnose(loaded).figures["rhat"] < 1.01


def test_advice_is_in_words_that_smc_knows(known):
    found = lvm.smc(known("rates").problem, particles=200, seed=1, **QUIET)
    assert found.verdict.status == "doubtful"
    told = " ".join(found.verdict.next_steps)
    assert "particles=" in told and "draws=" not in told and "warmup" not in told


# --- repeatable -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untouched_rng")
def test_a_seed_makes_it_repeatable_whatever_runs_beside(known):
    one = known("rates")
    first = lvm.smc(one.problem, particles=400, seed=7, **QUIET)
    other = lvm.smc(one.problem, particles=400, seed=8, **QUIET)
    lvm.smc(known("funnel").problem, particles=200, seed=7, **QUIET)
    again = lvm.smc(one.problem, particles=400, seed=7, **QUIET)
    assert same(first, again) and not same(first, other)


def test_progress_is_told(known):
    told = []
    lvm.smc(
        known("regression").problem, particles=400, progress=lambda done, total, text: told.append((done, total, text))
    )
    mine = [one for one in told if "temperature" in one[2]]
    assert mine and mine[-1][0] == mine[-1][1] == 1000


class _Killed(BaseException):
    pass


def test_a_run_that_is_killed_goes_on_from_its_last_stage(known, tmp_path, monkeypatch):
    from pyrolvm._methods.smc import sampler

    problem, options = known("regression").problem, {"particles": 400, "seed": 3, **QUIET}
    whole = lvm.smc(problem, **options)
    stage, count = sampler._stage, []

    def dying(*args):
        count.append(1)
        if len(count) == 4:
            raise _Killed
        return stage(*args)

    monkeypatch.setattr(sampler, "_stage", dying)
    with pytest.raises(_Killed):
        lvm.smc(problem, out=tmp_path / "a", checkpoint_every=0, **options)
    count.extend([1, 1, 1])
    with pytest.raises(lvm.StoreError, match="resume=True"):
        lvm.smc(problem, out=tmp_path / "a", **options)
    count.clear()
    count.extend([1] * 4)
    resumed = lvm.smc(problem, out=tmp_path / "a", resume=True, checkpoint_every=0, **options)
    assert len(count) - 4 == len(whole.temperatures) - 3
    assert same(resumed, whole)
    before = len(count)
    assert same(lvm.smc(problem, out=tmp_path / "a", resume=True, **options), whole) and len(count) == before
    with pytest.raises(lvm.StoreError, match="particles"):
        lvm.smc(problem, out=tmp_path / "a", resume=True, **{**options, "particles": 800})


def test_an_interrupt_keeps_the_particles(known, tmp_path, monkeypatch):
    from pyrolvm._methods.smc import sampler

    problem, options = known("regression").problem, {"particles": 400, "seed": 3, **QUIET}
    stage, count = sampler._stage, []

    def stopping(*args):
        count.append(1)
        if len(count) == 3:
            signal.raise_signal(signal.SIGINT)
        return stage(*args)

    monkeypatch.setattr(sampler, "_stage", stopping)
    with pytest.raises(KeyboardInterrupt):
        lvm.smc(problem, out=tmp_path / "a", **options)
    assert len(count) == 3
    resumed = lvm.smc(problem, out=tmp_path / "a", resume=True, **options)
    assert len(count) == len(resumed.temperatures)


# --- refusals ---------------------------------------------------------------------------------------------------------


def plain(y):
    z = pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"particles": 1001}, r"multiple of islands=4.*particles=1000"),
        ({"particles": 100}, r"at least 50.*particles=200"),
        ({"particles": 0}, "particles must be an integer"),
        ({"islands": 2.0}, "islands must be an integer"),
        ({"ess": 1.0}, r"ess must lie between 0 and 1"),
        ({"forget": "0.2"}, r"forget must lie between"),
        ({"max_moves": 1}, "max_moves"),
        ({"start": "posterior"}, r'start must be "prior" or a posterior'),
        ({"params": 3}, "params must be a fitted result"),
        ({"seed": -1}, "seed"),
        ({"resume": True}, "out"),
        ({"num_particles": 10}, "particles="),
    ],
)
def test_bad_arguments_are_refused_before_the_first_step(options, told):
    calls = []

    def model(y):
        calls.append(1)
        plain(y)

    problem = lvm.Problem(model, doubles(0.5))
    before = len(calls)
    with pytest.raises(lvm.ArgumentError, match=told):
        lvm.smc(problem, **options)
    assert len(calls) == before


def test_starts_of_other_problems_and_points_are_refused(known):
    fit = lvm.fit(lvm.Problem(plain, doubles(0.5)), "mean_field", max_steps=20, **QUIET)
    with pytest.raises(lvm.ArgumentError, match=r"another problem.*'rate'"):
        lvm.smc(known("rates").problem, start=fit, **QUIET)
    point = lvm.fit(lvm.Problem(plain, doubles(0.5)), pyro.infer.autoguide.AutoDelta, max_steps=20, **QUIET)
    with pytest.raises(lvm.ArgumentError, match="point estimate"):
        lvm.smc(point.attached, start=point, **QUIET)


def counts(y):
    rate = pyro.sample("rate", dist.Gamma(y.new_tensor(2.0), 1.0))
    count = pyro.sample("count", dist.Poisson(rate))
    pyro.sample("y", dist.Normal(count, 1.0), obs=y)


def flat(y):
    z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
    pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def discrete(y):
    z = pyro.sample("z", dist.Bernoulli(y.new_tensor(0.3)))
    pyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "told"), [(counts, r"'count'.*infinitely"), (flat, r"'z'.*proper prior"), (discrete, r"lvm\.exact")]
)
def test_posteriors_without_particles_are_refused(model, told):
    with pytest.raises(lvm.ProblemError, match=told):
        lvm.smc(lvm.Problem(model, doubles(0.5)), **QUIET)


def test_streams_are_refused_and_subsamples_take_all_rows():
    def rows(y):
        z = pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("row", 12, subsample_size=3) as index:
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[index])

    y = torch.linspace(-1.0, 2.0, 12, dtype=torch.float64)
    with pytest.warns(lvm.PyrolvmWarning, match="all rows are used"):
        found = lvm.smc(lvm.Problem(rows, y), **QUIET)
    covariance = torch.eye(12, dtype=y.dtype) + 1
    exact = float(dist.MultivariateNormal(torch.zeros(12, dtype=y.dtype), covariance).log_prob(y))
    assert abs(found.evidence.value - exact) < 3 * found.evidence.error

    def batches(y):
        z = pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    stream = lvm.stream(torch.utils.data.TensorDataset(y.float()), batch_size=4)
    with pytest.raises(lvm.ArgumentError, match="stream"):
        lvm.smc(lvm.Problem(batches, *stream), **QUIET)


def test_models_that_run_for_one_draw_at_a_time_are_refused():
    def branching(y):
        z = pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0))
        scale = 1.0 if z > 0 else 2.0
        pyro.sample("y", dist.Normal(z, scale), obs=y)

    with pytest.raises(lvm.FitError, match=r"one draw at a time.*lvm\.nuts"):
        lvm.smc(lvm.Problem(branching, doubles(0.5)), **QUIET)
