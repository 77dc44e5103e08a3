"""The tests of uniformity against counting, simulation and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binom, kstest, norm

from pyrolvm._check.calibrate import uniformity
from pyrolvm._check.calibrate.statistics import _holm, _shift, _spread


def uniform(count: int, draws: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, draws + 1, size=(count, columns))


@pytest.mark.parametrize(("count", "draws"), [(20, 9), (100, 127), (1000, 127)])
def test_uniform_ranks_leave_the_envelope_as_often_as_said(count, draws):
    ranks = uniform(count, draws, 4000)
    low, high = uniformity.envelope(count, draws)
    differences = uniformity.ecdf_differences(ranks, draws)
    outside = ((differences < low[:, None] - 1e-12) | (differences > high[:, None] + 1e-12)).any(axis=0)
    error = np.sqrt(0.05 * 0.95 / 4000)
    assert outside.mean() < 0.05 + 4 * error
    assert outside.mean() > 0.02  # discrete, but not idle


def test_the_probability_of_a_path_is_that_of_all_paths_counted():
    count, draws = 6, 3
    low, high = uniformity._bounds(count, draws, 0.2)
    inside = 0
    for ranks in itertools.product(range(draws + 1), repeat=count):
        below = [sum(rank <= k for rank in ranks) for k in range(draws)]
        inside += all(least <= n <= most for least, n, most in zip(low, below, high, strict=True))
    assert uniformity._stays(count, draws, 0.2) == pytest.approx(inside / (draws + 1) ** count, rel=1e-12)


@pytest.mark.parametrize("name", ["ecdf", "symmetry", "mean", "spread"])
def test_p_values_are_not_too_small_under_uniformity(name):
    ranks, draws = uniform(200, 127, 4000, seed=1), 127
    _, _, z_mean, z_square = uniformity.moments(ranks, draws)
    p = {
        "ecdf": lambda: uniformity.ecdf_test(ranks, draws)[0],
        "symmetry": lambda: uniformity.symmetry_test(ranks, draws),
        "mean": lambda: 2 * norm.sf(abs(z_mean)),
        "spread": lambda: 2 * norm.sf(abs(z_square)),
    }[name]()
    for level in (0.01, 0.05, 0.2):
        found = (p < level).mean()
        assert 0.6 * level < found < level + 4 * np.sqrt(level * (1 - level) / 4000)


def test_the_symmetry_walk_counts_as_paths_do():
    for steps, height in ((5, 3), (8, 2), (9, 4), (12, 12)):
        paths = np.array(list(itertools.product((-1, 1), repeat=steps))).cumsum(axis=1)
        counted = (np.abs(paths).max(axis=1) >= height).mean()
        assert uniformity._walk_reaches(steps, height) == pytest.approx(counted, rel=1e-9)


def test_symmetry_tells_a_shift_from_a_wrong_width():
    random = np.random.default_rng(2)
    truth, draws = random.normal(size=(1000, 3, 1)), random.normal(size=(1000, 3, 127))
    draws *= np.array([1.0, 0.5, 1.0])[:, None]
    draws += np.array([0.0, 0.0, 0.3])[:, None]
    p = uniformity.symmetry_test((draws < truth).sum(axis=-1), 127)
    assert p[1] > 0.01 and p[2] < 1e-6


def test_the_distance_is_that_of_kolmogorov_and_smirnov():
    ranks = uniform(500, 4095, 1)
    assert uniformity.ks(ranks, 4095)[0] == pytest.approx(
        kstest((ranks[:, 0] + 1) / 4096, "uniform").statistic, abs=5e-4
    )
    assert uniformity.ks_bound(1000) == pytest.approx(1.358 / np.sqrt(1000), rel=0.01)


def test_coverage_is_exact_for_every_rank_once():
    for draws in (9, 127):
        ranks = np.arange(draws + 1)[:, None]
        for level in (0.5, 0.9):
            assert uniformity.coverage(ranks, draws, level)[0] == pytest.approx(level, abs=1e-12)


@pytest.mark.parametrize(("shift", "sd"), [(0.0, 1.0), (0.3, 1.0), (0.0, 0.6), (0.0, 1.5)])
def test_sizes_are_those_of_normal_posteriors(shift, sd):
    truth = norm.ppf((np.arange(200_000) + 0.5) / 200_000)  # in sds of the right posterior, about its mean
    ranks = np.floor(norm.cdf((truth - shift) / sd) * 1024).astype(int)[:, None]
    mean, square, _, _ = (part[0] for part in uniformity.moments(ranks, 1023))
    assert -_shift(mean) == pytest.approx(shift, abs=0.005)
    if not shift:
        assert 1 / _spread(square, mean) == pytest.approx(sd, rel=0.01)


def test_adjusted_probabilities_are_holm_s():
    assert _holm(np.array([0.01, 0.04, 0.03, 0.5])) == pytest.approx([0.04, 0.09, 0.09, 0.5])


def test_a_probability_of_a_single_rank_is_the_binomial_one():
    # One draw: the ECDF has one place, and the test is the exact two-sided binomial one.
    ranks = np.array([0] * 14 + [1] * 6)[:, None]
    wanted = sum(
        binom.pmf(k, 20, 0.5) for k in range(21) if 2 * min(binom.cdf(k, 20, 0.5), binom.sf(k - 1, 20, 0.5)) <= 0.1154
    )
    p, place = uniformity.ecdf_test(ranks, 1)
    assert p[0] == pytest.approx(wanted, rel=0.1) and place[0] == 0
