"""Ends of ascents of posteriors that consist of copies of one mode."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._methods.sparse.search import APART
from pyrolvm._program.density import Joint, constrained
from pyrolvm._program.symmetry.orbits import Orbits

__all__ = ["modes_apart"]

Array = NDArray[np.float64]


def modes_apart(joint: Joint, values: Mapping[str, Tensor], ends: Array) -> int:
    """At how many places ascents ended that are no copies of the first; must be called inside a session.

    Signs of factors and labels of components are free in many hierarchies, so that ascents end at any of the copies.

    Args:
        joint: the density.
        values: draws of a mode by site.
        ends: unknowns where ascents ended, that mode's first, shape ``(P, n)``.
    """
    orbits = Orbits.found(joint.problem, values) if len(ends) > 1 else None
    if orbits is None:
        return len(ends)
    with torch.no_grad():
        places = constrained(joint, torch.as_tensor(ends).to(joint.problem.dtype))
    aligned = orbits.alignment(orbits.flat(places))
    sds = np.maximum(orbits.alignment(orbits.flat(values)).std(axis=0), 1e-300)
    others = np.max(np.abs(aligned[1:] - aligned[0]) / sds, axis=1, initial=0.0) > APART
    return 1 + int(others.sum())
