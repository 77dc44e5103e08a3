"""Programs with symmetries, and programs that only look as if they had some."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

DATA = torch.as_tensor(np.concatenate([np.linspace(-1.5, 1.5, 12), np.linspace(4.0, 6.5, 8)]))


def pair(y: Tensor) -> None:
    """Two components of equal scale, alike."""
    share = pyro.sample("share", dist.Dirichlet(y.new_ones(2)))
    middle = pyro.sample("middle", dist.Normal(y.new_zeros(2), 5.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(share), dist.Normal(middle, y.new_ones(2))), obs=y)


def rates(y: Tensor) -> None:
    """Four exponential components with enumerated labels."""
    share = pyro.sample("share", dist.Dirichlet(y.new_full((4,), 2.0)))
    with pyro.plate("parts", 4):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(y)):
        label = pyro.sample("label", dist.Categorical(share), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Exponential(rate[label]), obs=y.abs() + 0.1)


def by_weight(y: Tensor) -> None:
    """Two components whose weight is one number, and whose places have names of their own."""
    share = pyro.sample("share", dist.Beta(3.0, 3.0))
    left = pyro.sample("left", dist.Normal(y.new_zeros(()), 4.0))
    right = pyro.sample("right", dist.Normal(y.new_zeros(()), 4.0))
    both = dist.Normal(torch.stack([left, right]), 1.0)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(torch.stack([share, 1 - share])), both), obs=y)


def in_a_loop(y: Tensor) -> None:
    """Three components, a site each."""
    middles = [pyro.sample(f"middle_{k}", dist.Normal(y.new_zeros(()), 4.0)) for k in range(3)]
    share = y.new_full((3,), 1 / 3)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(share), dist.Normal(torch.stack(middles), 1.0)), obs=y)


def states(y: Tensor) -> None:
    """Hidden states: rows and columns of the transitions go with the emissions."""
    start = pyro.sample("start", dist.Dirichlet(y.new_ones(3)))
    moves = pyro.sample("moves", dist.Dirichlet(y.new_ones(3, 3)).to_event(1))
    level = pyro.sample("level", dist.Normal(y.new_zeros(3), 3.0).to_event(1))
    pyro.sample("y", dist.DiscreteHMM(start.log(), moves.log(), dist.Normal(level, 1.0)), obs=y)


def factors(y: Tensor) -> None:
    """Loadings and scores of two factors."""
    loading = pyro.sample("loading", dist.Normal(y.new_zeros(4, 2), 1.0).to_event(2))
    with pyro.plate("rows", 5):
        score = pyro.sample("score", dist.Normal(y.new_zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(score @ loading.mT, 0.5).to_event(1), obs=y.reshape(5, 4))


def network(y: Tensor) -> None:
    """Three hidden units of tanh."""
    first = pyro.sample("first", dist.Normal(y.new_zeros(3), 1.0).to_event(1))
    bias = pyro.sample("bias", dist.Normal(y.new_zeros(3), 1.0).to_event(1))
    last = pyro.sample("last", dist.Normal(y.new_zeros(3), 1.0).to_event(1))
    x = torch.linspace(-1.0, 1.0, len(y)).to(y)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(torch.tanh(x[:, None] * first + bias) @ last, 1.0), obs=y)


def wave(y: Tensor) -> None:
    """An amplitude of any sign, and a phase."""
    size = pyro.sample("size", dist.Normal(y.new_zeros(()), 3.0))
    phase = pyro.sample("phase", dist.Uniform(y.new_tensor(-math.pi), math.pi))
    time = torch.arange(len(y)).to(y)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(size * torch.sin(time + phase), 1.0), obs=y)


def square(y: Tensor) -> None:
    """One number whose square is seen."""
    root = pyro.sample("root", dist.Normal(y.new_zeros(()), 3.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(root**2, 1.0), obs=y + 4)


def groups(y: Tensor) -> None:
    """Two numbers of either sign, each with data of its own."""
    one = pyro.sample("one", dist.Normal(y.new_zeros(()), 3.0))
    other = pyro.sample("other", dist.Normal(y.new_zeros(()), 2.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("x", dist.Normal(one.abs(), 1.0), obs=y + 4)
        pyro.sample("y", dist.Normal(other.abs(), 1.0), obs=y + 5)


def some_alike(y: Tensor) -> None:
    """Of three components the last has another prior."""
    middle = pyro.sample("middle", dist.Normal(y.new_tensor([0.0, 0.0, 1.0]), 4.0).to_event(1))
    share = y.new_full((3,), 1 / 3)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(share), dist.Normal(middle, 1.0)), obs=y)


def ordered(y: Tensor) -> None:
    """Components in order."""
    law = dist.TransformedDistribution(
        dist.Normal(y.new_zeros(3), 4.0).to_event(1), [dist.transforms.OrderedTransform()]
    )
    middle = pyro.sample("middle", law)
    with pyro.plate("rows", len(y)):
        mixture = dist.MixtureSameFamily(dist.Categorical(y.new_ones(3) / 3), dist.Normal(middle, 1.0))
        pyro.sample("y", mixture, obs=y)


def known_apart(y: Tensor) -> None:
    """Components alike but for the scale of one prior, by one part in a thousand."""
    middle = pyro.sample("middle", dist.Normal(y.new_zeros(2), y.new_tensor([4.0, 4.004])).to_event(1))
    with pyro.plate("rows", len(y)):
        mixture = dist.MixtureSameFamily(dist.Categorical(y.new_ones(2) / 2), dist.Normal(middle, 1.0))
        pyro.sample("y", mixture, obs=y)


def schools(y: Tensor) -> None:
    """Rows with data of their own."""
    spread = pyro.sample("spread", dist.HalfNormal(y.new_ones(())))
    with pyro.plate("rows", len(y)):
        effect = pyro.sample("effect", dist.Normal(0.3, spread))
        pyro.sample("y", dist.Normal(effect, 1.0), obs=y)


def regression(y: Tensor) -> None:
    """Coefficients of different covariates."""
    slope = pyro.sample("slope", dist.Normal(y.new_zeros(3), 1.0).to_event(1))
    x = torch.stack([torch.linspace(0, 1, len(y)) ** k for k in range(3)], dim=1).to(y)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ slope, 1.0), obs=y)
