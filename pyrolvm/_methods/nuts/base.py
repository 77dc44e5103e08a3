"""What every NUTS kernel is given and gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from pyrolvm._base.machine import available
from pyrolvm._base.numerics import Array
from pyrolvm._base.progress import Progress
from pyrolvm._methods.nuts.checkpoint import ChainKeeper

__all__ = ["LowRank", "Raw", "Settings", "depths", "stage", "workers"]


@dataclass(frozen=True)
class LowRank:
    """The coordinates ``z = mean + scale (e + U (stretch - 1) U' e)``, in which a posterior is about standard normal.

    Attributes:
        mean: shape ``(n,)``.
        scale: shape ``(n,)``.
        basis: U, orthonormal directions in units of the scales, shape ``(n, k)``.
        stretch: the scale along each of them, shape ``(k,)``.
    """

    mean: Array
    scale: Array
    basis: Array
    stretch: Array

    def forward(self, e: Array) -> Array:
        """The points of coordinates, along leading dimensions."""
        return self.mean + self.scale * self._stretched(e, self.stretch)

    def inverse(self, z: Array) -> Array:
        """The coordinates of points."""
        return self._stretched((z - self.mean) / self.scale, 1 / self.stretch)

    def pull(self, gradient: Array) -> Array:
        """The gradient by coordinates, given that by points."""
        return self._stretched(gradient * self.scale, self.stretch)

    @property
    def variances(self) -> Array:
        """Of each unknown, shape ``(n,)``."""
        found: Array = self.scale**2 * (1 + self.basis**2 @ (self.stretch**2 - 1))
        return found

    def _stretched(self, e: Array, by: Array) -> Array:
        found: Array = e + ((e @ self.basis) * (by - 1)) @ self.basis.T
        return found


@dataclass(frozen=True)
class Settings:
    """How to run the chains.

    Attributes:
        warmup: transitions of adaptation.
        draws: transitions to keep.
        target_accept: the acceptance probability that the step size is adapted to.
        max_tree_depth: the bound on doublings.
        dense: whether the mass matrix has all entries or its diagonal only.
        mean: the posterior mean to begin with, on the unconstrained scale, shape ``(unconstrained_size,)``; ``None`` where
            nothing is known.
        covariance: the posterior covariance to begin with, the first inverse mass matrix: shape ``(unconstrained_size,)``
            or, where ``dense``, square; ``None`` for the identity.
        metric: coordinates of a low rank to sample in, where the kernel can; beside them ``mean`` and ``covariance`` are for others.
        progress: told of transitions done.
        keeper: where checkpoints go, and come from; ``None`` for none.
    """

    warmup: int
    draws: int
    target_accept: float
    max_tree_depth: int
    progress: Progress
    dense: bool = False
    mean: Tensor | None = None
    covariance: Tensor | None = None
    keeper: ChainKeeper | None = None
    metric: LowRank | None = None


@dataclass
class Raw:
    """What a NUTS kernel returns.

    Attributes:
        draws: unconstrained draws, shape ``(chains, draws, unconstrained_size)``.
        stats: sampler statistics by ArviZ name, each of shape ``(chains, draws)``.
        warmup_steps: leapfrog steps of each chain's warmup, shape ``(chains,)``.
        interrupted: whether the user stopped it before it was done.
        potential: the potential energy of each draw as the kernel computed it, shape ``(chains, draws)``; ``None`` where it
            ran the model by Pyro itself.
        seconds: wall time of phases before the first transition.
        note: how it was run.
    """

    draws: Tensor
    stats: dict[str, Array]
    warmup_steps: Array
    interrupted: bool = False
    potential: Array | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""


def depths(steps: Array) -> Array:
    """The doublings that gave trajectories of so many steps."""
    return np.ceil(np.log2(steps + 1)).astype(int)


def stage(warmup: bool, divergences: int) -> str:
    """What a bar says of chains: where they are, and how many transitions diverged."""
    return f"{'warmup' if warmup else 'sampling'}, {divergences:,} diverged"


def workers(chains: int) -> int:
    """How many chains to run at a time: one for each processor that this process may use."""
    return max(1, min(chains, available()))
