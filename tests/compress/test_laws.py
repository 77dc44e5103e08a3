"""What is pushed comes off again, to the bit, and takes as many bits as its density says."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from pyrolvm._check.compress.laws import Grid, draw
from pyrolvm._check.compress.programs import _Kept
from pyrolvm._check.compress.stack import DryError, Stack, initial_words
from pyrolvm_models._likelihoods import DiscretizedLogistic
from pyrolvm_models._neighbours import NeighbourBernoulli
from pyrolvm_models._priors import GaussianMixture
from pyrolvm_models.autoregressive_vae import CausalBernoulli

ROWS, WIDTH = 40, 6
GRID = Grid(-8, 4096)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def causal():
    inward = torch.tril(torch.ones(WIDTH, WIDTH), -1) * random(WIDTH, WIDTH)
    return CausalBernoulli(random(ROWS, WIDTH), random(ROWS, WIDTH), inward, torch.tril(random(WIDTH, WIDTH)))


LAWS = {
    "coins": lambda: dist.Bernoulli(logits=3 * random(ROWS, WIDTH)).to_event(1),
    "choices": lambda: dist.Categorical(logits=random(ROWS, WIDTH, 5)).to_event(1),
    "counts": lambda: dist.Binomial(9, logits=random(ROWS, WIDTH)).to_event(1),
    "levels": lambda: DiscretizedLogistic(
        8 + 4 * random(ROWS, WIDTH, 2), random(ROWS, WIDTH, 2), random(ROWS, WIDTH, 2).log_softmax(-1), 17
    ).to_event(1),
    "elements in order": causal,
    "pixels that see neighbours": lambda: NeighbourBernoulli(
        random(ROWS, WIDTH), random(5, 4), random(5), random(5), 3, 1
    ),
    "Gaussians": lambda: dist.Normal(random(ROWS, WIDTH), 0.1 + random(ROWS, WIDTH).abs()).to_event(1),
    "correlated Gaussians": lambda: dist.MultivariateNormal(
        random(ROWS, WIDTH), scale_tril=torch.tril(0.3 * random(WIDTH, WIDTH), -1) + 0.5 * torch.eye(WIDTH)
    ),
    "a mixture": lambda: GaussianMixture(
        random(3).log_softmax(-1), 2 * random(3, WIDTH), 0.2 + random(3, WIDTH).abs(), (ROWS,)
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_draws_are_undone_to_the_bit_and_cost_their_density(name):
    torch.set_default_dtype(torch.float64)
    try:
        law = LAWS[name]()
        start = initial_words(2_000)
        stack = Stack(start)
        value = draw(stack, law, "x", GRID)
        drawn = 32 * 2_000 - stack.bits
        kept = _Kept({"x": GRID})
        kept.add("x", law, value)
        kept.push(stack)
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(stack.words, start)
    assert value.shape == (ROWS, WIDTH)
    continuous = name in ("Gaussians", "correlated Gaussians", "a mixture")
    places = ROWS * WIDTH * math.log2(GRID.step) if continuous else 0.0
    assert drawn == pytest.approx(-float(law.log_prob(value).sum()) / math.log(2) - places, rel=0.01, abs=40)


def test_a_stack_that_runs_dry_says_so():
    with pytest.raises(DryError):
        Stack(initial_words(3), floor=2).coins(np.full(1_000, 0.5))


def test_the_first_words_do_not_depend_on_how_many_are_asked_for():
    assert np.array_equal(initial_words(10), initial_words(500)[:10]) and initial_words(500).min() > 0
