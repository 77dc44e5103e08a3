"""Chains that start from a fit: its draws are the starts, their covariance the first mass matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._methods.nuts.starts import moments
from pyrolvm._program.density import Joint

SCALES = torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0])


def scaled(y: Tensor) -> None:
    """Independent unknowns whose scales differ by a factor of 10,000."""
    with pyro.plate("unknown", len(y)):
        x = pyro.sample("x", dist.Normal(y.new_zeros(()), SCALES))
        pyro.sample("y", dist.Normal(x, SCALES), obs=y)


def ridge(y: Tensor) -> None:
    """Two unknowns with correlation -0.995 in the posterior."""
    a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 1.0))
    b = pyro.sample("b", dist.Normal(y.new_tensor(0.0), 1.0))
    pyro.sample("y", dist.Normal(a + b, 0.07), obs=y)


def run(problem: lvm.Problem, **options: Any) -> lvm.Chains:
    return lvm.nuts(
        problem,
        **{"chains": 2, "warmup": 100, "draws": 200, "seed": 0, "progress": False, "precondition": "none", **options},
    )


def steps(chains: lvm.Chains) -> int:
    return int(chains.data["sample_stats"].attrs["warmup_steps"])


@pytest.fixture(scope="module")
def scaled_problem() -> lvm.Problem:
    return lvm.Problem(scaled, torch.zeros(5))


@pytest.fixture(scope="module")
def scaled_fit(scaled_problem: lvm.Problem) -> lvm.Fit:
    return lvm.fit(scaled_problem, "laplace", draws=2000, max_steps=2000, progress=False)


@pytest.fixture(scope="module")
def ridge_problem() -> lvm.Problem:
    return lvm.Problem(ridge, torch.tensor(1.0))


@pytest.fixture(scope="module")
def ridge_fit(ridge_problem: lvm.Problem) -> lvm.Fit:
    return lvm.fit(ridge_problem, "laplace", draws=2000, max_steps=2000, progress=False)


@pytest.mark.parametrize(
    "options",
    [
        {"engine": "jax"},
        pytest.param({"engine": "pyro", "warmup": 30, "draws": 4, "max_tree_depth": 6}, marks=pytest.mark.slow),
    ],
)
def test_a_fit_saves_most_steps_of_warmup(
    scaled_problem: lvm.Problem, scaled_fit: lvm.Fit, options: dict[str, Any]
) -> None:
    cold, warm = run(scaled_problem, **options), run(scaled_problem, init=scaled_fit, **options)
    assert steps(warm) < 0.5 * steps(cold)
    assert warm.data["sample_stats"]["n_steps"].values.mean() < 16


@pytest.mark.parametrize("dense_mass", [False, True])
def test_nutpie_in_scaled_coordinates_gives_draws_in_those_of_the_model(
    ridge_problem: lvm.Problem, ridge_fit: lvm.Fit, dense_mass: bool
) -> None:
    """It learns scales from gradients at once, so that a fit saves it little; correlation it is told of it need not learn."""
    chains = run(ridge_problem, init=ridge_fit, kernel="nutpie", dense_mass=dense_mass, draws=1000)
    draws = np.stack([chains.data["posterior"][name].values.reshape(-1) for name in ("a", "b")])
    covariance = np.linalg.inv(np.eye(2) + np.ones((2, 2)) / 0.07**2)
    np.testing.assert_allclose(np.cov(draws), covariance, rtol=0.2)
    np.testing.assert_allclose(draws.mean(1), covariance @ np.full(2, 1 / 0.07**2), atol=0.1)
    assert (chains.data["sample_stats"]["n_steps"].values.mean() < 8) == dense_mass


def test_a_short_warmup_is_enough_after_a_fit(scaled_problem: lvm.Problem, scaled_fit: lvm.Fit) -> None:
    """Thirty transitions, which from nothing learn none of the scales."""
    warm = run(scaled_problem, init=scaled_fit, warmup=30, draws=400, chains=4)
    deviations = warm.data["posterior"]["x"].std(("chain", "draw")).values
    np.testing.assert_allclose(deviations, SCALES.numpy() / np.sqrt(2), rtol=0.15)
    assert warm.data["sample_stats"]["n_steps"].values.mean() < 16


def test_strong_correlation_makes_the_mass_matrix_dense(ridge_problem: lvm.Problem, ridge_fit: lvm.Fit) -> None:
    dense, diagonal = run(ridge_problem, init=ridge_fit), run(ridge_problem, init=ridge_fit, dense_mass=False)
    assert dense.data["sample_stats"].attrs["dense_mass"] == 1
    assert diagonal.data["sample_stats"].attrs["dense_mass"] == 0
    ratio = diagonal.data["sample_stats"]["n_steps"].values.mean() / dense.data["sample_stats"]["n_steps"].values.mean()
    assert ratio > 2


def test_a_fit_without_correlation_leaves_it_diagonal(scaled_problem: lvm.Problem, scaled_fit: lvm.Fit) -> None:
    mean, variance, dense = moments(Joint(scaled_problem), scaled_fit, "auto")
    assert not dense
    assert mean is not None
    assert variance is not None
    np.testing.assert_allclose(variance.sqrt().numpy(), SCALES.numpy() / np.sqrt(2), rtol=0.1)
    _, whole, dense = moments(Joint(scaled_problem), scaled_fit, True)
    assert dense
    assert whole is not None
    assert whole.shape == (5, 5)
    assert moments(Joint(scaled_problem), None, "auto") == (None, None, False)
    assert moments(Joint(scaled_problem), {"x": 0.0}, True) == (None, None, True)


def test_starts_are_draws_of_the_fit_and_differ_by_seed(scaled_problem: lvm.Problem, scaled_fit: lvm.Fit) -> None:
    from pyrolvm._methods.nuts.starts import find_starts

    drawn = scaled_fit.data["unconstrained_posterior"]["x"].values.reshape(-1, 5)
    with scaled_problem.session(seed=0):
        first, other = (find_starts(Joint(scaled_problem), scaled_fit, 3, seed).numpy() for seed in (0, 1))
    for start in (*first, *other):
        assert (drawn == start).all(1).any()
    assert not (first == other).all(1).any()


def test_a_fit_of_another_problem_is_refused_by_site(ridge_problem: lvm.Problem, scaled_fit: lvm.Fit) -> None:
    with pytest.raises(lvm.ArgumentError, match=r"another problem: for site 'a'.*Fix:"):
        run(ridge_problem, init=scaled_fit)
