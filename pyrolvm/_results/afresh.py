"""Whether a stored result is of the state that it says: its densities against the model run afresh at stored draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.explain import told
from pyrolvm._program.density import Joint
from pyrolvm._program.names import read_names, variable
from pyrolvm._program.problem import Problem
from pyrolvm._program.unused import reference

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["AFRESH", "GIVEN", "check_afresh"]

GIVEN = "discrete_given"
"""The attribute that names the discrete latents, comma separated, that ``lp`` is a density of; others are summed out."""

AFRESH = "afresh_"
"""Begins the names of the attributes of ``sample_stats`` that say what a fresh run gave."""

CHECKED = 3
"""Stored draws at which the model is run again."""

TIGHT = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Share of a log density within which two computations of it are one number, without a look at its terms."""

LOOSE = {torch.float64: 1e-10, torch.float32: 2e-5}
"""Share of the sum of the terms' sizes that their order in the sum, and rounding in them, may move a log density by."""

LEAST = 1e-3
"""Nats that no one could tell apart."""

BENT = 16.0
"""How many times the change that one unit in the last place of the draw makes."""


def check_afresh(
    tree: xr.DataTree, problem: Problem, params: Mapping[str, Tensor], *, seed: int = 0, known: float = 0.0
) -> None:
    """Runs stock Pyro at a few stored draws, with the stored parameters, and notes how far ``lp`` is from what that gives.

    Must be called outside of the session that made the result, whose parameters are put back by then: a value that was a view of
    live storage, or belongs to another state than the stored parameters, has another density. One draw is run twice, under two
    seeds: a program that draws numbers of its own, or changes from call to call, is no density at all.

    Args:
        tree: a result with groups ``posterior`` and ``sample_stats``; the latter gets attributes that begin with ``afresh_``.
        problem: the problem.
        params: the stored parameters.
        seed: of the random numbers of the runs.
        known: nats by which ``lp`` is known to be off.
    """
    posterior = tree["posterior"]
    given = read_names(posterior.attrs.get(GIVEN))
    names = [site.name for site in problem.latents if not site.is_discrete or site.name in given]
    stored = np.asarray(tree["sample_stats"]["lp"].values, dtype=float).reshape(-1)
    if any(variable(name) not in posterior for name in names) or not len(stored):
        return
    values = {name: np.asarray(posterior[variable(name)].values) for name in names}
    values = {name: value.reshape(len(stored), *value.shape[2:]) for name, value in values.items()}
    finite = np.flatnonzero(np.isfinite(stored))  # others are judged by their weights
    if not len(finite):
        return
    chosen = sorted({int(finite[round(i * (len(finite) - 1) / (CHECKED - 1))]) for i in range(CHECKED)})
    attrs = tree["sample_stats"].attrs
    attrs[f"{AFRESH}draws"] = len(chosen)
    worst, unsteady = 0.0, 0.0
    for place, index in enumerate(chosen):
        draw = {name: torch.as_tensor(value[index].copy(), device=problem.device) for name, value in values.items()}
        try:
            found = _log_p(problem, params, draw, seed)
            other = _log_p(problem, params, draw, seed + 1) if place == 0 else found
        except Exception as error:  # the result stands, and says that it could not be checked
            attrs[f"{AFRESH}error"] = told(error)
            return
        allowed = _allowed(problem, params, draw, found, max(_gap(found, stored[index]), _gap(found, other)), seed)
        if _gap(found, other) > max(allowed, unsteady):
            unsteady = _gap(found, other)
            attrs.update({f"{AFRESH}first": found, f"{AFRESH}second": other, f"{AFRESH}unsteady": unsteady})
        if _gap(found, stored[index]) > max(allowed + known, worst):
            worst = _gap(found, stored[index])
            attrs.update({f"{AFRESH}lp": found, f"{AFRESH}stored": float(stored[index]), f"{AFRESH}difference": worst})


def _log_p(problem: Problem, params: Mapping[str, Tensor], draw: Mapping[str, Tensor], seed: int) -> float:
    with problem.session(seed=seed, params=params), torch.no_grad():
        alone = {name: value[None] for name, value in draw.items()}
        return float(Joint(problem).log_p(draw) - reference(problem, alone))


def _gap(one: float, other: float) -> float:
    """How far two log densities are apart; two that are not finite are not told apart."""
    if math.isfinite(one) and math.isfinite(other):
        return abs(one - other)
    return 0.0 if not math.isfinite(one) and not math.isfinite(other) else math.inf


def _allowed(
    problem: Problem, params: Mapping[str, Tensor], draw: Mapping[str, Tensor], found: float, gap: float, seed: int
) -> float:
    """By how much rounding alone may move a log density at a draw; looked at closely only where ``gap`` asks for it."""
    tight = TIGHT.get(problem.dtype, 1e-2) * (1 + abs(found))
    if gap <= tight or not math.isfinite(gap):
        return tight
    with problem.session(seed=seed, params=params), torch.no_grad():
        terms = Joint(problem).log_probs(draw).values()
        size = sum(float(term.double().abs().nan_to_num(posinf=0.0).sum()) for term in terms)
    moved: dict[str, Any] = {
        name: torch.nextafter(value, torch.full_like(value, math.inf)) if value.is_floating_point() else value
        for name, value in draw.items()
    }
    bent = _gap(found, _log_p(problem, params, moved, seed))
    return max(tight, LEAST, LOOSE.get(problem.dtype, 1e-2) * size, BENT * bent if math.isfinite(bent) else 0.0)
