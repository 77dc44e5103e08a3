"""The banana: a Gaussian bent along a parabola. 2 unknowns, exact.

    x1 ~ Normal(0, 10)
    x2 ~ Normal(0.03 (x1^2 - 100), 1)

The correlation is zero, so that in these coordinates a full-rank Gaussian guide is no better than a mean-field one, and both
are too narrow. With Var(x1^2) = 2 * 10^4, the variance of x2 is 1 + 0.03^2 * 2 * 10^4 = 19.

References:
    Haario, Saksman, Tamminen (1999). Adaptive proposal distribution for random walk Metropolis algorithm.
        https://doi.org/10.1007/s001800050022
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm

from .base import Entry, Moments

WIDTH = 10.0
BEND = 0.03


def banana(bend: Tensor) -> None:
    """The banana.

    Args:
        bend: the curvature of the parabola, shape ``()``.
    """
    x1 = pyro.sample("x1", dist.Normal(0.0, WIDTH))
    pyro.sample("x2", dist.Normal(bend * (x1**2 - WIDTH**2), 1.0))


def problem() -> lvm.Problem:
    """The banana with curvature 0.03."""
    return lvm.Problem(banana, torch.tensor(BEND, dtype=torch.float64))


def exact() -> dict[str, Moments]:
    """Closed forms."""
    return {"x1": Moments(0.0, WIDTH), "x2": Moments(0.0, math.sqrt(1 + 2 * BEND**2 * WIDTH**4))}


ENTRY = Entry(problem=problem, scored=("x1", "x2"), exact=exact)
