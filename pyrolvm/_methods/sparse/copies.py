"""Posteriors that consist of copies of one mode: draws of one spread over all, and ends of ascents that are copies of each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._methods.sparse.search import APART
from pyrolvm._program.density import Joint, constrained
from pyrolvm._program.symmetry import find_symmetries
from pyrolvm._program.symmetry.orbits import Orbits

__all__ = ["Copied", "over_copies"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Copied:
    """Draws of all copies.

    Attributes:
        values: the draws by site.
        orbits: the copies that they were spread over; ``None`` where they are as they were drawn.
        nats: by how much the evidence of all copies is more than that of the one that was drawn from.
        modes: at how many places ascents ended that are no copies of each other.
    """

    values: dict[str, Tensor]
    orbits: Orbits | None
    nats: float
    modes: int


def over_copies(joint: Joint, values: dict[str, Tensor], ends: Array, seed: int) -> Copied:
    """Draws of one mode as those of all its copies; must be called inside a session.

    Signs of factors and labels of components are free in many hierarchies, so that ascents end at any of the copies, and the weights
    are of the one whose Gaussian was taken. What copies the posterior has is found by trying the program, and where draws lie in one
    of them and the copies are apart, all have the same mass.

    Args:
        joint: the density.
        values: the draws by site.
        ends: unknowns where ascents ended, the highest first, shape ``(P, n)``.
        seed: of which draw goes where.
    """
    symmetries = find_symmetries(joint.problem)
    flat = (
        symmetries.layout.join({name: value.cpu().numpy() for name, value in values.items()})
        if symmetries.blocks
        else None
    )
    orbits = None if flat is None else Orbits.of(symmetries, flat)
    if orbits is None:
        return Copied(values, None, 0.0, len(ends))
    with torch.no_grad():
        places = constrained(joint, torch.as_tensor(ends).to(joint.problem.dtype))
    aligned = orbits.alignment(orbits.flat(places))
    sds = np.maximum(orbits.alignment(orbits.flat(values)).std(axis=0), 1e-300)
    others = np.max(np.abs(aligned[1:] - aligned[0]) / sds, axis=1, initial=0.0) > APART
    modes, nats = 1 + int(others.sum()), orbits.hidden(values)
    if nats is None or not math.isfinite(nats):
        return Copied(values, None, 0.0, modes)
    return Copied(orbits.spread(values, seed, evenly=True), orbits, nats, modes)
