"""The integrated density by formula, and quantities that do not see rotations."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import HalfNormal, MultivariateNormal, Normal

import pyrolvm as lvm

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module", params=[1, 2, 3])
def explicit(request):
    return lvm.problem("ppca", q=request.param).to(dtype=torch.float64)


@pytest.fixture(scope="module", params=[1, 2, 3])
def marginal(request):
    return lvm.problem("ppca", q=request.param, marginal=True).to(dtype=torch.float64)


def _integrated(x, loadings, sigma):
    """log p(W, sigma) + sum_n log Normal(x_n; 0, W W^T + sigma^2 I)."""
    covariance = loadings @ loadings.mT + sigma**2 * torch.eye(len(loadings))
    prior = Normal(0.0, 1.0).log_prob(loadings).sum() + HalfNormal(1.0).log_prob(sigma)
    return prior + MultivariateNormal(x.new_zeros(len(loadings)), covariance).log_prob(x).sum()


def test_the_marginal_density_is_the_integrated_one(marginal, prior_draw, log_joint):
    draw = prior_draw(marginal)
    expected = _integrated(marginal.args[0], draw["W"], draw["sigma"])
    torch.testing.assert_close(log_joint(marginal, draw), expected, rtol=1e-10, atol=1e-6)


def test_the_explicit_density_integrates_to_it(explicit, prior_draw, log_joint):
    draw = prior_draw(explicit)
    (x,) = explicit.args
    loadings, sigma, z = draw["W"], draw["sigma"], draw["z"]
    inner = loadings.mT @ loadings + sigma**2 * torch.eye(z.shape[1])
    posterior = MultivariateNormal(x @ loadings @ inner.inverse(), sigma**2 * inner.inverse())
    marginal = log_joint(explicit, draw) - posterior.log_prob(z).sum()
    torch.testing.assert_close(marginal, _integrated(x, loadings, sigma), rtol=1e-8, atol=1e-6)


def test_neither_density_nor_quantities_see_rotations(explicit, prior_draw, log_joint):
    draw = prior_draw(explicit)
    q = draw["z"].shape[1]
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(q, q, generator=generator)).Q
    rotated = {"W": draw["W"] @ rotation, "sigma": draw["sigma"], "z": draw["z"] @ rotation}
    torch.testing.assert_close(log_joint(explicit, rotated), log_joint(explicit, draw))
    for name, function in explicit.quantities.items():
        torch.testing.assert_close(function(rotated), function(draw), msg=lambda text, name=name: f"{name}: {text}")


def test_quantities_are_what_they_say(explicit, prior_draw):
    draw = prior_draw(explicit)
    values = {name: function(draw) for name, function in explicit.quantities.items()}
    covariance = draw["W"] @ draw["W"].mT + draw["sigma"] ** 2 * torch.eye(13)
    eigenvalues = torch.linalg.eigvalsh(covariance).flip(0) - draw["sigma"] ** 2
    q = draw["z"].shape[1]
    torch.testing.assert_close(values["log_eigenvalue"].exp(), eigenvalues[:q])
    variance = covariance.diagonal()
    torch.testing.assert_close(values["communality"], 1 - draw["sigma"] ** 2 / variance)
    torch.testing.assert_close(values["correlation"][0], covariance[5, 6] / math.sqrt(variance[5] * variance[6]))
    torch.testing.assert_close(values["reconstruction"][1], draw["W"] @ draw["z"][59])


def test_the_explicit_problem_counts_its_locals():
    assert lvm.problem("ppca").unconstrained_size == 13 * 2 + 1 + 178 * 2
    assert lvm.problem("ppca", marginal=True).unconstrained_size == 13 * 2 + 1
