"""NUTS: moments, supports, discrete draws, statistics, seeds, interrupts, starts and errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._methods.nuts import engines, inference

STATS = {
    "lp": "f", "diverging": "b", "acceptance_rate": "f", "step_size": "f", "tree_depth": "i", "n_steps": "i", "energy": "f",
    "reached_max_treedepth": "b",
}  # fmt: skip


def gaussian(y: Tensor) -> None:
    """Two correlated unknowns: precision [[1 + 4, 4], [4, 1 + 4]] with one observation of their sum at noise 1/2."""
    a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 1.0))
    b = pyro.sample("b", dist.Normal(y.new_tensor(0.0), 1.0))
    pyro.sample("y", dist.Normal(a + b, 0.5), obs=y)


def bounded(y: Tensor) -> None:
    share = pyro.sample("share", dist.Beta(y.new_tensor(2.0), 3.0))
    parts = pyro.sample("parts", dist.Dirichlet(y.new_ones(3)))
    width = pyro.sample("width", dist.HalfNormal(y.new_tensor(1.0)))
    edge = pyro.sample("edge", dist.Uniform(y.new_tensor(-1.0), 4.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(share + parts[0] + edge, 0.5 + width), obs=y)


def mixture(y: Tensor) -> None:
    centre = pyro.sample("centre", dist.Normal(y.new_tensor(2.0), 0.5))
    with pyro.plate("row", len(y)):
        on = pyro.sample("on", dist.Bernoulli(y.new_tensor(0.3)))
        pyro.sample("y", dist.Normal(on * centre, 0.7), obs=y)


def with_param(y: Tensor) -> None:
    noise = pyro.param("noise", lambda: torch.tensor(1.0), constraint=dist.constraints.positive)
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, noise), obs=y)


Y = torch.tensor([0.2, 1.0, 1.9, 2.4])


def run(problem: lvm.Problem, **options: Any) -> lvm.Chains:
    return lvm.nuts(problem, **{"chains": 2, "warmup": 30, "draws": 20, "seed": 0, "progress": False, **options})


@pytest.fixture(scope="module")
def gaussian_problem() -> lvm.Problem:
    return lvm.Problem(gaussian, torch.tensor(1.0))


@pytest.fixture(scope="module", params=["auto", "jax"])
def gaussian_chains(gaussian_problem: lvm.Problem, request: pytest.FixtureRequest) -> lvm.Chains:
    return run(gaussian_problem, chains=3, warmup=100, draws=600, engine=request.param)


def test_moments_of_a_gaussian(gaussian_chains: lvm.Chains) -> None:
    from arviz_stats import mcse

    precision = np.array([[5.0, 4.0], [4.0, 5.0]])
    covariance = np.linalg.inv(precision)
    mean = covariance @ np.array([4.0, 4.0])
    posterior = gaussian_chains.data["posterior"].to_dataset()
    error = mcse(posterior)
    for i, name in enumerate(("a", "b")):
        assert abs(float(posterior[name].mean()) - mean[i]) < 5 * float(error[name])
        assert float(posterior[name].std()) == pytest.approx(covariance[i, i] ** 0.5, rel=0.15)
    flat = np.stack([posterior[name].values.reshape(-1) for name in ("a", "b")])
    assert np.corrcoef(flat)[0, 1] == pytest.approx(-0.8, abs=0.08)


def test_names_shapes_and_types_of_the_statistics(gaussian_chains: lvm.Chains) -> None:
    stats = gaussian_chains.data["sample_stats"]
    assert set(stats.data_vars) == set(STATS)
    for name, kind in STATS.items():
        assert stats[name].dims == ("chain", "draw"), name
        assert stats[name].shape == (3, 600), name
        assert stats[name].dtype.kind == kind, name
        assert np.isfinite(stats[name].values).all(), name
    assert gaussian_chains.log_q is None
    assert gaussian_chains.evidence is None
    assert gaussian_chains.log_p.shape == (3, 600)


def test_the_statistics_are_consistent(gaussian_chains: lvm.Chains) -> None:
    stats = gaussian_chains.data["sample_stats"]
    rate = stats["acceptance_rate"].values
    assert ((rate >= -1e-6) & (rate <= 1 + 1e-6)).all()  # read off a running mean
    assert rate.mean() == pytest.approx(0.8, abs=0.15)
    assert (stats["step_size"].values > 0).all()
    if stats.attrs["kernel"] == "numpyro":  # nutpie's are jittered
        assert (
            stats["step_size"].values == stats["step_size"].values[:, :1]
        ).all()  # adapted in warmup, fixed after it
    steps, depth = stats["n_steps"].values, stats["tree_depth"].values
    assert (steps >= 1).all()
    assert (steps <= 2**depth - 1).all()
    assert (steps > 2 ** (depth - 1) - 1).all()
    # H = -log p + kinetic energy of two momenta, whose expectation is one.
    kinetic = stats["energy"].values + stats["lp"].values
    potential_change = kinetic.mean()
    assert potential_change == pytest.approx(1.0, abs=0.25)
    assert not stats["diverging"].values.any()


def test_log_p_is_the_density_of_the_model(gaussian_chains: lvm.Chains) -> None:
    posterior = gaussian_chains.data["posterior"]
    a, b = (torch.as_tensor(posterior[name].values) for name in ("a", "b"))
    wanted = (
        dist.Normal(0.0, 1.0).log_prob(a)
        + dist.Normal(0.0, 1.0).log_prob(b)
        + dist.Normal(a + b, 0.5).log_prob(torch.tensor(1.0))
    )
    np.testing.assert_allclose(gaussian_chains.log_p, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_draws_lie_in_their_supports() -> None:
    posterior = run(lvm.Problem(bounded, Y), warmup=40, draws=40).data["posterior"]
    share, parts, width, edge = (posterior[name].values for name in ("share", "parts", "width", "edge"))
    assert ((share > 0) & (share < 1)).all()
    assert (parts > 0).all()
    np.testing.assert_allclose(parts.sum(-1), 1, atol=1e-5)
    assert (width > 0).all()
    assert ((edge > -1) & (edge < 4)).all()
    for values in (share, parts, width, edge):
        assert values.std() > 0.01


def test_discrete_draws_have_their_exact_conditional_probabilities() -> None:
    chains = run(lvm.Problem(mixture, Y), warmup=60, draws=250)
    posterior = chains.data["posterior"]
    centre, on = torch.as_tensor(posterior["centre"].values), posterior["on"].values
    assert posterior["on"].dims == ("chain", "draw", "row")
    assert set(np.unique(on)) <= {0.0, 1.0}
    inside = dist.Normal(centre[..., None], 0.7).log_prob(Y) + np.log(0.3)
    outside = dist.Normal(0.0, 0.7).log_prob(Y) + np.log(0.7)
    probability = torch.sigmoid(inside - outside).numpy()
    error = np.sqrt((probability * (1 - probability)).sum(axis=(0, 1))) / on[..., 0].size
    np.testing.assert_array_less(np.abs((on - probability).mean(axis=(0, 1))), 4.5 * error)
    # The indicators are summed out of log p.
    prior = dist.Normal(2.0, 0.5).log_prob(centre)
    wanted = prior + torch.logaddexp(inside, outside.expand_as(inside)).sum(-1)
    np.testing.assert_allclose(chains.log_p, wanted.numpy(), rtol=1e-4)


def test_divergences_are_recorded_and_judged() -> None:
    """Neal's funnel with a step size that warmup never got to adapt."""

    def funnel(y: Tensor) -> None:
        v = pyro.sample("v", dist.Normal(y.new_tensor(0.0), 3.0))
        with pyro.plate("row", 6):
            x = pyro.sample("x", dist.Normal(0.0, torch.exp(v / 2)))
        pyro.sample("y", dist.Normal(x.sum(), 20.0), obs=y)

    chains = run(lvm.Problem(funnel, torch.tensor(0.0)), warmup=20, draws=40, target_accept=0.3, seed=1)
    assert chains.divergences > 0
    assert chains.divergences == int(chains.data["sample_stats"]["diverging"].values.sum())
    assert any("diverg" in reason.text for reason in chains.verdict.reasons if reason.status != "trusted")


@pytest.fixture
def accepts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The acceptance probabilities that chains were run at, of which those below 0.99 are made to have diverged once a chain."""
    asked: list[float] = []
    stock = engines.run

    def diverging(joint: Any, starts: Tensor, seeds: Any, settings: Any, **options: Any) -> Any:
        outcome = stock(joint, starts, seeds, settings, **options)
        asked.append(settings.target_accept)
        outcome.raw.stats["diverging"] = np.zeros_like(outcome.raw.stats["diverging"])
        outcome.raw.stats["diverging"][:, : 1 if settings.target_accept < 0.99 else 0] = True
        return outcome

    monkeypatch.setattr(engines, "run", diverging)
    yield asked


SHORT: dict[str, Any] = {"chains": 2, "warmup": 20, "draws": 30, "progress": False}


def test_chains_in_a_frame_that_diverge_a_little_are_run_again_with_smaller_steps(
    gaussian_problem: lvm.Problem, accepts: list[float]
) -> None:
    chains = lvm.nuts(gaussian_problem, seed=3, **SHORT)
    assert accepts == [0.8, 0.95, 0.99]
    assert chains.divergences == 0
    assert chains.data["posterior"].attrs["target_accept"] == 0.99
    assert any("diverged: 2 at 0.8, 2 at 0.95." in reason.text for reason in chains.verdict.reasons)


@pytest.mark.parametrize("options", [{"target_accept": 0.8}, {"precondition": "none"}], ids=["asked for", "no frame"])
def test_chains_are_not_run_again_unasked(
    gaussian_problem: lvm.Problem, accepts: list[float], options: dict[str, Any]
) -> None:
    chains = lvm.nuts(gaussian_problem, seed=3, **SHORT, **options)
    assert accepts == [0.8]
    assert chains.divergences == 2


def test_chains_that_diverge_often_take_the_smallest_steps_and_those_that_took_long_none_again(
    gaussian_problem: lvm.Problem, accepts: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    often = lvm.nuts(gaussian_problem, seed=3, **{**SHORT, "draws": 9})  # one of nine is more than a tenth
    assert accepts == [0.8, 0.99] and often.divergences == 0
    monkeypatch.setattr(inference, "AGAIN_SECONDS", 0.0)
    lvm.nuts(gaussian_problem, seed=3, **SHORT)
    assert accepts == [0.8, 0.99, 0.8]


def test_a_level_that_walks_in_a_loop_is_sampled_by_small_steps() -> None:
    """Its frame is of one scale of the steps, and curvatures are nine times as large where that is three times as large."""

    def walk(y: Tensor) -> None:
        s = pyro.sample("s", dist.HalfNormal(2.0))
        q = pyro.sample("q", dist.HalfNormal(1.0))
        x = pyro.sample("x_0", dist.Normal(10.0, 5.0))
        for t in range(len(y)):
            x = pyro.sample(f"x_{t}", dist.Normal(x, q)) if t else x
            pyro.sample(f"y_{t}", dist.Normal(x, s), obs=y[t])

    flow = lvm.problem("linear_dynamical_system").arguments["y"][:60]
    problem = lvm.Problem(walk, flow)
    chains = lvm.nuts(problem, seed=1, progress=False)
    assert chains.divergences == 0 and chains.verdict.figures["rhat"] < 1.03, str(chains.verdict)
    assert "target_accept 0.99" in str(chains.verdict)
    blocks = lvm.sparse(problem, seed=1, progress=False).summary(max_quantities=100)
    found = chains.summary(max_quantities=100)
    for name in ("s", "q", "x_30"):
        assert abs(found.loc[name, "mean"] - blocks.loc[name, "mean"]) < 0.15 * blocks.loc[name, "sd"]
        assert found.loc[name, "sd"] == pytest.approx(blocks.loc[name, "sd"], rel=0.15)


def test_tree_depth_is_bounded_and_saturation_reported(gaussian_problem: lvm.Problem) -> None:
    chains = run(gaussian_problem, max_tree_depth=1)
    stats = chains.data["sample_stats"]
    assert (stats["tree_depth"].values <= 1).all()
    assert (stats["reached_max_treedepth"].values == (stats["tree_depth"].values >= 1)).all()
    assert stats["reached_max_treedepth"].values.any()


# --- seeds ------------------------------------------------------------------------------------------------------------


def values(chains: lvm.Chains, name: str = "a") -> np.ndarray:
    return np.asarray(chains.data["posterior"][name].values)


@pytest.mark.usefixtures("untouched_rng")
def test_the_same_seed_gives_the_same_draws(gaussian_problem: lvm.Problem) -> None:
    first, again, other = (run(gaussian_problem, seed=seed) for seed in (4, 4, 5))
    assert first.data["posterior"].to_dataset().equals(again.data["posterior"].to_dataset())
    assert first.data["sample_stats"].to_dataset().equals(again.data["sample_stats"].to_dataset())
    assert first.data["posterior_predictive"].to_dataset().equals(again.data["posterior_predictive"].to_dataset())
    assert not np.isin(values(first), values(other)).any()
    assert not np.isin(values(first)[0], values(first)[1]).any()


def test_a_chain_does_not_depend_on_the_number_of_chains(gaussian_problem: lvm.Problem) -> None:
    one, two, three = (values(run(gaussian_problem, chains=chains)) for chains in (1, 2, 3))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(two, three[:2])


def test_a_longer_run_begins_like_a_shorter_one(gaussian_problem: lvm.Problem) -> None:
    np.testing.assert_array_equal(
        values(run(gaussian_problem, draws=10)), values(run(gaussian_problem, draws=25))[:, :10]
    )


# --- interrupts -------------------------------------------------------------------------------------------------------


class Interrupt:
    """Progress that presses Ctrl-C once so many transitions are done, in a phase that all chains have reached."""

    def __init__(self, after: int, phase: str) -> None:
        self.after, self.phase = after, phase

    def __call__(self, done: int, total: int, text: str) -> None:
        if done >= self.after and text.startswith(self.phase):
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("after", "engine"),
    [
        (190, "jax"),
        pytest.param(190, "pyro", marks=pytest.mark.slow),
        pytest.param(270, "jax", marks=pytest.mark.slow),
        (270, "pyro"),
    ],
)
def test_an_interrupt_keeps_equal_draws_of_all_chains(
    gaussian_problem: lvm.Problem, after: int, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyrolvm._base.progress import Progress
    from pyrolvm._methods.nuts import numpyro_kernel

    monkeypatch.setattr(Progress.__init__, "__kwdefaults__", {"every": 0.0})
    monkeypatch.setattr(numpyro_kernel, "_rows", lambda *_: 10)
    options = {"chains": 3, "warmup": 40, "draws": 100, "engine": engine, "target_accept": 0.8}
    whole = run(gaussian_problem, **options)
    cut = run(gaussian_problem, progress=Interrupt(after, "sampling"), **options)
    assert np.ptp(values(whole)) > 0
    kept = cut.data["posterior"].sizes["draw"]
    assert 0 < kept < 100
    assert cut.data["posterior"].sizes["chain"] == 3
    np.testing.assert_array_equal(values(cut), values(whole)[:, :kept])
    for name in STATS:
        np.testing.assert_array_equal(
            cut.data["sample_stats"][name].values, whole.data["sample_stats"][name].values[:, :kept]
        )
    assert cut.data["sample_stats"].attrs["interrupted"] == 1
    assert whole.data["sample_stats"].attrs["interrupted"] == 0


def test_an_interrupt_in_warmup_is_an_error_in_words(
    gaussian_problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyrolvm._base.progress import Progress

    monkeypatch.setattr(Progress.__init__, "__kwdefaults__", {"every": 0.0})
    with pytest.raises(lvm.FitError, match=r"interrupted before.*Fix:"):
        run(gaussian_problem, engine="jax", warmup=100, progress=Interrupt(20, "warmup"))


# --- starts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["jax", "pyro"])
def test_chains_start_at_a_mapping(engine: str) -> None:
    """Without warmup and with a tiny tree the first draws are near the start, wherever that is."""

    def wide(y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 100.0))
        pyro.sample("y", dist.Normal(a, 100.0), obs=y)

    problem = lvm.Problem(wide, torch.tensor(0.0))
    chains = run(problem, init={"a": 300.0}, warmup=0, draws=1, max_tree_depth=1, engine=engine, precondition="none")
    assert (np.abs(values(chains)[:, 0] - 300.0) < 150.0).all()


def test_chains_start_at_draws_of_a_fit(gaussian_problem: lvm.Problem) -> None:
    fit = lvm.fit(gaussian_problem, "full_rank", max_steps=300, tolerance=0, draws=100, progress=False)
    chains = run(gaussian_problem, init=fit, warmup=0, draws=5)
    assert abs(float(values(chains, "a").mean())) < 3
    again = run(gaussian_problem, init=fit, warmup=0, draws=5)
    np.testing.assert_array_equal(values(chains), values(again))


@pytest.mark.parametrize("init", [{"a": 1.0}, 3, "prior"])
def test_wrong_starts_are_refused(gaussian_problem: lvm.Problem, init: Any) -> None:
    with pytest.raises(lvm.ArgumentError, match="init"):
        run(gaussian_problem, init=init)


def test_a_start_outside_the_support_is_refused() -> None:
    with pytest.raises(lvm.PyrolvmError, match="Fix:"):
        run(
            lvm.Problem(bounded, Y),
            init={"share": 1.5, "parts": torch.ones(3) / 3, "width": 1.0, "edge": 0.0},
            warmup=0,
            draws=2,
        )


def test_no_finite_start_names_the_site() -> None:
    def wall(y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)
        pyro.factor("wall", torch.where(a > 50, 0.0, -float("inf")))

    with pytest.raises(lvm.PyrolvmError, match="wall"):
        run(lvm.Problem(wall, torch.tensor(0.0)))


# --- learnable parameters, dtype, arguments ---------------------------------------------------------------------------


def test_a_parameter_without_a_prior_is_refused_by_name() -> None:
    with pytest.raises(lvm.ProblemError, match=r"learnable parameters without priors.*noise.*Fix:.*init=fit"):
        run(lvm.Problem(with_param, Y))


def test_a_parameter_is_held_at_the_value_of_a_fit() -> None:
    problem = lvm.Problem(with_param, Y)
    fit = lvm.fit(problem, "mean_field", max_steps=200, tolerance=0, draws=50, progress=False)
    chains = run(problem, init=fit, warmup=60, draws=100)
    noise = fit.params["noise"].exp()
    assert torch.equal(chains.params["noise"], fit.params["noise"])
    mean = torch.as_tensor(values(chains, "mean"))
    wanted = dist.Normal(0.0, 3.0).log_prob(mean) + dist.Normal(mean[..., None], noise).log_prob(Y).sum(-1)
    np.testing.assert_allclose(chains.log_p, wanted.numpy(), rtol=1e-4)
    assert list(pyro.get_param_store().keys()) == []


def test_float64_runs_in_float64(gaussian_problem: lvm.Problem) -> None:
    chains = run(gaussian_problem, dtype=torch.float64, warmup=10, draws=5)
    assert {str(v.dtype) for v in chains.data["posterior"].data_vars.values()} == {"float64"}
    assert torch.get_default_dtype() == torch.float32


def test_a_subsampling_plate_is_run_on_all_rows_with_a_warning() -> None:
    def own(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 10.0))
        with pyro.plate("row", len(y), subsample_size=2) as rows:
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y[rows])

    with pytest.warns(lvm.PyrolvmWarning, match="'row' subsamples its 4 rows"):
        chains = run(lvm.Problem(own, Y), warmup=60, draws=100)
    assert chains.data["log_likelihood"]["y"].sizes["row"] == 4
    mean = torch.as_tensor(values(chains, "mean"))
    wanted = dist.Normal(0.0, 10.0).log_prob(mean) + dist.Normal(mean[..., None], 1.0).log_prob(Y).sum(-1)
    np.testing.assert_allclose(chains.log_p, wanted.numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chains", 0), ("chains", 1.5), ("draws", 0), ("draws", True), ("warmup", -1), ("seed", -1), ("max_tree_depth", 0),
        ("target_accept", 0), ("target_accept", 1), ("target_accept", 1.2), ("target_accept", "high"),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(gaussian_problem: lvm.Problem, name: str, value: Any) -> None:
    with pytest.raises(lvm.ArgumentError, match=f"{name}.*Fix:"):
        run(gaussian_problem, **{name: value})


def test_unknown_engines_are_refused(gaussian_problem: lvm.Problem) -> None:
    with pytest.raises(lvm.UnknownNameError, match="engine"):
        run(gaussian_problem, engine="warp")


def test_what_is_no_device_is_refused(gaussian_problem: lvm.Problem) -> None:
    with pytest.raises(lvm.ArgumentError, match="device"):
        run(gaussian_problem, device="gpu")


def test_only_discrete_latents_are_refused() -> None:
    def switches(y: Tensor) -> None:
        with pyro.plate("row", len(y)):
            on = pyro.sample("on", dist.Bernoulli(y.new_tensor(0.3)))
            pyro.sample("y", dist.Normal(on, 1.0), obs=y)

    with pytest.raises(lvm.ProblemError, match="no continuous latent site"):
        run(lvm.Problem(switches, Y))


@pytest.mark.parametrize("engine", ["auto", "jax", "pyro"])
def test_progress_is_told_of_all_transitions(gaussian_problem: lvm.Problem, engine: str) -> None:
    calls: list[tuple[int, int, str]] = []

    def progress(done: int, total: int, text: str) -> None:
        calls.append((done, total, text))

    run(gaussian_problem, engine=engine, progress=progress)
    assert calls[-1][:2] == (100, 100)
    assert calls[-1][2].startswith("sampling")


def test_a_frame_needs_a_short_warmup_only() -> None:
    problem = lvm.Problem(gaussian, torch.tensor(1.0))
    assert lvm.nuts(problem, chains=1, draws=20, progress=False).data["posterior"].attrs["warmup"] == 300
    plain = lvm.nuts(problem, chains=1, draws=20, precondition="none", progress=False)
    assert plain.data["posterior"].attrs["warmup"] == 1000
    asked = lvm.nuts(problem, chains=1, draws=20, warmup=50, progress=False)
    assert asked.data["posterior"].attrs["warmup"] == 50
    with pytest.raises(lvm.ArgumentError, match="integer of at least 0, got 'long'"):
        lvm.nuts(problem, warmup="long", progress=False)
