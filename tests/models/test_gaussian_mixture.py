"""The mixture's density by three routes, and quantities that do not see labels."""

from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

import pyrolvm as lvm
from pyrolvm_models.gaussian_mixture import log_joint_by_component

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module")
def explicit():
    return lvm.problem("gaussian_mixture").to(dtype=torch.float64)


@pytest.fixture(scope="module")
def marginal():
    return lvm.problem("gaussian_mixture", marginal=True).to(dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_enumeration_gives_the_marginal_density(explicit, marginal, prior_draw, log_joint, seed):
    draw = prior_draw(marginal, seed)

    def guide(x):
        for name, value in draw.items():
            pyro.sample(name, dist.Delta(value, event_dim=value.dim()))

    enumerated = -TraceEnum_ELBO(max_plate_nesting=1).loss(explicit.model, guide, *explicit.args)
    assert enumerated == pytest.approx(log_joint(marginal, draw).item(), rel=1e-12, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_density_is_that_of_torch_mixtures(marginal, prior_draw, log_joint, seed):
    draw = prior_draw(marginal, seed)
    (x,) = marginal.args
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(draw["weights"]),
        torch.distributions.Independent(torch.distributions.Normal(draw["locs"], draw["scales"]), 1),
    )
    pointwise = mixture.log_prob(x)
    torch.testing.assert_close(log_joint_by_component(x, draw).logsumexp(-1), pointwise, rtol=0, atol=1e-6)
    prior = (
        dist.Dirichlet(torch.full((3,), 2.0)).log_prob(draw["weights"])
        + dist.Normal(0.0, 1.0).log_prob(draw["locs"]).sum()
        + dist.LogNormal(-1.0, 0.75).log_prob(draw["scales"]).sum()
    )
    torch.testing.assert_close(log_joint(marginal, draw), prior + pointwise.sum(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
def test_neither_density_nor_quantities_see_labels(marginal, prior_draw, log_joint, permutation):
    draw = prior_draw(marginal)
    order = torch.tensor(permutation)
    renamed = {name: value[order] for name, value in draw.items()}
    torch.testing.assert_close(log_joint(marginal, renamed), log_joint(marginal, draw))
    for name, function in marginal.quantities.items():
        torch.testing.assert_close(function(renamed), function(draw), msg=lambda text, name=name: f"{name}: {text}")


def test_same_component_is_a_probability_that_finds_the_species(marginal):
    draw = {  # near the posterior mode
        "weights": torch.tensor([0.33, 0.33, 0.34]),
        "locs": torch.tensor([[-1.01, 0.84, -1.30, -1.25], [0.03, -0.77, 0.31, 0.20], [1.04, -0.03, 1.04, 1.10]]),
        "scales": torch.tensor([[0.42, 0.85, 0.10, 0.14], [0.57, 0.67, 0.28, 0.29], [0.66, 0.65, 0.31, 0.36]]),
    }
    together = marginal.quantities["same_component"](draw)
    assert ((together >= 0) & (together <= 1)).all()
    values = dict(zip(marginal.coords["pair"], together.tolist(), strict=True))
    assert values["0-1"] > 0.99
    assert values["0-50"] < 1e-6


def test_a_single_component_is_a_gaussian():
    problem = lvm.problem("gaussian_mixture", components=1)
    assert problem.sites["weights"].shape == (1,)
