"""Mixtures of Student t distributions against SciPy's, and as a Pyro distribution against themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from pyrolvm.family import Student
from pyrolvm.family.student import lower_root
from pyrolvm_guides._student import StudentMixture

MEANS = np.array([[0.5, -1.0], [3.0, 2.0]])
TRILS = np.array([[[1.0, 0.0], [0.7, 0.4]], [[0.3, 0.0], [-0.5, 2.0]]])
FREEDOMS = [3.0, 7.0, 30.0, math.inf]
POINTS = np.random.default_rng(5).normal(0.0, 4.0, (20, 2))


def scipy_log_density(k: int, freedom: float) -> np.ndarray:
    shape = TRILS[k] @ TRILS[k].T
    if math.isinf(freedom):
        return np.asarray(scipy.stats.multivariate_normal(MEANS[k], shape).logpdf(POINTS))
    return np.asarray(scipy.stats.multivariate_t(MEANS[k], shape, df=freedom).logpdf(POINTS))


def mixture(first: float = 5.0, second: float = 9.0) -> Student:
    return Student(np.array([0.3, 0.7]), MEANS, TRILS, np.array([first, second]))


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_the_density_of_one_component_is_scipys(freedom: float) -> None:
    found = Student.one(MEANS[0], TRILS[0], freedom).log_density(POINTS)
    np.testing.assert_allclose(found, scipy_log_density(0, freedom), rtol=1e-12)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_the_density_of_a_mixture_is_the_weighted_sum(freedom: float) -> None:
    wanted = np.logaddexp(math.log(0.3) + scipy_log_density(0, 4.0), math.log(0.7) + scipy_log_density(1, freedom))
    np.testing.assert_allclose(mixture(4.0, freedom).log_density(POINTS), wanted, rtol=1e-12)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_the_density_integrates_to_one(freedom: float) -> None:
    wide = scipy.stats.multivariate_t(np.array([2.0, 1.0]), 6.0 * np.eye(2), df=2, seed=3)
    points = wide.rvs(100_000)
    ratio = np.exp(mixture(freedom, freedom).log_density(points) - wide.logpdf(points))
    error = ratio.std() / math.sqrt(len(ratio))
    assert error < 0.02
    assert abs(ratio.mean() - 1) < 4 * error


@pytest.mark.parametrize("freedom", [9.0, 30.0, math.inf])
def test_draws_have_the_moments_of_the_mixture(freedom: float) -> None:
    family = mixture(freedom, freedom)
    draws = family.sample(1 << 15, seed=1)
    stretch = 1.0 if math.isinf(freedom) else freedom / (freedom - 2)
    mean = family.weights @ MEANS
    within = np.einsum("k,kij->ij", family.weights, TRILS @ TRILS.transpose(0, 2, 1)) * stretch
    gaps = MEANS - mean
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.01)
    np.testing.assert_allclose(np.cov(draws.T), within + (gaps.T * family.weights) @ gaps, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("size", [2, 600])
@pytest.mark.parametrize("freedom", [4.0, math.inf])
def test_the_distances_of_draws_have_their_law_in_few_and_many_dimensions(size: int, freedom: float) -> None:
    """Squared length over n is F(n, nu) distributed, or chi square over n for a Gaussian."""
    tril = np.diag(np.linspace(0.1, 2.0, size))
    draws = Student.one(np.full(size, 3.0), tril, freedom).sample(3000, seed=2)
    squared = np.sum(((draws - 3.0) / np.diag(tril)) ** 2, axis=1)
    law = scipy.stats.chi2(size) if math.isinf(freedom) else scipy.stats.f(size, freedom, scale=size)
    assert scipy.stats.kstest(squared, law.cdf).pvalue > 0.01


def test_components_are_drawn_as_often_as_they_weigh() -> None:
    family = Student(
        np.array([0.1, 0.65, 0.25]), np.array([[-50.0], [0.0], [50.0]]), np.ones((3, 1, 1)), np.full(3, np.inf)
    )
    draws = family.sample(4096, seed=0)[:, 0]
    shares = [(draws < -25).mean(), (abs(draws) < 25).mean(), (draws > 25).mean()]
    np.testing.assert_allclose(shares, family.weights, atol=0.01)


@pytest.mark.parametrize("count", [1, 2, 1000, 1024])
def test_draws_are_as_many_as_asked_for_and_repeat_by_seed(count: int) -> None:
    draws = mixture().sample(count, seed=4)
    assert draws.shape == (count, 2)
    assert np.isfinite(draws).all()
    np.testing.assert_array_equal(draws, mixture().sample(count, seed=4))
    assert not np.array_equal(draws, mixture().sample(count, seed=5))


def test_other_degrees_of_freedom_keep_the_rest() -> None:
    family = mixture().with_freedom(11.0)
    np.testing.assert_array_equal(family.freedoms, [11.0, 11.0])
    np.testing.assert_array_equal(family.means, MEANS)
    assert family.size == 2


def test_a_lower_root_is_the_cholesky_factor() -> None:
    root = np.random.default_rng(0).normal(size=(6, 6))
    np.testing.assert_allclose(lower_root(root), np.linalg.cholesky(root @ root.T), atol=1e-10)


# --- as a Pyro distribution -------------------------------------------------------------------------------------------


def as_pyro(first: float, second: float) -> StudentMixture:
    """With a third component of weight zero, as a guide holds those that it does not use."""
    pad = lambda values, extra: torch.as_tensor(np.concatenate([values, extra[None]]))  # noqa: E731
    return StudentMixture(
        torch.tensor([0.3, 0.7, 0.0], dtype=torch.float64),
        pad(MEANS, MEANS[0]),
        pad(TRILS, TRILS[0]),
        torch.tensor([first, second, 1e6], dtype=torch.float64),
    )


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_the_pyro_distribution_has_the_same_density(freedom: float) -> None:
    found = as_pyro(4.0, min(freedom, 1e6)).log_prob(torch.as_tensor(POINTS))
    np.testing.assert_allclose(found.numpy(), mixture(4.0, freedom).log_density(POINTS), rtol=1e-10)


@pytest.mark.parametrize("freedom", [5.0, 1e6])
def test_draws_of_the_pyro_distribution_have_its_law(freedom: float) -> None:
    """Of one component's draws, squared length over n is F(n, nu) distributed."""
    law = StudentMixture(
        *(torch.as_tensor(part) for part in (np.ones(1), MEANS[:1], TRILS[:1], np.array([freedom]))),
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        draws = law.expand((4,)).rsample((4000,))
    assert draws.shape == (4000, 4, 2)
    white = np.linalg.solve(TRILS[0], (draws.reshape(-1, 2).numpy() - MEANS[0]).T)
    reference = scipy.stats.chi2(2) if freedom >= 1e6 else scipy.stats.f(2, freedom, scale=2)
    assert scipy.stats.kstest((white**2).sum(0), reference.cdf).pvalue > 0.01
    assert abs(np.corrcoef(white)[0, 1]) < 0.08
