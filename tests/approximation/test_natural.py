"""The best Gaussian, where it is known: Gaussian targets, and log-Gamma ones, whose optimum has a closed form."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from pyrolvm._program.density.target import Target
from pyrolvm.family.natural import batch_and_match, natural_gradient
from pyrolvm.family.student import Student

Density = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def target_of(size: int, density: Density) -> Target:
    """A target that is a formula, in place of a compiled model."""
    joint: Any = SimpleNamespace(problem=SimpleNamespace(unconstrained_size=size, name="formula"))
    return Target(joint, "c", "", density)


def gaussian(mean: np.ndarray, tril: np.ndarray, constant: float = 0.0) -> Target:
    log_norm = constant - np.log(np.diag(tril)).sum() - len(mean) / 2 * np.log(2 * np.pi)

    def density(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        white = np.linalg.solve(tril, (points - mean).T)
        return log_norm - 0.5 * np.sum(white**2, axis=0), -np.linalg.solve(tril.T, white).T

    return target_of(len(mean), density)


MEAN = np.array([2.0, -1.0, 0.5, 4.0, 0.0])
TRIL = np.linalg.cholesky(0.3 * np.eye(5) + 0.7)
NEARBY = Student.one(MEAN + 1.5, 0.4 * np.eye(5))


@pytest.mark.parametrize("start", [NEARBY, Student.one(np.zeros(5), 3.0 * np.eye(5)), Student.one(MEAN, TRIL)])
def test_a_gaussian_is_found_exactly(start: Student) -> None:
    fitted = natural_gradient(gaussian(MEAN, TRIL, constant=-3.0), start, seed=0)
    family = fitted.family
    np.testing.assert_allclose(family.means[0], MEAN, atol=1e-6)
    np.testing.assert_allclose(family.trils[0] @ family.trils[0].T, TRIL @ TRIL.T, atol=1e-6)
    assert fitted.residual < 1e-6
    assert fitted.elbos[-1] == pytest.approx(-3.0, abs=0.3)  # its noise is that of log p alone


@pytest.mark.parametrize("condition", [1e4, 1e8])
def test_an_ill_conditioned_gaussian_is_found_from_a_rough_start(condition: float) -> None:
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    sds = np.geomspace(1.0, condition**-0.5, 6)
    covariance = (rotation * sds**2) @ rotation.T
    mean = np.linspace(-1, 1, 6)
    rough = np.linalg.cholesky(4.0 * covariance)
    tril = np.linalg.cholesky(covariance)
    fitted = natural_gradient(gaussian(mean, tril), Student.one(mean + tril @ np.ones(6), rough), seed=0)
    found = fitted.family
    white = np.linalg.solve(tril, found.trils[0])
    np.testing.assert_allclose(white @ white.T, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(np.linalg.solve(tril, found.means[0] - mean), 0.0, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_found_exactly_has_converged(seed: int) -> None:
    """Residuals are rounding errors then, which are no smaller for being averaged."""
    fitted = natural_gradient(gaussian(MEAN, TRIL), NEARBY, seed=seed)
    assert fitted.residual < 1e-10
    assert fitted.converged


def test_what_is_almost_gaussian_has_converged() -> None:
    """As log-Gamma variables of shape 1,000 are."""
    shapes = np.full(2, 1000.0)
    fitted = natural_gradient(log_gamma(shapes, np.eye(2)), Student.one(np.log(shapes), 0.05 * np.eye(2)), seed=0)
    assert fitted.residual < 0.01
    assert fitted.converged


def log_gamma(shapes: np.ndarray, mix: np.ndarray) -> Target:
    """u = mix v with exp(v_i) of Gamma(shape_i, 1), up to a constant: skewed the more, the smaller the shape."""
    inverse = np.linalg.inv(mix)

    def density(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        v = points @ inverse.T
        with np.errstate(over="ignore"):
            mass = np.exp(v)
        return np.sum(shapes * v - mass, axis=1), (shapes - mass) @ inverse

    return target_of(len(shapes), density)


SHAPES = np.array([0.7, 2.0, 5.0])
MIX = np.array([[1.0, 0.0, 0.0], [0.8, 1.0, 0.0], [-0.5, 0.3, 2.0]])


def test_of_a_skewed_target_the_gaussian_of_the_highest_elbo_is_found() -> None:
    """E[a v - e^v] + log s has its maximum at s^2 = 1/a and m = log a - 1/(2a)."""
    fitted = natural_gradient(log_gamma(SHAPES, MIX), Student.one(np.zeros(3), np.eye(3)), seed=0)
    tril = fitted.family.trils[0]
    wanted = (MIX / SHAPES) @ MIX.T
    sds = np.sqrt(np.diag(wanted))
    np.testing.assert_allclose((fitted.family.means[0] - MIX @ (np.log(SHAPES) - 0.5 / SHAPES)) / sds, 0.0, atol=0.03)
    np.testing.assert_allclose((tril @ tril.T - wanted) / np.outer(sds, sds), 0.0, atol=0.05)
    assert fitted.converged


def exact_elbo(mean: np.ndarray, tril: np.ndarray) -> float:
    """Of a Gaussian on the log-Gamma target, by E[e^v] = e^(m + s^2 / 2)."""
    inverse = np.linalg.inv(MIX)
    m, root = inverse @ mean, inverse @ tril
    expected = SHAPES * m - np.exp(m + 0.5 * np.sum(root**2, axis=1))
    return float(expected.sum() + np.log(np.abs(np.diag(tril))).sum() + 1.5 * np.log(2 * np.pi * np.e))


def test_it_reaches_the_elbo_of_a_numerical_optimum() -> None:
    rows, columns = np.tril_indices(3)

    def unpacked(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tril = np.zeros((3, 3))
        tril[rows, columns] = flat[3:]
        np.fill_diagonal(tril, np.exp(np.diag(tril)))
        return flat[:3], tril

    optimum = minimize(lambda flat: -exact_elbo(*unpacked(flat)), np.zeros(9), method="BFGS", options={"gtol": 1e-6})
    fitted = natural_gradient(log_gamma(SHAPES, MIX), Student.one(np.ones(3), 0.5 * np.eye(3)), seed=3)
    reached = exact_elbo(fitted.family.means[0], fitted.family.trils[0])
    assert reached <= -optimum.fun + 1e-6
    assert reached > -optimum.fun - 2e-3
    assert np.mean(fitted.elbos[-20:]) == pytest.approx(-optimum.fun, abs=0.05)


@pytest.mark.parametrize("solve", [natural_gradient, batch_and_match])
def test_the_same_seed_finds_the_same_gaussian(solve: Callable[..., Any]) -> None:
    start = Student.one(np.zeros(3), np.eye(3))
    first, again, other = (solve(log_gamma(SHAPES, MIX), start, seed=seed).family for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.means, again.means)
    np.testing.assert_array_equal(first.trils, again.trils)
    assert not np.array_equal(first.means, other.means)


@pytest.mark.parametrize("solve", [natural_gradient, batch_and_match])
def test_the_start_is_left_as_it_was(solve: Callable[..., Any]) -> None:
    start = Student.one(np.zeros(3), np.eye(3))
    solve(log_gamma(SHAPES, MIX), start, seed=1)
    np.testing.assert_array_equal(start.means, np.zeros((1, 3)))
    np.testing.assert_array_equal(start.trils, np.eye(3)[None])


def test_a_hard_edge_leaves_a_finite_gaussian_inside_it() -> None:
    def density(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = (points > 0).all(axis=1)
        return np.where(inside, -points.sum(axis=1), -np.inf), np.where(inside[:, None], -1.0, np.nan) + 0 * points

    fitted = natural_gradient(target_of(2, density), Student.one(np.full(2, 5.0), 0.1 * np.eye(2)), seed=0)
    draws = fitted.family.sample(1024, seed=0)
    assert np.isfinite(fitted.family.trils).all()
    assert (draws > 0).all(axis=1).mean() > 0.8
    assert len(fitted.elbos)


def test_no_convergence_is_claimed_where_there_is_no_optimum() -> None:
    """A density that rises for ever."""
    fitted = natural_gradient(
        target_of(1, lambda points: (3.0 * points[:, 0], np.full_like(points, 3.0))),
        Student.one(np.zeros(1), np.eye(1)),
        seed=0,
    )
    assert not fitted.converged
    assert np.isfinite(fitted.family.means).all()


# --- batch and match --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [NEARBY, Student.one(np.zeros(5), 3.0 * np.eye(5))])
def test_batch_and_match_finds_a_gaussian(start: Student) -> None:
    fitted = batch_and_match(gaussian(MEAN, TRIL), start, seed=0)
    family = fitted.family
    np.testing.assert_allclose(family.means[0], MEAN, atol=1e-3)
    np.testing.assert_allclose(family.trils[0] @ family.trils[0].T, TRIL @ TRIL.T, atol=1e-3)
    assert fitted.converged


def test_batch_and_match_comes_near_a_skewed_target() -> None:
    """Its optimum is another one than the ELBO's, within an sd of it."""
    fitted = batch_and_match(log_gamma(SHAPES, MIX), Student.one(np.zeros(3), np.eye(3)), seed=0)
    assert (
        exact_elbo(fitted.family.means[0], fitted.family.trils[0])
        > exact_elbo(MIX @ (np.log(SHAPES) - 0.5 / SHAPES), MIX / np.sqrt(SHAPES)) - 1.0
    )
