"""Fits against posteriors that are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

NOISE, PRIOR = 0.5, 2.0


def regression(x: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", dist.Normal(x.new_zeros(x.shape[1]), PRIOR).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, NOISE), obs=y)


def sum_of_two(y: Tensor) -> None:
    """Two unknowns of which only the sum is seen: at a noise of 1/3 their posterior correlation is -0.9."""
    a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 1.0))
    b = pyro.sample("b", dist.Normal(y.new_tensor(0.0), 1.0))
    pyro.sample("y", dist.Normal(a + b, 1 / 3), obs=y)


def rate_model(y: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(y.new_tensor(2.0), 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Exponential(rate), obs=y)


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    x[:, 1] += 0.8 * x[:, 0]
    noise = torch.randn(40, generator=generator, dtype=torch.float64)
    return x, x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + NOISE * noise


@pytest.fixture(scope="module")
def full_rank(data: tuple[Tensor, Tensor]) -> lvm.Fit:
    return lvm.fit(lvm.Problem(regression, *data), "full_rank", seed=0, progress=False, num_particles=64)


def test_full_rank_elbo_is_the_evidence_of_a_linear_regression(full_rank: lvm.Fit, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    covariance = NOISE**2 * torch.eye(len(y), dtype=x.dtype) + PRIOR**2 * x @ x.T
    evidence = float(dist.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y))
    assert full_rank.elbo == pytest.approx(evidence, abs=0.01)
    assert full_rank.elbo <= evidence + 4 * full_rank.elbo_error
    assert full_rank.evidence.value == pytest.approx(evidence, abs=0.005)
    assert full_rank.converged
    assert full_rank.verdict.status == "trusted"


def test_full_rank_weights_of_a_gaussian_posterior_are_constant(full_rank: lvm.Fit) -> None:
    assert np.var(full_rank.log_p - full_rank.log_q) < 1e-2


def test_full_rank_moments_of_a_linear_regression(full_rank: lvm.Fit, data: tuple[Tensor, Tensor]) -> None:
    x, y = (value.numpy() for value in data)
    covariance = np.linalg.inv(x.T @ x / NOISE**2 + np.eye(3) / PRIOR**2)
    mean = covariance @ x.T @ y / NOISE**2
    draws = full_rank.sample(20_000, seed=1)["beta"].values[0]
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean) / sd, 0.05)
    np.testing.assert_allclose(draws.std(0) / sd, 1, atol=0.03)
    wanted = covariance / np.outer(sd, sd)
    np.testing.assert_allclose(np.corrcoef(draws.T), wanted, atol=0.03)


def test_mean_field_is_too_narrow_by_exactly_the_correlation() -> None:
    problem = lvm.Problem(sum_of_two, torch.tensor(1.0, dtype=torch.float64))
    precision = np.array([[10.0, 9.0], [9.0, 10.0]])
    covariance = np.linalg.inv(precision)
    rho = covariance[0, 1] / covariance[0, 0]
    assert rho == pytest.approx(-0.9)
    wanted = math.sqrt(covariance[0, 0] * (1 - rho**2))
    # Many particles, so that what is left of the optimiser's noise is well below the bound: 16 leave 1.5% in the sd.
    fit = lvm.fit(problem, "mean_field", seed=0, progress=False, max_steps=1000, num_particles=256, draws=20_000)
    draws = fit.sample(40_000, seed=1)
    for name in ("a", "b"):
        assert float(draws[name].std()) == pytest.approx(wanted, rel=0.02)
    # The lost dependence costs -log(1 - rho^2) / 2 nats, and the verdict must not call this posterior good.
    evidence = float(dist.Normal(0.0, math.sqrt(2 + 1 / 9)).log_prob(torch.tensor(1.0)))
    assert fit.elbo == pytest.approx(evidence + 0.5 * math.log(1 - rho**2), abs=0.05)
    assert fit.verdict.status != "trusted"


def test_positive_rate_by_full_rank_is_close_to_its_gamma() -> None:
    """A Gaussian for log rate is not the Gamma posterior, but its ELBO may only be below the evidence, and not by much."""
    generator = torch.Generator().manual_seed(2)
    y = torch.empty(30, dtype=torch.float64).exponential_(1.5, generator=generator)
    shape, total = 2.0 + len(y), 1.0 + float(y.sum())
    evidence = math.lgamma(shape) - shape * math.log(total)
    fit = lvm.fit(lvm.Problem(rate_model, y), "full_rank", seed=0, progress=False, max_steps=1000)
    assert evidence - 0.02 < fit.elbo < evidence + 4 * fit.elbo_error
    assert fit.evidence.value == pytest.approx(evidence, abs=0.01)
    assert float(fit.data["posterior"]["rate"].mean()) == pytest.approx(shape / total, rel=0.02)
