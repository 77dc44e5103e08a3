"""Distances against closed forms, and their error bars against repetition."""

import math

import numpy as np
import pytest
from scipy import stats

from pyrolvm._check.compare.metrics import Side, coverage, heavy_tailed, judge, wasserstein, wasserstein_noise


def side(values):
    return Side.of(np.asarray(values, float)[None, :, None], float(len(values)))


@pytest.mark.parametrize(("first", "second"), [(500, 500), (500, 700), (1000, 37), (3, 2)])
def test_wasserstein_is_scipys(rng, first, second):
    left, right = np.sort(rng.normal(size=(first, 4)), axis=0), np.sort(1 + 2 * rng.normal(size=(second, 4)), axis=0)
    expected = [stats.wasserstein_distance(left[:, i], right[:, i]) for i in range(4)]
    assert np.allclose(wasserstein(left, right), expected, rtol=1e-10)


@pytest.mark.parametrize(("shift", "scale"), [(0.7, 1.0), (0.0, 1.5)])
def test_wasserstein_between_normals(shift, scale):
    """W1(N(0, 1), N(d, 1)) = |d|, and W1(N(0, 1), N(0, s)) = |s - 1| sqrt(2 / pi)."""
    grid = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)[:, None]
    expected = abs(shift) if scale == 1 else abs(scale - 1) * math.sqrt(2 / math.pi)
    assert wasserstein(grid, shift + scale * grid)[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("draw", ["normal", "exponential", "uniform"])
def test_wasserstein_noise_is_its_mean_under_equality(draw):
    generator = np.random.default_rng(1)
    left = np.sort(getattr(generator, draw)(size=(400, 400)), axis=0)
    right = np.sort(getattr(generator, draw)(size=(900, 400)), axis=0)
    noise = wasserstein_noise(left, np.full(400, 400.0), np.full(400, 900.0))
    assert wasserstein(left, right).mean() == pytest.approx(noise.mean(), rel=0.06)


@pytest.mark.parametrize("probability", [0.5, 0.9])
@pytest.mark.parametrize("scale", [0.6, 1.0, 1.3])
def test_coverage_of_normals(rng, probability, scale):
    reference, method = side(rng.normal(size=40_000)), side(scale * rng.normal(size=20_000))
    mass, own, error = coverage(method, reference, probability)
    expected = 2 * stats.norm.cdf(stats.norm.ppf((1 + probability) / 2) / scale) - 1
    assert own[0] == pytest.approx(probability, abs=1e-3)
    assert abs(mass[0] - expected) < 4 * error[0]


def test_coverage_errors_are_calibrated():
    generator = np.random.default_rng(3)
    reference = Side.of(generator.normal(size=(1, 700, 300)), 700.0)
    method = Side.of(generator.normal(size=(1, 500, 300)), 500.0)
    mass, own, error = coverage(method, reference, 0.5)
    assert np.std((mass - own) / error) == pytest.approx(1.0, abs=0.15)


def test_moment_errors_are_calibrated_for_autocorrelated_draws(fake):
    generator = np.random.default_rng(4)
    found = Side.of(np.stack([fake.ar1(generator, 0.8, (4, 500)) for _ in range(200)], axis=-1), None).moments
    assert np.std(found.mean / found.mean_error) == pytest.approx(1.0, abs=0.2)
    assert np.std((found.sd - 1) / found.sd_error) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("draw", "heavy"),
    [
        (lambda g, n: g.normal(size=n), False),
        (lambda g, n: g.uniform(size=n), False),
        (lambda g, n: g.exponential(size=n), False),
        (lambda g, n: g.standard_cauchy(size=n), True),
        (lambda g, n: np.abs(g.standard_cauchy(size=n)), True),
        (lambda g, n: np.maximum(g.normal(size=n), 0), False),
    ],
)
def test_heavy_tails_are_seen(rng, draw, heavy):
    assert heavy_tailed(side(draw(rng, 4000)), np.array([True]))[0] == heavy


@pytest.mark.parametrize(
    ("effect", "error", "expected"),
    [
        (0.05, 0.02, "agrees"),
        (-0.05, 0.02, "agrees"),
        (0.2, 0.03, "differs"),
        (-0.2, 0.03, "differs"),
        (0.2, 0.04, "unclear"),
        (0.0, 0.06, "unclear"),
        (np.nan, 0.0, "unclear"),
        (np.inf, 0.0, "differs"),
        (0.0, 0.0, "agrees"),
    ],
)
def test_noise_is_not_read_as_bias(effect, error, expected):
    assert judge(np.array([effect]), np.array([error]), 0.1)[0] == expected
