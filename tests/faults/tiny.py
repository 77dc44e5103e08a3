"""A regression that every command answers in a moment, with a guide that has an encoder."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch

import pyrolvm as lvm

X = torch.tensor([0.2, -1.0, 0.7, 1.4, -0.3, 0.9])
Y = torch.tensor([0.5, -1.2, 0.9, 1.1, 0.0, 1.3])


def regression() -> None:
    """One unknown, with an exact posterior."""
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(Y)):
        pyro.sample("y", dist.Normal(slope * X, 1.0), obs=Y)


def factors(x: torch.Tensor) -> None:
    """A latent of each row."""
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None] * torch.tensor([1.0, 0.5]), 0.7).to_event(1), obs=x)


def rows() -> lvm.Problem:
    """Latents of twelve rows."""
    generator = torch.Generator().manual_seed(0)
    return lvm.Problem(factors, torch.randn(12, 2, generator=generator))
