"""Eight schools, centred and non-centred; the two share one reference."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models.posteriordb._data import Data, Draw, Maker, ToSites, fields


def centered(sigma: Tensor, y: Tensor) -> None:
    """The posterior ``eight_schools-eight_schools_centered``: school effects given their mean and scale."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def noncentered(sigma: Tensor, y: Tensor) -> None:
    """The posterior ``eight_schools-eight_schools_noncentered``: school effects as ``mu + tau * theta_trans``."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        trans = pyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * trans)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def _standardised(_: Data, draw: Draw) -> Draw:
    return {"mu": draw["mu"], "tau": draw["tau"], "theta_trans": (draw["theta"] - draw["mu"]) / draw["tau"]}


PROBLEMS: dict[str, Maker] = {
    "eight_schools-eight_schools_centered": lambda data: lvm.Problem(centered, *fields(data, "sigma", "y")),
    "eight_schools-eight_schools_noncentered": lambda data: lvm.Problem(noncentered, *fields(data, "sigma", "y")),
}
TO_SITES: dict[str, ToSites] = {"eight_schools-eight_schools_noncentered": _standardised}
