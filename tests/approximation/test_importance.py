"""Proposals that adapt to their weights, and draws chosen by them, on targets whose mass is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pyrolvm._program.density.target import Target
from pyrolvm.family import Student, adapt, draw_weighed, resample
from pyrolvm.family.importance import heavier

Density = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
EVIDENCE = -7.5


def target_of(size: int, density: Density) -> Target:
    """A target that is a formula, in place of a compiled model."""
    joint: Any = SimpleNamespace(problem=SimpleNamespace(unconstrained_size=size, name="formula"))
    return Target(joint, "c", "", density)


def normal(values: np.ndarray, mean: Any, sd: float) -> np.ndarray:
    return -0.5 * ((values - mean) / sd) ** 2 - math.log(sd) - 0.5 * math.log(2 * math.pi)


def banana(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x ~ Normal(0, 1), y ~ Normal(x^2 / 2, 0.5), times exp(EVIDENCE)."""
    x, y = points.T
    gap = (y - x**2 / 2) / 0.25
    return EVIDENCE + normal(x, 0.0, 1.0) + normal(y, x**2 / 2, 0.5), np.stack([-x + x * gap, -gap], axis=1)


def skewed(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logarithms of three Gamma(2, 1) variables, times exp(EVIDENCE)."""
    with np.errstate(over="ignore"):
        mass = np.exp(points)
    return EVIDENCE + np.sum(2 * points - mass, axis=1), 2 - mass


def heavy(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A t distribution with 4 degrees of freedom, times exp(EVIDENCE)."""
    family = Student.one(np.zeros(3), np.eye(3), 4.0)
    slope = -7.0 * points / (4.0 + np.sum(points**2, axis=1, keepdims=True))
    return EVIDENCE + family.log_density(points), slope


BANANA = (target_of(2, banana), Student.one(np.array([0.0, 0.4]), np.diag([0.8, 0.7])))
SKEWED = (target_of(3, skewed), Student.one(np.full(3, math.log(2.0) - 0.25), np.eye(3) / math.sqrt(2.0)))


# --- resampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, 999, 20_000])
def test_draws_are_chosen_as_often_as_they_weigh(count: int) -> None:
    """Systematically: each as often as its weight asks for, rounded up or down."""
    weights = np.random.default_rng(1).gamma(0.3, size=50)
    weights /= weights.sum()
    chosen = resample(weights, count, seed=2)
    assert chosen.shape == (count,)
    counts = np.bincount(chosen, minlength=50)
    assert np.all(counts >= np.floor(count * weights - 1e-9))
    assert np.all(counts <= np.ceil(count * weights + 1e-9))


def test_on_average_over_seeds_the_shares_are_the_weights() -> None:
    weights = np.array([0.05, 0.61, 0.0, 0.34])
    counts = sum(np.bincount(resample(weights, 3, seed), minlength=4) for seed in range(3000))
    np.testing.assert_allclose(counts / 9000, weights, atol=0.015)
    assert counts[2] == 0


def test_the_order_of_chosen_draws_says_nothing() -> None:
    """Else the halves of a result would differ by more than chance, and its draws correlate."""
    weights = np.linspace(0, 1, 1000) / 500
    chosen = resample(weights, 4000, seed=0).astype(float)
    assert abs(np.corrcoef(chosen[1:], chosen[:-1])[0, 1]) < 0.05
    assert abs(np.corrcoef(chosen, np.arange(4000))[0, 1]) < 0.05


def test_choices_repeat_by_seed() -> None:
    weights = np.full(100, 0.01)
    np.testing.assert_array_equal(resample(weights, 50, seed=4), resample(weights, 50, seed=4))
    assert not np.array_equal(resample(weights, 50, seed=4), resample(weights, 50, seed=5))


# --- weighed draws ----------------------------------------------------------------------------------------------------


def test_the_target_itself_has_equal_weights() -> None:
    family = Student.one(np.zeros(3), np.eye(3), 4.0)
    held = draw_weighed(target_of(3, heavy), family, 2048, seed=0)
    assert held.figures.khat == 0.0
    assert held.share == pytest.approx(1.0)
    assert held.figures.evidence == pytest.approx(EVIDENCE, abs=1e-9)


def test_draws_outside_the_support_weigh_nothing() -> None:
    def half(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, slopes = heavy(points)
        return np.where(points[:, 0] > 0, values, -np.inf), slopes

    held = draw_weighed(target_of(3, half), Student.one(np.zeros(3), np.eye(3), 4.0), 4096, seed=0)
    assert held.weights[held.points[:, 0] <= 0].max() == 0.0
    assert held.weights.sum() == pytest.approx(1.0)
    assert held.figures.evidence == pytest.approx(EVIDENCE - math.log(2), abs=0.02)


def test_weights_are_the_densities_ratio() -> None:
    target, family = SKEWED
    held = draw_weighed(target, family, 4096, seed=0)
    np.testing.assert_allclose(held.log_p, skewed(held.points)[0])
    np.testing.assert_allclose(held.log_q, family.log_density(held.points))
    order = np.argsort(held.log_p - held.log_q)[:3000]  # below the tail that is smoothed
    log_weight = np.log(held.weights[order])
    np.testing.assert_allclose(np.diff(log_weight), np.diff((held.log_p - held.log_q)[order]), atol=1e-8)


# --- adaptation -------------------------------------------------------------------------------------------------------


def test_heavy_tails_are_answered_by_heavy_tails() -> None:
    gaussian = Student.one(np.zeros(3), 1.2 * np.eye(3))
    family, held = heavier(target_of(3, heavy), gaussian, seed=0)
    assert family.freedoms[0] == 4.0
    assert held.score > draw_weighed(target_of(3, heavy), gaussian, 8192, seed=0).score


@pytest.mark.parametrize(("case", "least"), [(BANANA, 2.0), (SKEWED, 1.05)], ids=["banana", "skewed"])
def test_adaptation_raises_the_effective_share(case: tuple[Target, Student], least: float) -> None:
    target, family = case
    fresh = [draw_weighed(target, one, 8192, seed=77) for one in (family, adapt(target, family, seed=0)[0])]
    assert fresh[1].share > least * fresh[0].share
    assert fresh[1].share > 0.45


@pytest.mark.parametrize("case", [BANANA, SKEWED], ids=["banana", "skewed"])
def test_the_evidence_after_adaptation_is_the_known_one(case: tuple[Target, Student]) -> None:
    target, family = case
    adapted, _ = adapt(target, family, seed=0)
    figures = draw_weighed(target, adapted, 8192, seed=5).figures
    assert figures.evidence_error < 0.02
    assert abs(figures.evidence - EVIDENCE) < 4 * figures.evidence_error


def test_moments_by_weight_are_those_of_the_target() -> None:
    target, family = BANANA
    held = draw_weighed(target, family.with_freedom(4.0), 65_536, seed=5)
    mean = held.weights @ held.points
    np.testing.assert_allclose(mean, [0.0, 0.5], atol=0.03)
    np.testing.assert_allclose(held.weights @ (held.points - mean) ** 2, [1.0, 0.75], rtol=0.06)


def test_what_is_good_is_left_as_it_is() -> None:
    target, family = target_of(3, heavy), Student.one(np.zeros(3), np.eye(3))
    adapted, held = adapt(target, family, seed=0)
    assert len(adapted.weights) == 1
    np.testing.assert_array_equal(adapted.trils, family.trils)
    assert held.share > 0.5


def test_without_rounds_only_the_tails_are_chosen() -> None:
    target, family = BANANA
    adapted, _ = adapt(target, family, seed=0, rounds=0)
    np.testing.assert_array_equal(adapted.means, family.means)
    np.testing.assert_array_equal(adapted.trils, family.trils)


def test_adaptation_keeps_a_mixture_a_mixture() -> None:
    target, family = BANANA
    adapted, held = adapt(target, family, seed=0)
    assert 2 <= len(adapted.weights) <= 6
    assert adapted.weights.sum() == pytest.approx(1.0)
    assert (adapted.weights > 0).all()
    np.testing.assert_array_equal(np.triu(adapted.trils, 1), 0.0)
    again, _ = adapt(target, family, seed=0)
    np.testing.assert_array_equal(again.means, adapted.means)
    assert adapted.weights[adapted.freedoms == 4.0].sum() > 0.099  # the defence that bounds the weights
    assert held.figures.num_draws == 8192
