"""Radon in 919 houses of 85 counties: varying intercepts and slopes, centred. 176 unknowns.

    intercept_j ~ Normal(level + slope_uranium * uranium_j, spread_intercept)      j = 0..84, the counties
    floor_j     ~ Normal(slope_floor, spread_floor)
    y_i         ~ Normal(intercept_j(i) + floor_j(i) * first_floor_i, noise)

with Normal(0, 5) for means and slopes and HalfNormal(1) for spreads. Counties have 1 to 116 houses, so that neither form is
right for all of them, and ``spread_floor`` is poorly known and comes close to zero: a funnel over the slopes.

Data: real, in ``radon.json``. ``y`` is the log of the activity in pCi/L, which was recorded in tenths.

References:
    Gelman and Hill (2006). Data Analysis Using Regression and Multilevel/Hierarchical Models, chapter 12.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm

from .base import Entry, Sampling

Population = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _population() -> Population:
    """Level, both slopes and both spreads."""
    return (
        pyro.sample("level", dist.Normal(0.0, 5.0)),
        pyro.sample("slope_uranium", dist.Normal(0.0, 5.0)),
        pyro.sample("slope_floor", dist.Normal(0.0, 5.0)),
        pyro.sample("spread_intercept", dist.HalfNormal(1.0)),
        pyro.sample("spread_floor", dist.HalfNormal(1.0)),
    )


def _houses(intercept: Tensor, floor: Tensor, group: Tensor, first_floor: Tensor, y: Tensor) -> None:
    """The likelihood."""
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    with pyro.plate("house", len(y)):
        mean = intercept[..., group] + floor[..., group] * first_floor
        pyro.sample("y", dist.Normal(mean, noise), obs=y)


def centred(uranium: Tensor, group: Tensor, first_floor: Tensor, y: Tensor) -> None:
    """Counties around their population.

    Args:
        uranium: log uranium of the soil of each county, shape ``(85,)``.
        group: the county of each house, from 0, shape ``(919,)``.
        first_floor: 1.0 where the measurement was on the first floor, 0.0 in the basement, shape ``(919,)``.
        y: log activity, shape ``(919,)``.
    """
    level, slope_uranium, slope_floor, spread_intercept, spread_floor = _population()
    with pyro.plate("county", len(uranium)):
        intercept = pyro.sample("intercept", dist.Normal(level + slope_uranium * uranium, spread_intercept))
        floor = pyro.sample("floor", dist.Normal(slope_floor, spread_floor))
    _houses(intercept, floor, group, first_floor, y)


def noncentred(uranium: Tensor, group: Tensor, first_floor: Tensor, y: Tensor) -> None:
    """The same with standardised counties; arguments as of :func:`centred`."""
    level, slope_uranium, slope_floor, spread_intercept, spread_floor = _population()
    with pyro.plate("county", len(uranium)):
        z_intercept = pyro.sample("z_intercept", dist.Normal(0.0, 1.0))
        z_floor = pyro.sample("z_floor", dist.Normal(0.0, 1.0))
        mean = level + slope_uranium * uranium
        intercept = pyro.deterministic("intercept", mean + spread_intercept * z_intercept)
        floor = pyro.deterministic("floor", slope_floor + spread_floor * z_floor)
    _houses(intercept, floor, group, first_floor, y)


def _data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    found = json.loads((Path(__file__).parent / "radon.json").read_text(encoding="utf-8"))
    return (
        torch.tensor(found["uranium"], dtype=torch.float64),
        torch.tensor(np.repeat(np.arange(len(found["houses"])), found["houses"])),
        torch.tensor([float(digit) for digit in found["first_floor"]], dtype=torch.float64),
        torch.tensor(np.log(np.array(found["activity"]) / 10)),
    )


def problem() -> lvm.Problem:
    """The centred form."""
    return lvm.Problem(centred, *_data())


def twin() -> lvm.Problem:
    """The non-centred form."""
    return lvm.Problem(noncentred, *_data())


ENTRY = Entry(
    problem=problem,
    scored=(
        "level", "slope_uranium", "slope_floor", "spread_intercept", "spread_floor", "noise", "intercept", "floor",
    ),
    twin=twin,
    sampling=Sampling(target_accept=0.95),
)  # fmt: skip
