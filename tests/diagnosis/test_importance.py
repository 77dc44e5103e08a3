"""Importance weights against closed forms: Gaussians, Pareto tails, ties and overflow."""

import math

import numpy as np
import pytest

from pyrolvm._diagnosis import khat_threshold, weigh


@pytest.mark.parametrize(
    ("size", "threshold"), [(10, 0.0), (100, 0.5), (1000, 2 / 3), (2155, 0.7), (10**6, 0.7), (1, -math.inf)]
)
def test_threshold_depends_on_the_number_of_draws(size, threshold):
    assert khat_threshold(size) == pytest.approx(threshold, abs=2e-3)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.8, 1.2])
def test_khat_of_pareto_weights_is_their_shape(rng, shape):
    weights = rng.uniform(size=40_000) ** -shape  # P(w > t) = t^(-1/shape)
    assert weigh(np.log(weights))[0].khat == pytest.approx(shape, abs=0.12)


@pytest.mark.parametrize("offset", [0.0, -1e5, 800.0])
@pytest.mark.parametrize("scale", [0.8, 1.2, 1.6])
def test_evidence_of_a_gaussian(rng, scale, offset):
    """q = N(0, scale), p = e^offset N(0, 1) unnormalised: evidence, ELBO and khat are known."""
    z = scale * rng.normal(size=20_000)
    log_weight = offset - 0.5 * z**2 + 0.5 * (z / scale) ** 2 + math.log(scale)
    figures, weights = weigh(log_weight)
    assert abs(figures.evidence - offset) < 4 * figures.evidence_error
    elbo = offset - 0.5 * scale**2 + 0.5 + math.log(scale)
    assert abs(figures.elbo - elbo) < 4 * figures.elbo_error
    assert figures.elbo <= figures.evidence + 1e-9
    assert figures.reliable
    assert weights.sum() == pytest.approx(1.0)
    assert figures.ess == pytest.approx(1 / np.sum(weights**2))


def test_errors_of_evidence_and_elbo_are_calibrated():
    scores = []
    for seed in range(200):
        z = 1.3 * np.random.default_rng(seed).normal(size=1000)
        figures, _ = weigh(-0.5 * z**2 + 0.5 * (z / 1.3) ** 2 + math.log(1.3))
        scores.append((figures.evidence / figures.evidence_error, figures.elbo - (0.5 - 0.845 + math.log(1.3))))
        scores[-1] = (scores[-1][0], scores[-1][1] / figures.elbo_error)
    spread = np.std(scores, axis=0)
    assert np.all((spread > 0.85) & (spread < 1.15))
    assert np.all(np.abs(np.mean(scores, axis=0)) < 0.35)


def test_importance_ess_of_known_weights(rng):
    """For lognormal weights with log sd s, E[w]^2 / E[w^2] = exp(-s^2)."""
    figures, _ = weigh(0.5 * rng.normal(size=50_000))
    assert figures.ess / 50_000 == pytest.approx(math.exp(-0.25), rel=0.02)


@pytest.mark.parametrize("noise", [0.0, 1e-13, 1e-5])
def test_equal_weights_are_an_exact_guide(rng, noise):
    figures, weights = weigh(-42.0 + noise * rng.normal(size=1000))
    assert figures.constant and figures.reliable
    assert figures.khat == 0.0
    assert figures.evidence == pytest.approx(-42.0, abs=1e-4)
    assert figures.evidence_error < 1e-6
    assert np.allclose(weights, 1e-3, rtol=1e-3)


def test_rounding_in_single_precision_is_not_a_tail(rng):
    log_weight = (-1e4 + 1e-3 * rng.standard_cauchy(size=1000).clip(-3, 3)).astype(np.float32)
    assert weigh(log_weight)[0].constant


def test_ties_do_not_break_the_fit(rng):
    rounded = np.round(rng.normal(size=2000), 1)
    smooth, coarse = weigh(rng.normal(size=2000))[0], weigh(rounded)[0]
    assert math.isfinite(coarse.khat)
    assert abs(coarse.khat - smooth.khat) < 0.35
    assert weigh(rng.integers(0, 2, size=500).astype(float))[0].khat == 0.0  # two values: bounded weights


@pytest.mark.parametrize("scale", [500.0, 1e5])
def test_one_draw_with_all_the_weight_is_hopeless(rng, scale):
    figures, weights = weigh(scale * rng.normal(size=1000))
    assert figures.khat > 1
    assert not figures.reliable
    assert np.isfinite(weights).all()


@pytest.mark.parametrize(("bad", "count"), [(np.nan, 3), (np.inf, 2), (-np.inf, 1)])
def test_bad_weights_are_counted(rng, bad, count):
    log_weight = rng.normal(size=500)
    log_weight[:count] = bad
    figures, weights = weigh(log_weight)
    assert figures.num_bad == count
    assert not figures.reliable
    assert np.all(weights[:count] == 0) and weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("size", [1, 2, 5, 24, 25, 60])
def test_a_handful_of_draws_never_suffices(rng, size):
    figures, _ = weigh(rng.normal(size=size))
    assert not figures.reliable
    assert math.isnan(figures.khat) == (1 < size < 25)


def test_all_bad():
    figures, weights = weigh(np.full(200, np.nan))
    assert figures.num_bad == 200 and math.isnan(figures.evidence)
    assert not weights.any()
