"""Posteriors that are wrong on purpose must be caught: by their own diagnosis, and against a reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

ROWS, BATCH, PRIOR_SD = 200, 20, 3.0
SHAPE, RATE = 3.0, 1.0

Guide = Callable[..., Any]


def normal_mean(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), PRIOR_SD))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def positive_rate(y: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(y.new_tensor(SHAPE), RATE))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def at(problem: lvm.Problem, name: str, fn: Callable[[Any], Any]) -> lvm.Fit:
    """The fit of a guide that is what it is: one step of no size."""
    site = problem.latents[0].name

    def guide(y: Tensor) -> None:
        nothing = pyro.param("nothing", lambda: torch.zeros((), dtype=y.dtype))
        pyro.sample(site, fn(0.0 * nothing))

    guide.__name__ = name
    return lvm.fit(problem, guide, max_steps=1, tolerance=0, learning_rate=1e-12, progress=False, seed=5)


def objections(fit: lvm.Fit) -> list[str]:
    """What the diagnosis has against the draws themselves: not that one step is no optimisation."""
    reasons = lvm.diagnose(fit).verdict.reasons
    return [reason.text for reason in reasons if reason.status != "trusted" and "steps" not in reason.figures]


@pytest.fixture(scope="module")
def mean_problem() -> lvm.Problem:
    generator = torch.Generator().manual_seed(6)
    return lvm.Problem(normal_mean, 0.7 + torch.randn(ROWS, generator=generator, dtype=torch.float64))


@pytest.fixture(scope="module")
def rate_problem() -> lvm.Problem:
    return lvm.Problem(positive_rate, torch.tensor([1.0, 0.0, 2.0, 1.0], dtype=torch.float64))


def exact_mean(y: Tensor) -> tuple[Tensor, float]:
    precision = len(y) + PRIOR_SD**-2
    return y.sum() / precision, precision**-0.5


@pytest.fixture(scope="module")
def right_mean(mean_problem: lvm.Problem) -> lvm.Fit:
    loc, sd = exact_mean(mean_problem.args[0])
    return at(mean_problem, "right", lambda nothing: dist.Normal(loc + nothing, sd))


@pytest.fixture(scope="module")
def right_rate(rate_problem: lvm.Problem) -> lvm.Fit:
    y = rate_problem.args[0]
    return at(rate_problem, "right", lambda nothing: dist.Gamma(SHAPE + y.sum() + nothing, RATE + len(y)))


def again(fit: lvm.Fit) -> Any:
    """Other draws of the same posterior."""
    return fit.sample(4000, seed=77)


def caught(wrong: lvm.Fit, right: lvm.Fit) -> None:
    assert objections(right) == []
    assert objections(wrong) != []
    assert wrong.verdict.status in ("doubtful", "failed")
    report = lvm.compare({"wrong": wrong, "right": right}, reference="right")
    assert set(report.table["status"]) == {"differs"}
    assert report.methods.loc["wrong", "agrees"] == 0


def test_the_right_posterior_is_not_accused(right_mean: lvm.Fit, right_rate: lvm.Fit) -> None:
    for fit in (right_mean, right_rate):
        assert objections(fit) == []
        other = fit.data.copy(deep=True)
        site = next(iter(fit.data["posterior"].data_vars))
        other["posterior"][site][:] = again(fit)[site].values
        report = lvm.compare({"again": other, "right": fit}, reference="right")
        assert set(report.table["status"]) == {"agrees"}


def test_a_fit_of_the_right_family_is_not_accused(mean_problem: lvm.Problem, right_mean: lvm.Fit) -> None:
    fit = lvm.fit(mean_problem, "mean_field", max_steps=900, seed=1, progress=False)
    assert objections(fit) == []
    report = lvm.compare({"fit": fit, "right": right_mean}, reference="right")
    assert set(report.table["status"]) == {"agrees"}


def test_prior_as_posterior(mean_problem: lvm.Problem, right_mean: lvm.Fit) -> None:
    caught(at(mean_problem, "prior", lambda nothing: dist.Normal(nothing, PRIOR_SD)), right_mean)


def test_prior_as_posterior_of_a_rate(rate_problem: lvm.Problem, right_rate: lvm.Fit) -> None:
    caught(at(rate_problem, "prior", lambda nothing: dist.Gamma(SHAPE + nothing, RATE)), right_rate)


@pytest.mark.parametrize("factor", [1.3, 1 / 1.3])
def test_sd_off_by_a_third(mean_problem: lvm.Problem, right_mean: lvm.Fit, factor: float) -> None:
    loc, sd = exact_mean(mean_problem.args[0])
    caught(at(mean_problem, "wide", lambda nothing: dist.Normal(loc + nothing, factor * sd)), right_mean)


def test_scale_of_the_minibatch_left_out(mean_problem: lvm.Problem, right_mean: lvm.Fit) -> None:
    """By hand: every step sees a tenth of the rows, and nothing says that they stand for all."""
    y = mean_problem.args[0]

    def forgot_the_scale(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), PRIOR_SD))
        rows = torch.randperm(ROWS)[:BATCH]
        with pyro.plate("row", BATCH):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y[rows])

    # A program that takes other rows in every run is refused, since it has no density; what its steps would reach is found out too.
    with pytest.raises(lvm.ProblemError, match="observes other values"):
        lvm.fit(lvm.Problem(forgot_the_scale, y), "mean_field", max_steps=600, progress=False)
    sd = (BATCH + PRIOR_SD**-2) ** -0.5
    wrong = at(mean_problem, "no_scale", lambda nothing: dist.Normal(BATCH * y.mean() * sd**2 + nothing, sd))
    caught(wrong, right_mean)


def test_dropped_jacobian(rate_problem: lvm.Problem, right_rate: lvm.Fit) -> None:
    """The density of the rate taken for that of its logarithm: Gamma(a - 1, b) in place of Gamma(a, b)."""
    y = rate_problem.args[0]
    shape, rate = float(SHAPE + y.sum()), RATE + len(y)
    # By quadrature on the log scale, so that the claim above is not taken on trust.
    u = torch.linspace(-8.0, 4.0, 20_001, dtype=torch.float64)
    density = (dist.Gamma(shape, rate).log_prob(u.exp())).exp()
    mean = float((u.exp() * density).sum() / density.sum())
    assert mean == pytest.approx((shape - 1) / rate, rel=1e-6)
    caught(
        at(rate_problem, "no_jacobian", lambda nothing: dist.Gamma(y.new_tensor(shape - 1) + nothing, rate)), right_rate
    )


def test_wrong_posteriors_are_caught_by_chains_too(mean_problem: lvm.Problem) -> None:
    """NUTS as the reference, as a user would have it."""
    loc, sd = exact_mean(mean_problem.args[0])
    chains = lvm.nuts(mean_problem, chains=4, warmup=100, draws=400, seed=3, progress=False)
    posteriors = {
        "nuts": chains,
        "right": at(mean_problem, "right", lambda nothing: dist.Normal(loc + nothing, sd)),
        "wide": at(mean_problem, "wide", lambda nothing: dist.Normal(loc + nothing, 1.3 * sd)),
        "prior": at(mean_problem, "prior", lambda nothing: dist.Normal(nothing, PRIOR_SD)),
    }
    table = lvm.compare(posteriors, reference="nuts").table.set_index("method")
    assert table.loc["right", "status"] != "differs"
    assert table.loc["wide", "status"] == "differs"
    assert table.loc["prior", "status"] == "differs"
    assert abs(float(chains.data["posterior"]["mean"].mean()) - float(loc)) < 0.2 * sd
    assert float(chains.data["posterior"]["mean"].std()) == pytest.approx(sd, rel=0.15)


def test_discrete_prior_left_out_of_the_sum_is_caught() -> None:
    """A mixture whose weights are ignored by hand is not the posterior with the weights summed in."""
    y = torch.tensor([2.1, 1.8, 2.4, -0.2], dtype=torch.float64)

    def shifted(y: Tensor) -> None:
        jump = pyro.sample("jump", dist.Normal(y.new_tensor(0.0), 3.0))
        with pyro.plate("row", len(y)):
            on = pyro.sample("on", dist.Bernoulli(y.new_tensor(0.9)))
            pyro.sample("y", dist.Normal(on * jump, 0.5), obs=y)

    problem = lvm.Problem(shifted, y)
    grid = torch.linspace(-3, 6, 20_001, dtype=torch.float64)

    def moments(weight: float) -> tuple[Tensor, Tensor]:
        on = dist.Normal(grid[:, None], 0.5).log_prob(y) + math.log(weight)
        off = dist.Normal(torch.zeros_like(grid)[:, None], 0.5).log_prob(y) + math.log1p(-weight)
        log_density = torch.logaddexp(on, off).sum(-1) + dist.Normal(0.0, 3.0).log_prob(grid)
        density = (log_density - log_density.max()).exp()
        density /= density.sum()
        mean = (grid * density).sum()
        return mean, ((grid - mean) ** 2 * density).sum().sqrt()

    right_loc, right_sd = moments(0.9)
    fit = lvm.fit(problem, "full_rank", max_steps=900, seed=0, progress=False)
    draws = fit.sample(20_000)["jump"].values
    assert draws.mean() == pytest.approx(float(right_loc), abs=0.1 * float(right_sd))
    assert draws.std() == pytest.approx(float(right_sd), rel=0.1)
