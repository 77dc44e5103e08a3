"""Rules for integrals over standard normal densities: tensor products where dimensions are few, else even draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are first used

from pyrolvm._base.numerics import Array

__all__ = ["Rule", "finest", "rules"]

PRODUCTS = 3
"""Up to so many dimensions rules are tensor products."""

WIDER = 1.2
"""How much wider even draws are than the density: what is integrated may have longer tails than it, on one side at least."""


@dataclass(frozen=True)
class Rule:
    """Nodes and log weights of an integral over a standard normal density.

    Attributes:
        name: what it is.
        nodes: shape ``(S, W)``.
        log_weights: shape ``(S,)``; they sum to one.
    """

    name: str
    nodes: Array
    log_weights: Array


def rules(width: int) -> list[Rule]:
    """Rules for blocks of a width, each finer than the one before: of one node (Laplace's), then tensor products or even draws."""
    found = [Rule("Laplace's approximation", np.zeros((1, width)), np.zeros(1))]
    if not width:
        return found
    levels = {1: (3, 5, 9, 17, 33), 2: (3, 5, 7, 9, 13), 3: (3, 5, 7)}.get(width)
    for level in levels or ():
        nodes, weights = np.polynomial.hermite_e.hermegauss(level)
        grid = np.stack(np.meshgrid(*[nodes] * width, indexing="ij"), axis=-1).reshape(-1, width)
        logs = np.log(weights / weights.sum())
        each = np.stack(np.meshgrid(*[logs] * width, indexing="ij"), axis=-1).reshape(-1, width).sum(axis=1)
        found.append(Rule(f"Gauss-Hermite quadrature with {level} nodes a dimension", grid, each))
    if levels is None:
        ends = math.sqrt(width) * np.concatenate([np.eye(width), -np.eye(width)])
        found.append(Rule("spherical cubature", ends, np.full(len(ends), -math.log(len(ends)))))
        found += [_even(width, count) for count in (32, 128)]
    return found


def finest(width: int) -> list[Rule]:
    """Rules that are finer still, each than the one before, for a few points at most; none where those of :func:`rules` converge."""
    return [_even(width, count) for count in (512, 2_048)] if width > PRODUCTS else []


def _even(width: int, count: int) -> Rule:
    even = scipy.special.ndtri(scipy.stats.qmc.Sobol(width, rng=11).random(count // 2))
    noise = np.concatenate([even, -even])
    log_weights = -0.5 * (WIDER**2 - 1) * (noise**2).sum(axis=1)
    log_weights -= scipy.special.logsumexp(log_weights)  # so that a Gaussian's integral is exact
    return Rule(f"importance sampling with {count} even draws", WIDER * noise, log_weights)
