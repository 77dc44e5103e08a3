"""Estimates and bounds from log weights alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyrolvm._results.weights import bound_of_weights, from_weights, log_mean_exp


def normal_weights(count, variance, seed=0):
    """Log weights whose exponentials have the mean one."""
    return np.random.default_rng(seed).normal(-variance / 2, math.sqrt(variance), size=count)


def test_the_mean_of_exponentials_does_not_overflow():
    assert float(log_mean_exp(np.array([1000.0, 1000.0 + math.log(3)]))) == pytest.approx(1000 + math.log(2))
    assert float(log_mean_exp(np.full(3, -np.inf))) == -math.inf
    np.testing.assert_allclose(log_mean_exp(np.zeros((2, 5)), axis=1), [0.0, 0.0])


@pytest.mark.parametrize("exactly", [True, False])
def test_stated_errors_are_those_made(exactly):
    found = [from_weights(normal_weights(1000, 0.5, seed), "test", exactly=exactly) for seed in range(150)]
    off, stated = np.array([one.value for one in found]), np.array([one.error for one in found])
    assert 0.9 < np.median(stated) / off.std() < 1.4
    low, high = np.array([one.interval for one in found]).T
    assert np.mean((low <= 0) & (high >= 0)) > 0.9
    assert all(one.reliable for one in found)


def test_errors_allow_for_tails_without_a_variance():
    """Pareto weights with k = 0.6, whose mean is known: their own spread would be far too small."""
    k, inside = 0.6, 0
    for seed in range(120):
        draws = np.random.default_rng(seed).pareto(1 / k, size=4000) + 1
        one = from_weights(np.log(draws * (1 - k)), "test")
        inside += one.interval[0] <= 0 <= one.interval[1]
    assert inside > 0.86 * 120


def test_few_effective_draws_are_said_so():
    one = from_weights(normal_weights(5000, 60.0), "prior draws", remedy="use method='ais'")
    assert one.verdict.status == "failed"
    assert "effective" in str(one.verdict) and one.verdict.next_steps == ("use method='ais'",)
    assert one.figures["ess"] < 10 and one.figures["largest_weight"] > 0.2
    assert "(unreliable)" in str(one)


def test_weights_that_are_not_numbers_fail():
    weights = normal_weights(500, 0.1)
    weights[3] = np.nan
    assert from_weights(weights, "test").verdict.status == "failed"
    assert from_weights(np.full(500, -np.inf), "test").verdict.status == "failed"


def test_draws_without_a_density_have_no_weight():
    weights = np.concatenate([np.zeros(500), np.full(500, -np.inf)])
    one = from_weights(weights, "test", exactly=True)
    assert one.value == pytest.approx(math.log(0.5))
    assert one.error == pytest.approx(1 / math.sqrt(1000), rel=0.05)
    assert one.reliable


def test_equal_weights_have_the_error_of_rounding():
    one = from_weights(np.full(500, -3.0), "test", rounding=1e-12)
    assert one.value == pytest.approx(-3.0) and one.error == 1e-12 and one.reliable


def test_bounds_rise_with_k_and_are_unbiased():
    """Of normal log weights with variance v, the bound of one is -v/2, and that of two known by quadrature."""
    variance = 1.0
    nodes, shares = np.polynomial.hermite_e.hermegauss(60)
    shares = shares / shares.sum()
    logs = -variance / 2 + math.sqrt(variance) * nodes
    two = float(shares @ (np.logaddexp(logs[:, None], logs[None]) - math.log(2)) @ shares)
    found = [bound_of_weights(normal_weights(4096, variance, seed), seed=seed) for seed in range(40)]
    first, second = (np.array([one.trace["value"][i] for one in found]) for i in (0, 1))
    assert abs(first.mean() + variance / 2) < 4 * first.std() / math.sqrt(40)
    assert abs(second.mean() - two) < 4 * second.std() / math.sqrt(40)
    mean = np.mean([one.trace["value"] for one in found], axis=0)
    assert (np.diff(mean) > 0).all() and mean[-1] < 0.01
    assert found[0].lower == found[0].value and found[0].interval[1] == math.inf
    stated = np.mean([one.trace["error"][1] for one in found])
    assert stated == pytest.approx(second.std(), rel=0.4)
