"""The evidence of each row: by importance sampling from its best Gaussian with heavier tails, or by annealing from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pyrolvm._check.gaps.refine import chunk
from pyrolvm._check.gaps.rows import Gaussians, Rows
from pyrolvm._methods.evidence.annealing import Path, Rung, forward, move

__all__ = ["RowEvidence", "annealed", "importance"]

Array = NDArray[np.float64]

PILOT = 600
"""Particles of the climb that finds step sizes, over all rows."""

FREEDOM = 7.0
"""Degrees of freedom of the proposals: tails heavier than a Gaussian's."""


@dataclass(frozen=True)
class RowEvidence:
    """What weights say of each row.

    Attributes:
        value: the log evidence, shape ``(rows,)``, its bias of order 1 / draws removed.
        error: its standard error.
        ess: effective draws.
    """

    value: Array
    error: Array
    ess: Array

    @classmethod
    def of(cls, log_weight: Array) -> RowEvidence:
        """From log weights of shape ``(draws, rows)``."""
        top = log_weight.max(axis=0)
        share = np.exp(log_weight - np.where(np.isfinite(top), top, 0.0))
        mean, count = share.mean(axis=0), len(share)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = share.std(axis=0, ddof=1) / (mean * math.sqrt(count))
            value = np.log(mean) + top + 0.5 * error**2
            ess = share.sum(axis=0) ** 2 / (share**2).sum(axis=0)
        return cls(value, error, np.nan_to_num(ess))


def importance(rows: Rows, family: Gaussians, draws: int, generator: torch.Generator) -> RowEvidence:
    """Weights of draws of a Student t about each row's Gaussian."""
    parts = []
    size, done = family.size, 0
    constant = math.lgamma((FREEDOM + size) / 2) - math.lgamma(FREEDOM / 2) - 0.5 * size * math.log(FREEDOM * math.pi)
    log_det = family.tril.double().diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    with torch.no_grad():
        while done < draws:
            count = min(chunk(rows), draws - done)
            shape = (count, rows.count)
            noise = torch.randn(*shape, size, generator=generator, dtype=torch.float64)
            chi = torch.randn(*shape, int(FREEDOM), generator=generator, dtype=torch.float64).square().sum(-1)
            noise = noise * (FREEDOM / chi).sqrt()[..., None]
            log_q = constant - log_det - 0.5 * (FREEDOM + size) * (noise.square().sum(-1) / FREEDOM).log1p()
            parts.append(rows.log_joint(family.at(noise.to(family.loc))).double() - log_q)
            done += count
    return RowEvidence.of(torch.cat(parts).nan_to_num(nan=-math.inf).cpu().numpy())


def annealed(rows: Rows, family: Gaussians, particles: int, random: np.random.Generator, schedule: int) -> RowEvidence:
    """Weights of paths from each row's Gaussian to its posterior, all rows on the same rungs.

    Particles move in the coordinates in which their row's Gaussian is standard.
    """
    count, size = rows.count, family.size
    log_det = family.tril.double().diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)

    def base(points: Array) -> tuple[Array, Array]:
        return -0.5 * np.sum(points**2, axis=1) - 0.5 * size * math.log(2 * math.pi), -points

    def end(points: Array) -> tuple[Array, Array]:
        noise = torch.as_tensor(points).reshape(-1, count, size).to(family.loc)
        values, slopes = [], []
        for piece in noise.split(chunk(rows)):
            leaf = piece.detach().requires_grad_()
            with torch.enable_grad():
                found = rows.log_joint(family.at(leaf))
                (slope,) = torch.autograd.grad(found.sum(), leaf)
            values.append(found.detach().double() + log_det)
            slopes.append(slope.double())
        value, gradient = torch.cat(values).reshape(-1).cpu().numpy(), torch.cat(slopes).reshape(-1, size).cpu().numpy()
        bad = ~(np.isfinite(value) & np.isfinite(gradient).all(axis=1))
        value[bad], gradient[bad] = -np.inf, 0.0
        return value, gradient

    path = Path(base, end)
    rungs = _rungs(path, random.normal(size=(max(1, math.ceil(PILOT / count)) * count, size)), schedule, random)
    log_weight = forward(path, random.normal(size=(particles * count, size)), rungs, random, lambda _: None)
    return RowEvidence.of(log_weight.reshape(particles, count))


def _rungs(path: Path, start: Array, count: int, random: np.random.Generator) -> list[Rung]:
    """Equally spaced rungs, whose steps a climb of other particles has found."""
    root, step = np.eye(start.shape[1]), 1.0 / start.shape[1] ** 0.25
    cloud, rungs = path(start), []
    for beta in np.linspace(0.0, 1.0, count + 1)[1:]:
        for _ in range(2):
            cloud, accepted = move(path, cloud, Rung(float(beta), root, step), random)
            step = float(np.clip(step * np.exp(0.7 * (accepted - 0.8)), 1e-4, 1.5))
        rungs.append(Rung(float(beta), root, step))
    return rungs
