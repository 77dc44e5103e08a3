"""The metric of many unknowns: what draws and scores tell of scales and directions, and chains that sample in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._methods.nuts.base import LowRank
from pyrolvm._methods.nuts.metric import _that_pay, matched

N, RANK, COUNT = 60, 3, 400


def _gaussian(size: int, rank: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Scales and a covariance that is their square and more along a few directions, in all that an unknown has its own share of."""
    random = np.random.default_rng(3)
    scale = np.exp(random.normal(size=size))
    directions = random.normal(size=(size, rank)) * np.array([8.0, 4.0, 2.0])[:rank] / np.sqrt(size) * 3
    return scale, scale[:, None] * (np.eye(size) + directions @ directions.T) * scale


def _drawn(covariance: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    random = np.random.default_rng(4)
    draws = 5.0 + random.normal(size=(COUNT, len(covariance))) @ np.linalg.cholesky(covariance).T
    return draws, -np.linalg.solve(covariance, (draws - 5.0).T).T


def _condition(metric: LowRank, covariance: np.ndarray[Any, Any]) -> float:
    """The condition number that is left in the metric's coordinates."""
    inverse = metric.inverse(metric.mean + np.eye(len(covariance)))
    return float(np.linalg.cond(inverse.T @ covariance @ inverse))


def test_a_gaussian_of_few_directions_is_found_from_draws_and_scores() -> None:
    _, covariance = _gaussian(N, RANK)
    metric = matched(*_drawn(covariance))
    assert metric is not None
    scales = np.sqrt(np.diag(covariance))
    before = np.linalg.cond(covariance / np.outer(scales, scales))
    assert before > 50
    assert _condition(metric, covariance) < 4
    np.testing.assert_allclose(metric.variances, np.diag(covariance), rtol=0.35)


def test_the_coordinates_of_a_metric_come_back() -> None:
    _, covariance = _gaussian(N, RANK)
    draws, scores = _drawn(covariance)
    metric = matched(draws, scores)
    assert metric is not None and metric.basis.shape[1] >= RANK
    np.testing.assert_allclose(metric.forward(metric.inverse(draws)), draws, rtol=1e-9)
    np.testing.assert_allclose(metric.basis.T @ metric.basis, np.eye(metric.basis.shape[1]), atol=1e-9)
    step = 1e-3 * metric.inverse(draws[:1])
    moved = metric.forward(step) - metric.forward(0 * step)
    np.testing.assert_allclose(np.sum(moved * scores[0]), np.sum(step * metric.pull(scores[0])), rtol=1e-9)


def test_directions_that_cost_more_than_they_save_are_left_out() -> None:
    logs = np.log([900.0, 100.0, 2.0, 1.9, 1.8])
    assert _that_pay(logs, 1.0, 1e-9) == 5
    assert _that_pay(logs, 1.0, 0.1) == 2
    assert _that_pay(logs, 1e-6, 1.0) == 0
    _, covariance = _gaussian(N, RANK)
    draws, scores = _drawn(covariance)
    few, many = matched(draws, scores, 1e-8), matched(draws, scores, 1.0)
    assert few is not None and many is not None
    assert few.basis.shape[1] < many.basis.shape[1]


def test_draws_that_do_not_move_tell_no_metric() -> None:
    draws, scores = _drawn(np.eye(N))
    draws[:, 7] = 1.0
    assert matched(draws, scores) is None


def few(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 1.0))
    pyro.sample("y", dist.Normal(a, 0.5), obs=y)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "more than 500"),
        ({"engine": "jax"}, "gradient in C"),
        ({"dense_mass": True}, "mass matrix"),
        ({"warmup": 100}, "too short"),
    ],
)
def test_a_metric_that_cannot_be_had_is_refused_where_it_is_asked_for(options: dict[str, Any], why: str) -> None:
    with pytest.raises(lvm.ArgumentError, match=f"{why}.*Fix:"):
        lvm.nuts(
            lvm.Problem(few, torch.tensor(1.0)),
            precondition="low_rank",
            progress=False,
            **{"warmup": 200, "draws": 10, **options},
        )


# --- chains -----------------------------------------------------------------------------------------------------------

MANY = 800


def factors(loading: Tensor, scale: Tensor) -> None:
    """A Gaussian of 800 correlated unknowns, told by its density."""
    with pyro.plate("unknown", len(scale)):
        x = pyro.sample("x", dist.Normal(torch.zeros_like(scale), scale))
    along = loading.T @ (x / scale)
    pyro.factor("rest", 0.5 * (along**2 / (1 + (loading**2).sum(0))).sum())


def _factors() -> tuple[lvm.Problem, np.ndarray[Any, Any]]:
    random = np.random.default_rng(5)
    loading = np.linalg.qr(random.normal(size=(MANY, 3)))[0] * np.array([20.0, 10.0, 5.0])
    scale = np.exp(random.normal(size=MANY))
    covariance = np.eye(MANY) + loading @ loading.T  # its inverse is I - sum of l l' / (1 + l'l)
    problem = lvm.Problem(factors, torch.as_tensor(loading), torch.as_tensor(scale))
    return problem, scale * np.sqrt(np.diag(covariance))


@pytest.mark.slow
def test_many_correlated_unknowns_are_sampled_by_short_trajectories() -> None:
    problem, sd = _factors()
    chains = lvm.nuts(problem, warmup=400, draws=500, seed=0, progress=False)
    attrs = chains.data["posterior"].attrs
    assert attrs["sampled_in"].startswith("low rank") and attrs["directions"] >= 3
    assert float(chains.summary()["rhat"].max()) < 1.02  # the largest of 800
    found = chains.data["posterior"]["x"].values.reshape(-1, MANY)
    np.testing.assert_allclose(found.std(axis=0) / sd, 1.0, atol=0.13)
    assert np.abs(found.mean(axis=0) / sd).max() < 0.15
    assert chains.data["sample_stats"]["n_steps"].values.mean() < 20


def groups(y: Tensor, group: Tensor) -> None:
    """Pupils in schools, centred as it is written."""
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(y.new_tensor(2.0)))
    with pyro.plate("group", 600):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(theta[group], 1.0), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.1, 2.0])
def test_groups_are_sampled_in_coordinates_that_know_of_their_data(spread: float) -> None:
    random = np.random.default_rng(6)
    group = np.arange(3_000) % 600
    y = random.normal(1.0 + spread * random.normal(size=600)[group], 1.0)
    problem = lvm.Problem(groups, torch.as_tensor(y), torch.as_tensor(group))
    chains = lvm.nuts(problem, warmup=400, draws=500, seed=0, progress=False)
    assert chains.data["posterior"].attrs["sampled_in"].startswith("low rank")
    assert int(chains.data["sample_stats"]["diverging"].sum()) == 0
    summary = chains.summary()
    assert float(summary.loc["tau", "rhat"]) < 1.03
    means = y.reshape(5, 600).mean(axis=0)
    draws = chains.data["posterior"]
    mu, tau = draws["mu"].values[..., None], draws["tau"].values[..., None]
    share = tau**2 / (tau**2 + 1 / 5)
    wanted = (mu + share * (means - mu)).mean(axis=(0, 1))
    np.testing.assert_allclose(draws["theta"].values.mean(axis=(0, 1)), wanted, atol=0.1)
