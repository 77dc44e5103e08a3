"""``lvm.evidence``: known values, verdicts, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from marginal_models import doubles

import pyrolvm as lvm

QUIET = {"progress": False}


def close(found, exact, times=4.0):
    return abs(found.value - exact) < times * found.error


# --- known values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["prior", "importance", "ais", "bridge"])
@pytest.mark.parametrize("name", ["rates", "regression"])
def test_estimates_are_right_within_their_errors(name, method, request):
    problem, exact = request.getfixturevalue(name)
    found = lvm.evidence(problem, method, draws=2000 if method == "prior" else None, seed=2, **QUIET)
    if name == "regression" and method == "prior":
        assert close(found, exact) or not found.reliable
        return
    assert close(found, exact) and found.error < 0.1 and found.reliable
    assert found.evaluations > 0 and found.seconds > 0
    course = found.trace
    assert course["evaluations"].is_monotonic_increasing
    assert course["value"].iloc[-1] == pytest.approx(found.value)
    assert course["error"].iloc[-1] < course["error"].iloc[0]


def test_the_exact_value_is_taken_where_there_is_one(regression):
    problem, exact = regression
    found = lvm.evidence(problem, **QUIET)
    assert found.method == "exact inference" and found.value == pytest.approx(exact, abs=1e-9)


def test_annealing_starts_at_any_posterior(rates, fit, chains):
    _, exact = rates
    for posterior in (fit, chains):
        found = lvm.evidence(posterior, "ais", draws=500, **QUIET)
        assert close(found, exact) and found.reliable and posterior.name in found.method
    from_prior = lvm.evidence(fit, "ais", draws=500, base="prior", **QUIET)
    assert close(from_prior, exact) and "prior" in from_prior.method


def test_auto_suits_the_posterior(rates, fit, chains):
    _, exact = rates
    assert "importance" in lvm.evidence(fit, **QUIET).method
    assert "bridge" in lvm.evidence(chains, **QUIET).method
    assert lvm.evidence(lvm.exact(rates[0], **QUIET)).value == pytest.approx(exact, abs=1e-9)


def test_annealing_sees_both_modes_where_a_bridge_has_one(two_modes):
    problem, exact = two_modes
    annealed = lvm.evidence(problem, "ais", **QUIET)
    assert close(annealed, exact) and annealed.reliable
    start = lvm.nuts(problem, init={"place": torch.tensor(2.0)}, precondition="none", draws=400, warmup=200, **QUIET)
    assert (start.data["posterior"]["place"] > 0).all()
    assert lvm.evidence(start, "bridge", **QUIET).value == pytest.approx(exact - math.log(2), abs=0.1)


def test_bounds_stay_below(rates):
    problem, exact = rates
    fit = lvm.fit(problem, lvm.guide("mean_field", precondition="none"), **QUIET)
    found = lvm.evidence(fit, "iw_bound", **QUIET)
    assert found.lower == found.value and found.interval[0] <= exact
    assert found.figures["elbo"] < found.value
    assert found.figures["elbo"] == pytest.approx(
        fit.elbo, abs=5 * math.hypot(found.figures["elbo_error"], fit.elbo_error)
    )
    assert (found.trace["value"] - 3 * found.trace["error"] <= exact).all()


def test_a_sandwich_holds_the_exact_value_of_simulated_data(regression):
    problem, _ = regression
    found = lvm.evidence(problem, "bidirectional", draws=400, seed=1, **QUIET)
    truth = lvm.exact(found.problem, **QUIET).evidence.value
    low, high = found.interval
    assert low <= truth <= high and abs(found.value - truth) < 0.15
    assert found.upper - found.lower < 0.3
    assert not torch.equal(found.problem.args[1], problem.args[1])


def test_annealing_takes_the_rungs_it_is_given(regression):
    problem, exact = regression
    betas = list(np.linspace(0, 1, 61)[1:] ** 3)
    found = lvm.evidence(problem, "ais", draws=500, schedule=betas, **QUIET)
    assert found.figures["rungs"] == 60 and close(found, exact)
    assert lvm.evidence(problem, "ais", draws=200, schedule=25, **QUIET).figures["rungs"] == 25


def test_prior_draws_say_that_they_fail_in_twenty_dimensions(twenty):
    problem, exact = twenty
    found = lvm.evidence(problem, "prior", **QUIET)
    assert found.verdict.status == "failed" and found.value < exact
    assert found.figures["ess"] < 20 and "few draws" in str(found.verdict) and "ais" in str(found.verdict)
    annealed = lvm.evidence(problem, "ais", draws=300, **QUIET)
    assert close(annealed, exact) and annealed.reliable


def test_infinitely_many_discrete_values_are_drawn_from_the_prior():
    def counts(y):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        count = pyro.sample("count", dist.Poisson(rate))
        pyro.sample("y", dist.Normal(count, 1.0), obs=y)

    problem = lvm.Problem(counts, doubles(2.0))
    # The count's marginal is negative binomial: (k + 1) / 2^(k + 2).
    k = np.arange(60)
    exact = np.log(np.sum((k + 1) / 2.0 ** (k + 2) * np.exp(-0.5 * (2.0 - k) ** 2) / math.sqrt(2 * math.pi)))
    assert close(lvm.evidence(problem, "prior", **QUIET), exact)
    with pytest.raises(lvm.ProblemError, match=r"'count'.*infinitely"):
        lvm.evidence(problem, "ais", **QUIET)


def test_learnable_parameters_are_held_at_those_of_the_fit():
    y = doubles([0.5, 1.5, 2.5, 0.1])

    def learned(y):
        scale = pyro.param("scale", torch.tensor(1.0, dtype=y.dtype), constraint=dist.constraints.positive)
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, scale))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    problem = lvm.Problem(learned, y)
    fit = lvm.fit(problem, "mean_field", max_steps=600, **QUIET)
    scale = float(fit.params["scale"].exp())
    exact = float(dist.Normal(0.0, math.sqrt(1 + scale**2)).log_prob(y).sum())
    assert scale != pytest.approx(1.0, abs=0.05)
    for method in ("importance", "ais"):
        assert close(lvm.evidence(fit, method, draws=500, **QUIET), exact, times=5)
    assert close(lvm.evidence(problem, "ais", params=fit, draws=500, **QUIET), exact)
    with pytest.raises(lvm.ProblemError, match="learnable"):
        lvm.evidence(problem, "bridge", **QUIET)


# --- what holds for all -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("method", ["prior", "ais", "iw_bound", "bidirectional"])
def test_a_seed_gives_the_same_estimate(method, rates, fit):
    subject = fit if method == "iw_bound" else rates[0]
    one, same, other = (lvm.evidence(subject, method, draws=200, seed=seed, **QUIET) for seed in (5, 5, 6))
    assert one == same
    assert one.value != other.value


def test_a_fit_has_the_evidence_of_its_own_draws(fit, rates):
    own, fresh = fit.evidence, lvm.evidence(fit, **QUIET)
    assert close(own, rates[1], times=5) and own.method == "importance sampling"
    assert own.error > 0 and own.figures["khat"] == pytest.approx(fit.khat)
    np.testing.assert_allclose(own.value, fresh.value, atol=5 * (own.error + fresh.error))


def test_several_methods_stand_in_one_table_and_one_picture(rates, tmp_path):
    problem, exact = rates
    found = lvm.evidence(problem, ["prior", "ais"], draws=400, **QUIET)
    assert found.exact == pytest.approx(exact, abs=1e-8)
    table = found.table
    assert list(table.index) == ["prior", "ais"] and table["inside"].all()
    np.testing.assert_allclose(table["off"], table["value"] - exact, atol=1e-8)
    figure = found.plot(tmp_path / "evidence.png")
    assert (tmp_path / "evidence.png").stat().st_size > 5_000
    assert all(any(np.allclose(line.get_ydata(), found.exact) for line in axes.lines) for axes in figure.axes)
    assert len(figure.axes[0].lines) == 3
    assert "ais" in str(found) and set(found.as_dict()["methods"]) == {"prior", "ais"}
    found["ais"].plot(exact=exact)


def test_what_cannot_be_believed_does_not_flatten_the_picture(twenty):
    problem, exact = twenty
    found = lvm.Evidences(
        {name: lvm.evidence(problem, name, draws=200, **QUIET) for name in ("prior", "importance")}, exact
    )
    assert not found["prior"].reliable and found["importance"].reliable
    whole, closer = found.plot().axes
    assert len(whole.lines) == 3 and len(closer.lines) == 2
    low, high = closer.get_ylim()
    assert low < exact < high and high - low < 1 < np.ptp(whole.get_ylim())


def test_evidences_of_other_data_are_not_compared(regression):
    problem, _ = regression
    one = lvm.evidence(problem, "bidirectional", draws=50, schedule=5, **QUIET)
    with pytest.raises(lvm.ArgumentError, match="different data"):
        lvm.Evidences({"simulated": one, "real": lvm.evidence(problem, **QUIET)})
    with pytest.raises(lvm.ArgumentError, match="expected an Evidence"):
        lvm.Evidences({"a": 1.0})
    with pytest.raises(lvm.ArgumentError, match="no course"):
        lvm.evidence(problem, **QUIET).plot()


# --- what is refused --------------------------------------------------------------------------------------------------


def flat(y):
    place = pyro.sample("place", dist.ImproperUniform(dist.constraints.real, (), ()))
    pyro.sample("y", dist.Normal(place, 1.0), obs=y)


def masked(y):
    place = pyro.sample("place", dist.Normal(0.0, 1.0).mask(False))
    pyro.sample("y", dist.Normal(place, 1.0), obs=y)


def scaled(y):
    with pyro.poutine.scale(scale=0.5):
        place = pyro.sample("place", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(place, 1.0), obs=y)


@pytest.mark.parametrize("model", [flat, masked, scaled], ids=lambda model: model.__name__)
@pytest.mark.parametrize("method", ["auto", "prior", "ais", "bridge", "importance"])
def test_an_improper_prior_has_no_evidence_and_its_site_is_named(model, method):
    with pytest.raises(lvm.ProblemError, match=r"'place'.*not defined.*Fix:"):
        lvm.evidence(lvm.Problem(model, doubles(0.3)), method, **QUIET)


def test_a_mask_on_data_is_no_mask_on_the_prior():
    def missing(y, seen):
        place = pyro.sample("place", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)), pyro.poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(place, 1.0), obs=y)

    problem = lvm.Problem(missing, doubles([0.3, 9.0]), torch.tensor([True, False]))
    exact = float(dist.Normal(0.0, math.sqrt(2.0)).log_prob(torch.tensor(0.3)))
    assert close(lvm.evidence(problem, "ais", draws=300, **QUIET), exact)
    assert close(lvm.evidence(problem, "prior", **QUIET), exact)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "aiss"}, "did you mean 'ais'"),
        ({"method": "ais", "draws": 2}, "draws must be"),
        ({"method": "ais", "seed": -1}, "seed must be"),
        ({"method": "ais", "base": "guide"}, "no base is called"),
        ({"method": "ais", "base": "posterior"}, "needs a posterior"),
        ({"method": "prior", "base": "prior"}, "has no base"),
        ({"method": "bridge", "schedule": 10}, "has no schedule"),
        ({"method": "ais", "schedule": [0.5, 0.2, 1.0]}, "must rise"),
        ({"method": "ais", "schedule": [0.0, 1.0]}, "must rise"),
        ({"method": "ais", "schedule": [0.5]}, "must rise"),
        ({"method": "ais", "schedule": 1}, "schedule must be"),
        ({"method": ["ais", "bidirectional"]}, "simulated data"),
        ({"method": ["ais", "nothing"]}, "no evidence method"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(options, message, rates):
    with pytest.raises((lvm.ArgumentError, lvm.UnknownNameError), match=message):
        lvm.evidence(rates[0], **options, **QUIET)


def test_chains_have_no_weights(chains):
    with pytest.raises(lvm.ArgumentError, match=r"no density that its draws are from.*bridge"):
        lvm.evidence(chains, "importance", **QUIET)
    with pytest.raises(lvm.ArgumentError, match="params are those"):
        lvm.evidence(chains, params={}, **QUIET)


def test_discrete_latents_alone_are_exact():
    def die(y):
        face = pyro.sample("face", dist.Categorical(torch.ones(3, dtype=y.dtype) / 3))
        pyro.sample("y", dist.Normal(face.to(y.dtype), 1.0), obs=y)

    problem = lvm.Problem(die, doubles(2.0))
    exact = math.log(sum(math.exp(-0.5 * (2 - k) ** 2) for k in range(3)) / 3) - 0.5 * math.log(2 * math.pi)
    assert lvm.evidence(problem, **QUIET).value == pytest.approx(exact)
    with pytest.raises(lvm.ProblemError, match="exact"):
        lvm.evidence(problem, "ais", **QUIET)


def test_a_bare_model_is_refused():
    with pytest.raises(lvm.ArgumentError, match="expected a Problem"):
        lvm.evidence(flat, **QUIET)
