"""Whether a density has the digits that it needs: the same draws in 32 and in 64 bits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import PyrolvmWarning
from pyrolvm._base.numerics import Array
from pyrolvm._base.passing import passed_over
from pyrolvm._capture.vmap import vmapped
from pyrolvm._compat.torch import pytree
from pyrolvm._program.density.joint import Joint
from pyrolvm._program.problem import Problem

__all__ = ["MUCH", "rounding", "with_digits"]

T = TypeVar("T")

LOOKED_AT = 8
"""Draws at which both are computed."""

ALLOWED = 0.5
"""Nats by which the difference of both may vary from draw to draw."""

SUMS = 16
"""Errors of sums of many terms, in units of their last digit, that are no fault: they leave gradients as they are."""


MUCH = 5.0
"""Nats beyond these from which on the rounded density is another one."""

PRIOR, COARSE, TINY = 8, 1e-2, 1e-12
"""Draws of the prior; the share of its spread that float32 values may be apart; the share of the values that is rounding."""

POINTS, POINTS_SEED = 4, 11
"""Points at which a problem is looked at before it is run, and the seed that draws them."""


def rounding(problem: Problem, draws: Mapping[str, Tensor]) -> dict[str, Any]:
    """How much the log density in float32 varies against that in float64, from draw to draw; must be called inside a session.

    Args:
        problem: the problem.
        draws: values by continuous latent site, each of shape ``(draws, ...)``.

    Returns:
        Attributes of a result: ``precision_error``, the range of the difference in nats, and ``precision_allowed``, what rounding of
        sums alone explains; or ``precision_note``, why it is not known. Empty where there is nothing to compare, in float64 or with
        learnable networks.
    """
    if (
        problem.dtype != torch.float32
        or problem.parameters
        or problem.modules
        or problem.stream is not None
        or not draws
    ):
        return {}
    total = len(next(iter(draws.values())))
    chosen = np.unique(np.linspace(0, total - 1, min(LOOKED_AT, total)).astype(int))
    few = {name: value[chosen] for name, value in draws.items()}
    try:
        narrow = _log_p(problem, few)
        wide = problem.to(dtype=torch.float64)
        with wide.session(seed=0):
            return _error(narrow, _log_p(wide, {name: value.double() for name, value in few.items()}))
    except Exception as error:  # of a program that runs in float32 alone, whatever it raises
        return {"precision_note": f"not compared with float64: {type(error).__name__}: {error}"[:300]}


def _error(narrow: Array, wide: Array) -> dict[str, Any]:
    """As :func:`rounding`, of log densities in 32 and in 64 bits."""
    finite = np.isfinite(narrow) & np.isfinite(wide)
    if finite.sum() < 2:
        return {}
    allowed = ALLOWED + SUMS * float(np.finfo(np.float32).eps) * float(np.abs(wide[finite]).max())
    return {"precision_error": float(np.ptp(narrow[finite] - wide[finite])), "precision_allowed": allowed}


def with_digits(problem: Problem) -> Problem:
    """The problem, or the same in float64 where float32 makes another density of it at points around the middle.

    A constant of the program, such as an offset of 1e8, spends digits that no look at the data shows.
    """
    if (
        problem.dtype != torch.float32
        or not problem.continuous
        or problem.discrete
        or problem.parameters
        or problem.modules
    ):
        return problem
    try:
        wide = problem.to(dtype=torch.float64)
        drawn, points, known = _looked_at(wide)
        coarse = _coarse(drawn)
    except Exception:
        passed_over("of a program that runs in float32 alone, or not there: it is met by what runs it next")
        return problem
    if coarse:
        return _run_wide(
            wide, f"{coarse}, so {problem.name!r} is", "subtract large offsets from priors, data and constants"
        )
    if problem.stream is not None:
        return problem
    try:
        with problem.session(seed=POINTS_SEED):
            points = {name: value.float() for name, value in points.items()}
            apart = _apart(_log_p(problem, points), known)
    except Exception:
        passed_over("of a program that runs in float64 alone: it is met by what runs it next")
        return problem
    if not apart or _out_of_bounds(problem, points):
        return problem
    return _run_wide(
        wide,
        f"the log density of {problem.name!r} in float32 {apart}, so it is",
        "give data and constants a size near one and no large offsets",
    )


def _run_wide(wide: Problem, why: str, mend: str) -> Problem:
    warnings.warn(f"{why} run in float64. Fix: {mend}, or pass dtype=torch.float64.", PyrolvmWarning, stacklevel=6)
    return wide


def _apart(narrow: Array, wide: Array) -> str:
    """How log densities in 32 bits are others than in 64; empty where they have the digits that they need."""
    lost = int((np.isfinite(wide) & ~np.isfinite(narrow)).sum())
    if lost:
        return f"is not finite at {lost} of {len(wide)} points where it is in float64"
    found = _error(narrow, wide)
    error, allowed = found.get("precision_error", 0.0), found.get("precision_allowed", 0.0)
    return f"differs from that in float64 by {error:.3g} nats from point to point" if error > MUCH + allowed else ""


def _looked_at(wide: Problem) -> tuple[dict[str, Tensor], dict[str, Tensor], Array]:
    """Draws of the prior, none where it cannot be drawn from; points around the middle that float32 holds; and their log densities."""
    joint = Joint(wide)
    with wide.session(seed=POINTS_SEED), torch.no_grad():
        flat = 2 * torch.rand(PRIOR + POINTS, wide.unconstrained_size, device=wide.device) - 1
        try:  # all by one run
            values, log_p = vmapped(joint.somewhere)(flat, torch.arange(len(flat), device=wide.device) < PRIOR)
            drawn = {name: value[:PRIOR] for name, value in values.items()}
            points, known = {name: value[PRIOR:] for name, value in values.items()}, log_p[PRIOR:]
        except Exception:
            passed_over("of vmap, or of a prior without draws")
            drawn = _prior(joint, flat[:PRIOR])
            points, known = _each(joint.somewhere, flat[PRIOR:])
    return drawn, points, known.double().cpu().numpy()


def _prior(joint: Joint, flat: Tensor) -> dict[str, Tensor]:
    """Draws of the prior, as many as there are vectors; none where it has none."""
    try:
        return _each(lambda one: joint.somewhere(one, torch.ones((), dtype=torch.bool, device=one.device)), flat)[0]
    except Exception:
        passed_over("densities are looked at next")
        return {}


def _coarse(drawn: Mapping[str, Tensor]) -> str:
    """Which latent lies so far from zero for its prior's spread that float32 has few values to tell apart; empty if none does."""
    for name, values in drawn.items():
        many = values.cpu().numpy()
        spread, size = many.std(axis=0), np.abs(many).min(axis=0)
        apart = np.spacing(size.astype(np.float32)).astype(float)
        far = (apart > COARSE * spread) & (spread > TINY * size)
        if far.any():
            at = np.argmax(np.where(far, apart, 0.0))
            return f"values of {name!r} in float32 are {apart.flat[at]:.3g} apart, and its prior has a spread of {spread.flat[at]:.3g}"
    return ""


def _out_of_bounds(problem: Problem, points: Mapping[str, Tensor]) -> bool:
    """Whether the difference says nothing of digits.

    A distribution has arguments at these points that it does not take, so that what it computes hangs on the dtype; or the density is
    another one in every run, which is told where programs are checked for it.
    """
    with problem.session(seed=POINTS_SEED, validate=True):
        try:
            first, second = (_log_p(problem, points, together=False) for _ in range(2))
        except ValueError:
            return True
    return not np.array_equal(first, second, equal_nan=True)


def _log_p(problem: Problem, draws: Mapping[str, Tensor], *, together: bool = True) -> Array:
    """Log densities of draws, each of shape ``(draws, ...)``."""
    with torch.no_grad():
        return _each(Joint(problem).log_p, dict(draws), together=together).double().cpu().numpy()


def _each(function: Callable[[Any], T], rows: Any, *, together: bool = True) -> T:
    """What a function gives of each row, stacked: by one run of all where ``vmap`` can, else row by row."""
    if together:
        try:
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.simplefilter("ignore")
                found: T = vmapped(function)(rows)
                return found
        except Exception:
            passed_over("whatever vmap cannot run; a real error shows in the plain runs")
    leaves, structure = pytree.tree_flatten(rows)
    results = [function(pytree.tree_unflatten([leaf[i] for leaf in leaves], structure)) for i in range(len(leaves[0]))]
    columns = zip(*(pytree.tree_flatten(one)[0] for one in results), strict=True)
    stacked: T = pytree.tree_unflatten([torch.stack(column) for column in columns], pytree.tree_flatten(results[0])[1])
    return stacked
