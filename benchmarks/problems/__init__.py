"""The problems: one model in four languages each, and data made from a seed.

A module of this folder holds

- ``data(seed, **sizes)``: the arrays, named as the models' arguments (float64 and int64);
- ``pyro_model()``, ``numpyro_model()``, ``pymc_model(data)``: the model, each importing its library inside;
- ``STAN`` and ``stan_data(data)``: the Stan program and its data;
- optionally ``START``: values by site at which every method starts, and ``quantities(draws)``: what to look at instead of the
  sites where those are not identified.

Sites have one name and one shape in all four.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

__all__ = ["PROBLEMS", "QUICK", "Problem", "find"]


@dataclass(frozen=True)
class Problem:
    """A module of this folder at one size.

    Attributes:
        name: its name in tables.
        module: the module's name.
        sizes: arguments of its ``data``.
        unknowns: the number of unconstrained unknowns.
    """

    name: str
    module: str
    unknowns: int
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def twins(self) -> Any:
        """The module."""
        return importlib.import_module(f"problems.{self.module}")

    def data(self, seed: int) -> Arrays:
        """The arrays, named as the models' arguments."""
        return self.twins.data(np.random.default_rng(seed), **self.sizes)

    def quantities(self, draws: Arrays) -> Arrays:
        """Identified functions of the draws ``(chain, draw, ...)``; by default the sites themselves."""
        return getattr(self.twins, "quantities", lambda sites: sites)(draws)

    @property
    def start(self) -> Arrays | None:
        """Values by site at which every method starts; ``None`` to leave it to the method."""
        values = getattr(self.twins, "START", None)
        return None if values is None else {name: np.asarray(value, dtype=float) for name, value in values.items()}


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("eight_schools", "eight_schools", 10),
        Problem("logistic_10x1000", "logistic", 11, {"predictors": 10, "rows": 1_000}),
        Problem("logistic_100x10000", "logistic", 101, {"predictors": 100, "rows": 10_000}),
        Problem("radon", "radon", 1_004, {"groups": 1_000, "rows": 10_000}),
        Problem("mixture", "mixture", 14, {"rows": 1_000}),
        Problem("gaussian_process", "gaussian_process", 3, {"points": 80}),
        Problem("stochastic_volatility", "stochastic_volatility", 1_003, {"steps": 1_000}),
        Problem("item_response", "item_response", 700, {"items": 100, "persons": 500}),
    )
}

QUICK = ("eight_schools", "logistic_10x1000")
"""What a smoke run measures."""


def find(name: str) -> Problem:
    """The problem of that name, or a logistic regression of any size such as ``logistic_10x1000000``.

    Raises:
        SystemExit: if there is none.
    """
    if name in PROBLEMS:
        return PROBLEMS[name]
    kind, _, size = name.partition("_")
    predictors, _, rows = size.partition("x")
    if kind == "logistic" and predictors.isdigit() and rows.isdigit():
        return Problem(name, kind, int(predictors) + 1, {"predictors": int(predictors), "rows": int(rows)})
    raise SystemExit(
        f"there is no problem {name!r}. Fix: use one of {', '.join(PROBLEMS)}, or logistic_PREDICTORSxROWS."
    )
