"""Leave-one-out where latents tie rows together, against closed forms, filters and grids: walks, processes, crossed effects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import halfnorm, norm, poisson
from torch import Tensor

import pyrolvm as lvm

QUIET: dict[str, Any] = {"progress": False}


def by(method: str, problem: lvm.Problem, **chains: int) -> lvm.Posterior:
    """A posterior by chains of such options, or by a guide."""
    return lvm.nuts(problem, **chains, **QUIET) if method == "nuts" else lvm.fit(problem, method, **QUIET)


GENERATOR = torch.Generator().manual_seed(3)
STEPS = 16
WALK = (0.5 * torch.randn(STEPS, generator=GENERATOR)).cumsum(0)
WALK[7] += 2.0
TIME = np.arange(1, STEPS + 1)
PLACES = torch.linspace(0.0, 5.0, STEPS)
COUNTS = torch.poisson((0.4 * torch.randn(24, generator=GENERATOR)).cumsum(0).add(1.0).exp(), generator=GENERATOR)
COUNTS[11] += 9
READER, ITEM = torch.arange(48) % 16, (torch.arange(48) * 5 + torch.arange(48) // 16) % 12
MARKS = (
    1.2 * torch.randn(16, generator=GENERATOR)[READER]
    + torch.randn(12, generator=GENERATOR)[ITEM]
    + 0.7 * torch.randn(48, generator=GENERATOR)
)
MARKS[5] = 5.0


def cumulated(y: Tensor) -> None:
    step = pyro.sample("step", dist.Normal(torch.zeros(len(y)), 0.5).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(step.cumsum(0), 0.3), obs=y)


def one_by_one(y: Tensor) -> None:
    x: Tensor = torch.tensor(0.0)
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Normal(x, 0.5))
        pyro.sample(f"y_{t}", dist.Normal(x, 0.3), obs=y[t])


def kernel(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * (x[:, None] - x) ** 2) + 1e-4 * torch.eye(len(x))


def process(y: Tensor) -> None:
    f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(len(y)), kernel(PLACES)))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(f, 0.3), obs=y)


def crossed(y: Tensor) -> None:
    middle = pyro.sample("middle", dist.Normal(0.0, 3.0))
    with pyro.plate("readers", 16):
        reader = pyro.sample("reader", dist.Normal(0.0, 1.2))
    with pyro.plate("items", 12):
        item = pyro.sample("item", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(middle + reader[READER] + item[ITEM], 0.7), obs=y)


def counted(y: Tensor) -> None:
    spread = pyro.sample("spread", dist.HalfNormal(0.5))
    start = pyro.sample("start", dist.Normal(0.0, 2.0))
    step = pyro.sample("step", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson((start + spread * step.cumsum(0)).exp()), obs=y)


def gaussian_rows(covariance: np.ndarray, y: Tensor) -> np.ndarray:
    precision = np.linalg.inv(covariance)
    gap, variance = precision @ y.double().numpy(), 1 / np.diag(precision)
    return np.asarray(-0.5 * np.log(2 * np.pi * variance) - 0.5 * gap**2 * variance)


def same(label: Tensor) -> np.ndarray:
    return np.asarray((label[:, None] == label).double().numpy())


WALKED = gaussian_rows(0.25 * np.minimum(TIME[:, None], TIME) + 0.09 * np.eye(STEPS), WALK)
PROCESS = gaussian_rows(kernel(PLACES.double()).numpy() + 0.09 * np.eye(STEPS), WALK)
CROSSED = gaussian_rows(9.0 + 1.44 * same(READER) + same(ITEM) + 0.49 * np.eye(48), MARKS)


def filtered_counts(y: np.ndarray) -> np.ndarray:
    """By a filter forwards and backwards on a grid of the state, for each of some spreads, which are summed over."""
    grid = np.linspace(-5.0, 6.0, 441)
    cell, seen = grid[1] - grid[0], poisson.logpmf(y[:, None], np.exp(grid))
    whole, without = [], []
    for spread in np.exp(np.linspace(np.log(0.02), np.log(2.5), 50)):
        gap = grid[:, None] - grid
        moves = norm.cdf((gap + cell / 2) / spread) - norm.cdf((gap - cell / 2) / spread)
        moves /= moves.sum(1, keepdims=True)
        state, level, before = norm.pdf(grid, 0.0, 2.0) * cell, 0.0, []
        for term in seen:
            state = state @ moves
            before.append((state, level))
            state = state * np.exp(term)
            state, level = state / state.sum(), level + np.log(state.sum())
        after, later, rows = np.ones_like(grid), 0.0, np.empty(len(y))
        for t in reversed(range(len(y))):
            rows[t] = np.log(before[t][0] @ after) + before[t][1] + later
            after = moves @ (after * np.exp(seen[t]))
            after, later = after / after.max(), later + np.log(after.max())
        prior = halfnorm.logpdf(spread, scale=0.5) + np.log(spread)
        whole.append(prior + level)
        without.append(prior + rows)
    return np.asarray(logsumexp(whole) - logsumexp(without, axis=0))


@pytest.mark.parametrize(
    ("model", "wanted"), [(cumulated, WALKED), pytest.param(process, PROCESS, marks=pytest.mark.slow)]
)
def test_walks_and_processes_are_integrated_out(model: Any, wanted: np.ndarray) -> None:
    posterior = lvm.exact(lvm.Problem(model, WALK), draws=300, **QUIET)
    found, raw = posterior.loo(), posterior.loo(integrate=False, moment_match=False)
    np.testing.assert_allclose(found.rows["elpd"], wanted, atol=2e-3)
    assert len(found.integrated) == 1 and found.verdict.trusted
    assert np.abs(raw.rows["elpd"] - wanted).max() > 0.5


@pytest.mark.slow
def test_sites_of_one_value_each_are_a_row_each() -> None:
    found = lvm.exact(lvm.Problem(one_by_one, WALK), draws=300, **QUIET).loo()
    assert found.rows["elpd"].dims == ("site",) and list(found.rows["site"].values[:2]) == ["y_0", "y_1"]
    np.testing.assert_allclose(found.rows["elpd"], WALKED, atol=2e-3)
    assert len(found.integrated) == STEPS and "x_0, x_1, x_2, x_3, x_4 and 11 more" in str(found.verdict)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nuts", "mean_field", "full_rank"])
def test_crossed_effects_are_integrated_out(method: str) -> None:
    problem = lvm.Problem(crossed, MARKS)
    posterior = by(method, problem, chains=2, warmup=300, draws=500)
    found = posterior.loo()
    assert found.integrated and found.verdict.trusted
    assert found.elpd == pytest.approx(CROSSED.sum(), abs=0.3)
    assert np.abs(found.rows["elpd"] - CROSSED).max() < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nuts", "full_rank"])
def test_a_walk_of_counts_with_an_unknown_spread(method: str) -> None:
    problem = lvm.Problem(counted, COUNTS)
    posterior = by(method, problem, chains=4, warmup=500, draws=1_000)
    found, wanted = posterior.loo(), filtered_counts(COUNTS.numpy())
    assert "step" in found.integrated
    off = np.abs(found.rows["elpd"].values - wanted)
    assert not found.verdict.trusted or (off.max() < 0.25 and abs(found.elpd - wanted.sum()) < 0.5)
    raw = posterior.loo(integrate=False, moment_match=False)
    assert abs(raw.elpd - wanted.sum()) > abs(found.elpd - wanted.sum())


@pytest.mark.slow
def test_rows_of_two_predictors_are_not_taken_apart() -> None:
    def both(y: Tensor) -> None:
        step = pyro.sample("step", dist.Normal(torch.zeros(len(y)), 0.5).to_event(1))
        bend = pyro.sample("bend", dist.Normal(torch.zeros(len(y)), 0.5).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(step.cumsum(0), bend.cumsum(0).exp()), obs=y)

    found = lvm.fit(lvm.Problem(both, WALK), "mean_field", max_steps=100, draws=300, engine="pyro", **QUIET).loo()
    assert "bend" not in found.integrated or "step" not in found.integrated
