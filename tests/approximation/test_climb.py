"""Ascents and the Gaussians seen on them, on targets whose mode and curvature are known."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._program.density import Joint
from pyrolvm._program.density.target import Target
from pyrolvm.family import climb as module
from pyrolvm.family.climb import climb, curvature, elbo, local_gaussians, tril_of_precision
from pyrolvm.family.student import Student

Density = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def target_of(size: int, density: Density) -> Target:
    """A target that is a formula, in place of a compiled model."""
    joint: Any = SimpleNamespace(problem=SimpleNamespace(unconstrained_size=size, name="formula"))
    return Target(joint, "c", "", density)


def gaussian(mean: np.ndarray, covariance: np.ndarray, constant: float = 0.0) -> Target:
    precision = np.linalg.inv(covariance)
    log_norm = constant - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]

    def density(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope = -(points - mean) @ precision
        return log_norm + 0.5 * np.sum((points - mean) * slope, axis=1), slope

    return target_of(len(mean), density)


def some_covariance(size: int, seed: int = 0) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size)


MEAN = np.array([3.0, -1.0, 0.5, 20.0])
COVARIANCE = some_covariance(4)


def test_ascents_end_at_the_mode_and_start_where_they_say() -> None:
    paths = climb(gaussian(MEAN, COVARIANCE), starts=3, seed=1)
    assert len(paths) == 3
    np.testing.assert_array_equal(paths[0].points[0], np.zeros(4))
    for path in paths:
        assert np.abs(path.points[0]).max() <= module.REACH
        np.testing.assert_allclose(path.points[-1], MEAN, atol=1e-3)
        assert path.top == path.values[-1] > path.values[0]
        assert len(path.points) == len(path.values) == len(path.gradients)


def test_a_path_holds_the_gradients_of_its_points() -> None:
    target = gaussian(MEAN, COVARIANCE)
    (path,) = climb(target, starts=1, seed=1)
    values, gradients = target(np.array(path.points))
    np.testing.assert_allclose(path.values, values)
    np.testing.assert_allclose(path.gradients, gradients)


def test_the_same_seed_climbs_the_same_paths() -> None:
    first, again, other = (climb(gaussian(MEAN, COVARIANCE), starts=2, seed=seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(np.array(first.points), np.array(again.points))
    assert not np.array_equal(first.points[0], other.points[0])


def half_plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normal(1, 1) in each coordinate, where the first is positive; no density elsewhere."""
    inside = points[:, 0] > 0
    values = np.where(inside, -0.5 * np.sum((points - 1) ** 2, axis=1), -np.inf)
    return values, np.where(inside[:, None], 1 - points, np.nan)


def test_starts_without_a_density_are_passed_over() -> None:
    paths = climb(target_of(2, half_plane), starts=4, seed=0)
    assert len(paths) == 4
    for path in paths:
        assert path.points[0][0] > 0
        np.testing.assert_allclose(path.points[-1], [1.0, 1.0], atol=1e-4)
        assert np.isfinite(path.values).all()


def nowhere(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 1.0))
    pyro.factor("outside", mu * 0.0 - torch.inf)


def test_a_density_that_is_finite_nowhere_is_refused_by_site() -> None:
    problem = lvm.Problem(nowhere, torch.zeros(1, dtype=torch.float64))
    with problem.session(seed=0):
        target = Target.of(Joint(problem))
        with pytest.raises(lvm.FitError, match=r"no start with a finite density.*outside: -inf.*Fix:"):
            climb(target, starts=2, seed=0)


# --- curvature --------------------------------------------------------------------------------------------------------


def test_the_curvature_of_a_gaussian_is_its_precision_wherever_it_is_taken() -> None:
    for point in (MEAN, np.zeros(4), np.full(4, 100.0)):
        found = curvature(gaussian(MEAN, COVARIANCE), point)
        assert found is not None
        np.testing.assert_allclose(found, np.linalg.inv(COVARIANCE), rtol=1e-6, atol=1e-6)


def test_there_is_no_curvature_at_an_edge() -> None:
    assert curvature(target_of(2, half_plane), np.array([1e-6, 0.0])) is None


@pytest.mark.parametrize("units", [np.ones(4), np.array([1e-5, 1.0, 1e3, 1e6])])
def test_the_factor_of_a_precision_is_that_of_its_inverse_in_any_units(units: np.ndarray) -> None:
    covariance = COVARIANCE * np.outer(units, units)
    tril = tril_of_precision(np.linalg.inv(covariance))
    assert tril is not None
    np.testing.assert_allclose(tril @ tril.T, covariance, rtol=1e-6, atol=1e-9 * units.min() ** 2)
    np.testing.assert_array_equal(np.triu(tril, 1), 0.0)


def test_directions_uphill_are_as_wide_as_their_curvature() -> None:
    tril = tril_of_precision(np.diag([4.0, -9.0]))
    assert tril is not None
    np.testing.assert_allclose(tril, np.diag([1 / 2, 1 / 3]), rtol=1e-6)


def test_a_flat_direction_gets_a_wide_finite_factor() -> None:
    tril = tril_of_precision(np.array([[1.0, 1.0], [1.0, 1.0]]))
    assert tril is not None
    assert np.isfinite(tril).all()
    assert np.linalg.norm(tril, 2) > 1e5


# --- Gaussians on a path ----------------------------------------------------------------------------------------------


def test_the_gaussian_at_the_end_of_a_path_on_a_gaussian_is_it() -> None:
    target = gaussian(MEAN, COVARIANCE, constant=2.5)
    (path,) = climb(target, starts=1, seed=0)
    found = list(local_gaussians(target, path))
    assert 2 <= len(found) <= module.PLACES
    family = found[0]
    np.testing.assert_array_equal(family.means[0], path.points[-1])
    np.testing.assert_allclose(family.trils[0] @ family.trils[0].T, COVARIANCE, rtol=1e-4, atol=1e-5)
    assert elbo(target, family) == pytest.approx(2.5, abs=1e-4)


def test_beyond_the_hessian_the_steps_of_the_path_tell_the_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pathfinder's estimate lies between the unit matrix and the covariance: far better than the former."""
    monkeypatch.setattr(module, "HESSIAN_UNKNOWNS", 10)
    scales = np.geomspace(0.2, 5.0, 30)
    mean = np.linspace(-2, 2, 30)
    target = gaussian(mean, np.diag(scales**2))
    (path,) = climb(target, starts=1, seed=0)
    before = target.evaluations
    gaussians = list(local_gaussians(target, path))
    assert target.evaluations == before
    assert gaussians
    best = max(elbo(target, family) for family in gaussians)
    assert best > elbo(target, Student.one(mean, np.eye(30))) + 10
    assert best <= 0.5  # the evidence is 0; 64 draws leave some noise


def test_the_elbo_of_a_gaussian_is_known() -> None:
    """ELBO = log Z - KL."""
    target = gaussian(np.zeros(2), np.eye(2), constant=1.0)
    wide = Student.one(np.array([0.3, 0.0]), 1.5 * np.eye(2))
    kl = 0.5 * (2 * 1.5**2 + 0.3**2 - 2 - 2 * np.log(1.5**2))
    assert elbo(target, wide, draws=4096) == pytest.approx(1.0 - kl, abs=0.01)


def test_the_elbo_is_minus_infinity_where_draws_have_no_density() -> None:
    assert elbo(target_of(2, half_plane), Student.one(np.zeros(2), np.eye(2))) == -np.inf


def test_no_curvature_at_all_has_no_factor() -> None:
    """As of a posterior that is flat; None is the caller's sign to go elsewhere."""
    assert tril_of_precision(np.zeros((2, 2))) is None
