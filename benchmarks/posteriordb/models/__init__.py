"""Pyro models of 27 posteriors of posteriordb, written from their mathematical description.

``PROBLEMS`` has, by the posterior's name, a function from the fields of its data set to a ``lvm.Problem`` in double precision.
Sites are named as in the reference draws. Where those hold transformed parameters, the model records these by
``pyro.deterministic``, and ``TO_SITES`` has the way back to the sampled sites. Where the reference's density is that of other
coordinates, ``VOLUMES`` has the difference of the log densities.
"""

from __future__ import annotations

from . import eight_schools, gaussian_processes, hidden_markov, mixtures, odes, regressions, time_series
from ._data import Data, Draw, Maker, ToSites, Volume

__all__ = ["DESIGNS", "PROBLEMS", "TO_SITES", "VOLUMES", "Data", "Draw", "Maker", "ToSites", "Volume"]

_MODULES = (eight_schools, time_series, gaussian_processes, hidden_markov, mixtures, odes, regressions)

PROBLEMS: dict[str, Maker] = {name: make for module in _MODULES for name, make in module.PROBLEMS.items()}

TO_SITES: dict[str, ToSites] = {
    **eight_schools.TO_SITES, **time_series.TO_SITES,
}  # fmt: skip

VOLUMES: dict[str, Volume] = {**gaussian_processes.VOLUMES}

DESIGNS = regressions.DESIGNS
"""Design matrix and outcome of the regressions with flat priors, whose posteriors have a closed form."""
