r"""Neal's funnel: a normal variable is the log variance of nine others. Every moment is known, and there are no data.

    v   ~ Normal(0, 3)
    x_i ~ Normal(0, exp(v / 2))        i = 1..9

Graph: ``v -> x_i`` with a plate over the coordinates. It is the prior of every hierarchical model with an unknown
scale, with nothing observed: at ``v = -6`` each ``x_i`` has an sd of 0.05, at ``v = 6`` of 20, and both are within
two sds of the middle.

What variational inference loses: a Gaussian guide in these coordinates has one width where the funnel has all of
them. It sits in the mouth, leaves out the neck, and makes the sd of ``v`` far too small: mean-field 0.45 for 3.
No fixed step size suits NUTS in these coordinates, which diverges in the neck. In the frame of a guide over all unknowns, ``x_i``
is ``exp(v / 2)`` times a standard normal variable, and the posterior is exactly Gaussian: full-rank and all that
start from it are exact.

The sd of ``x_i`` is ``exp(9/4) = 9.5``, but it rests on draws so rare that no sample shows it. So compare
``log_abs``: ``log |x_i| = v / 2 + log |e|`` with ``e ~ Normal(0, 1)`` has mean ``-(gamma + log 2) / 2 = -0.635`` with
Euler's gamma, and variance ``9/4 + pi^2 / 8``.

Data: none.

References:
    Neal, R. M. (2003). Slice sampling. Annals of Statistics 31, 705-767, section 8.
        https://doi.org/10.1214/aos/1056562461
    Betancourt, M., Girolami, M. (2015). Hamiltonian Monte Carlo for hierarchical models.
        https://arxiv.org/abs/1312.0906
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data

EULER = 0.5772156649015329

MOMENTS = {
    "v": (0.0, 3.0),
    "log_abs": (-(EULER + math.log(2)) / 2, math.sqrt(9 / 4 + math.pi**2 / 8)),
}
"""Exact mean and sd of ``v``, and of each element of the quantity ``log_abs``."""


def log_abs(draw: Mapping[str, Tensor]) -> Tensor:
    """``log |x_i|``, whose moments a sample can show, shape ``(coordinates,)``."""
    x = draw["x"].abs()
    return x.clamp(min=torch.finfo(x.dtype).tiny).log()


def funnel(*, coordinates: int = 9) -> lvm.Problem:
    """Neal's funnel.

    Args:
        coordinates: How many variables share the log variance ``v``.

    Returns:
        The problem; its ``quantities`` are ``log_variance``, which is ``v``, and ``log_abs``; ``MOMENTS`` are theirs.

    Raises:
        ArgumentError: ``coordinates`` is not a positive integer.
    """
    n = _data.check_count("funnel", "coordinates", coordinates)

    @lvm.model(
        dims={"log_abs": ["coordinate"]}, quantities={"log_variance": lambda draw: draw["v"], "log_abs": log_abs}
    )
    def neal(scale: Tensor) -> None:
        """The funnel; ``v`` has the sd ``scale`` ``()``."""
        v = pyro.sample("v", dist.Normal(0.0, scale))
        with pyro.plate("coordinate", n):
            pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))

    return lvm.Problem(neal, 3.0)
