"""When parameters have settled, and what their average is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._methods.fit import iterates as module
from pyrolvm._methods.fit.iterates import Iterates, split_rhat


def path(values: np.ndarray) -> Iterates:
    """What following a parameter gives that had these values, one a step."""
    parameter = torch.zeros(values.shape[1:], dtype=torch.float64)
    found = Iterates([parameter])
    for step, value in enumerate(values, start=1):
        parameter.copy_(torch.as_tensor(value))
        found.note(step)
    return found


def circling(count: int, seed: int, memory: float = 0.9) -> np.ndarray:
    """A stationary autoregression around 3."""
    random = np.random.default_rng(seed)
    x = np.empty((count, 2))
    x[0] = random.normal(size=2) / np.sqrt(1 - memory**2)
    for t in range(1, count):
        x[t] = memory * x[t - 1] + random.normal(size=2)
    return 3.0 + 0.1 * x


def test_rhat_is_that_of_two_chains() -> None:
    from arviz_stats.base import array_stats

    values = np.random.default_rng(0).normal(size=(200, 3)).cumsum(axis=0)
    wanted = [array_stats.rhat(column.reshape(2, 100), method="identity") for column in values.T]
    np.testing.assert_allclose(split_rhat(values), wanted, rtol=1e-10)


def test_rhat_of_what_does_not_move() -> None:
    still = np.ones((20, 1))
    jump = np.concatenate([np.zeros((10, 1)), np.ones((10, 1))])
    np.testing.assert_array_equal(split_rhat(np.concatenate([still, jump], axis=1)), [1.0, np.inf])


def test_a_path_that_circles_has_settled_and_one_that_moves_on_has_not() -> None:
    settled = [path(circling(4000, seed)).rhat() < module.STATIONARY for seed in range(20)]
    assert sum(settled) >= 18
    trend = np.linspace(0.0, 2.0, 4000)[:, None]
    moving = [path(circling(4000, seed) + trend).rhat() < module.STATIONARY for seed in range(20)]
    assert sum(moving) == 0


def test_few_records_tell_nothing() -> None:
    assert path(circling(100, 0)).rhat() == np.inf


def test_it_must_be_calm_twice() -> None:
    found = path(circling(4000, 1))
    assert found.rhat() < module.STATIONARY
    assert not found.settled()
    assert found.settled()


def test_long_paths_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_RECORDS", 40)
    found = path(np.arange(1, 2001, dtype=float)[:, None])
    assert found.stride == 80
    assert len(found._records) <= 40
    np.testing.assert_array_equal(np.diff(found.window[:, 0]), 80.0)
    assert all(record[0] % 80 == 0 for record in found._records)


def test_the_average_is_nearer_than_the_last() -> None:
    errors = []
    for seed in range(20):
        found = path(circling(8000, seed))
        errors.append([np.abs(found.average()[0].numpy() - 3).mean(), np.abs(found.window[-1] - 3).mean()])
    average, last = np.mean(errors, axis=0)
    assert average < 0.4 * last


def test_networks_are_not_followed() -> None:
    assert Iterates.of([torch.zeros(module.MOST_NUMBERS + 1)]) is None
    assert Iterates.of([]) is None
    assert Iterates.of([torch.zeros(2, 3)]) is not None


def test_a_noisy_fit_settles_long_before_its_elbo_is_known_to_a_tolerance() -> None:
    """A mean-field guide of strongly correlated unknowns: its ELBO has an sd of nats, its parameters are quickly right."""
    import pyro
    import pyro.distributions as dist

    def ridge(y: torch.Tensor) -> None:
        b = pyro.sample("b", dist.Normal(y.new_zeros(6), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(b.sum(), 0.1), obs=y)

    problem = lvm.Problem(ridge, torch.tensor(2.0, dtype=torch.float64))
    fit = lvm.fit(problem, lvm.guide("mean_field", precondition="none"), learning_rate=0.05, progress=False, seed=1)
    assert fit.converged
    assert "average over these steps is kept" in fit.stop_reason
    assert len(fit.losses) < 8000
    # The optimum is known: the posterior's mean, and one over the precision's diagonal.
    draws = fit.data["posterior"]["b"].values.reshape(-1, 6)
    np.testing.assert_allclose(draws.mean(0), 200 / 601, atol=0.02)
    np.testing.assert_allclose(draws.std(0), 101**-0.5, rtol=0.1)
