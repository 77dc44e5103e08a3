"""Neal's funnel: a normal variable is the log variance of nine others. 10 unknowns, exact.

    v   ~ Normal(0, 3)
    x_i ~ Normal(0, exp(v / 2))        i = 0..8

A Gaussian guide in these coordinates has one width where the funnel has all of them: it sits in the mouth and leaves out the
neck. The sd of x_i is exp(9/4), but it comes from draws so rare that no method finds it by sampling. Scored instead is
log |x_i| = v/2 + log |e|, e ~ Normal(0, 1): its mean is -(gamma + log 2)/2 with Euler's gamma, its variance 9/4 + pi^2/8.

References:
    Neal (2003). Slice sampling, section 8. https://doi.org/10.1214/aos/1056562461
"""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm

from .base import Entry, Moments, labels

SIZE = 9
SCALE = 3.0


def funnel(scale: Tensor) -> None:
    """The funnel.

    Args:
        scale: the standard deviation of ``v``, shape ``()``.
    """
    v = pyro.sample("v", dist.Normal(0.0, scale))
    with pyro.plate("coordinate", SIZE):
        x = pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))
        pyro.deterministic("log_abs_x", x.abs().clamp(min=torch.finfo(x.dtype).tiny).log())


def problem() -> lvm.Problem:
    """The funnel with a standard deviation of 3."""
    return lvm.Problem(funnel, torch.tensor(SCALE, dtype=torch.float64))


def exact() -> dict[str, Moments]:
    """Closed forms."""
    log_abs = Moments(-(np.euler_gamma + math.log(2)) / 2, math.sqrt(SCALE**2 / 4 + math.pi**2 / 8))
    return {"v": Moments(0.0, SCALE), **dict.fromkeys(labels("log_abs_x", (SIZE,)), log_abs)}


ENTRY = Entry(
    problem=problem,
    scored=("v", "log_abs_x"),
    exact=exact,
    unscored={"x": "its moments rest on draws too rare to score: log_abs_x is scored in its place"},
)
