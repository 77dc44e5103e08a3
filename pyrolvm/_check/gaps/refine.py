"""The best Gaussian of the family for each row, and its ELBO."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyrolvm._check.gaps.rows import Gaussians, Rows, matched_noise

__all__ = ["elbo", "refine"]

RATE = 0.05
"""The learning rate at the start, in sds of the guide; it falls to zero as half a cosine."""

LAST = 0.25
"""The share of steps, the last ones, whose average is taken."""

ELEMENTS = 4_000_000
"""Numbers that densities of one call are of at most, unknowns and data together."""


def elbo(rows: Rows, family: Gaussians, noise: Tensor) -> Tensor:
    """Terms whose mean is the ELBO, of each draw and row, ``(draws, rows)``, from noise of shape ``(draws, rows, n)``."""
    parts = []
    with torch.no_grad():
        for piece in noise.split(chunk(rows)):
            parts.append(rows.log_joint(family.at(piece)).double() + 0.5 * piece.double().square().sum(-1))
        return torch.cat(parts) + family.entropy.double() - 0.5 * family.size


def chunk(rows: Rows) -> int:
    """Draws of all rows that are evaluated at once."""
    seen = sum(site.numel for site in rows.problem.observed) / max(rows.problem.plates[rows.plate].size, 1)
    return max(1, int(ELEMENTS / (rows.count * (rows.guide.size + seen + 1))))


def refine(
    rows: Rows, steps: int, particles: int, generator: torch.Generator, told: Callable[[int, float], None]
) -> tuple[Gaussians, list[float]]:
    """The Gaussians of highest ELBO, each row by itself, from those of the guide; and the mean ELBO of a row at each step.

    Adam in the coordinates in which the guide's Gaussians are standard, the noise of each step matched in its first two moments,
    so that gradients are exact where the log density is quadratic.
    """
    start = rows.guide
    size = start.size
    strict = start.free - torch.eye(size).to(start.free)
    shift = torch.zeros_like(start.loc, requires_grad=True)
    stretch = torch.zeros_like(start.loc, requires_grad=True)
    shear = torch.zeros_like(start.tril, requires_grad=True)
    leaves = [shift, stretch, shear] if bool(strict.any()) else [shift, stretch]
    adam = torch.optim.Adam(leaves, lr=RATE, betas=(0.9, 0.99))
    sums = [torch.zeros_like(leaf) for leaf in (shift, stretch, shear)]
    first = int((1 - LAST) * steps)
    course = []

    def family(shift: Tensor, stretch: Tensor, shear: Tensor) -> Gaussians:
        turn = stretch.exp().diag_embed() + strict * shear
        loc = start.loc + torch.einsum("rij,rj->ri", start.tril, shift)
        return Gaussians(loc, start.tril @ turn, start.free)

    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        noise = matched_noise(max(particles, 2 * size + 2), rows.count, size, generator, start.loc)
        with torch.enable_grad():
            now = family(shift, stretch, shear)
            bound = rows.log_joint(now.at(noise)).mean(0) + now.entropy
            gradients = torch.autograd.grad(-bound.sum(), leaves)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        adam.step()
        course.append(float(bound.detach().mean()))
        told(step + 1, course[-1])
        if step >= first:
            for total, leaf in zip(sums, (shift, stretch, shear), strict=True):
                total += leaf.detach()
    with torch.no_grad():
        return family(*(total / (steps - first) for total in sums)), course
