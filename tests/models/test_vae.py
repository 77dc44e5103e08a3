"""The decoder belongs to its problem and learns."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import pyrolvm as lvm


def test_the_decoder_is_learnable_and_reproducible(untouched_rng):
    problem = lvm.problem("vae", images=20, latent=3, hidden=5)
    assert {name: p.shape for name, p in problem.parameters.items()} == {
        "decoder$$$0.weight": (5, 3),
        "decoder$$$0.bias": (5,),
        "decoder$$$2.weight": (64, 5),
        "decoder$$$2.bias": (64,),
    }
    weights = [next(lvm.problem("vae", images=20, seed=seed).args[1].parameters()) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_initial_weights_are_of_the_size_that_torch_gives_linear_layers():
    decoder = lvm.problem("vae").args[1]
    for layer in (decoder[0], decoder[2]):
        bound = layer.in_features**-0.5
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_pixels_are_bernoulli_with_the_decoders_logits(prior_draw, log_joint):
    problem = lvm.problem("vae", images=30)
    x, decoder = problem.args[:2]
    z = prior_draw(problem)["z"]
    with torch.no_grad():
        expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
        expected = expected - torch.nn.functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        torch.testing.assert_close(log_joint(problem, {"z": z}), expected)


def test_stock_pyro_trains_it():
    problem = lvm.problem("vae", images=40, latent=2, hidden=8)
    with poutine.seed(rng_seed=0):
        svi = SVI(problem.model, AutoNormal(problem.model), pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
        losses = [svi.step(*problem.args) for _ in range(150)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
