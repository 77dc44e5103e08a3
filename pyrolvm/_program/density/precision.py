"""Whether a density has the digits that it needs: the same draws in 32 and in 64 bits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyrolvm._base.errors import PyrolvmWarning
from pyrolvm._program.density.joint import Joint
from pyrolvm._program.problem import Problem

__all__ = ["MUCH", "rounding", "with_digits"]

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
    few = [{name: value[i] for name, value in draws.items()} for i in chosen]
    try:
        narrow = _log_p(problem, few)
        wide_problem = problem.to(dtype=torch.float64)
        with wide_problem.session(seed=0):
            wide = _log_p(wide_problem, [{name: value.double() for name, value in draw.items()} for draw in few])
    except Exception as error:  # of a program that runs in float32 alone, whatever it raises
        return {"precision_note": f"not compared with float64: {type(error).__name__}: {error}"[:300]}
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
    coarse = _coarse(problem)
    if coarse:
        warnings.warn(
            f"{coarse}, so {problem.name!r} is run in float64. Fix: subtract large offsets from priors, data and constants, or pass "
            "dtype=torch.float64.",
            PyrolvmWarning,
            stacklevel=5,
        )
        return problem.to(dtype=torch.float64)
    with problem.session(seed=POINTS_SEED):
        joint, size = Joint(problem), problem.unconstrained_size
        try:
            points = [joint.constrain(2 * torch.rand(size, device=problem.device) - 1) for _ in range(POINTS)]
            found = rounding(
                problem, {site.name: torch.stack([p[site.name] for p in points]) for site in problem.continuous}
            )
        except (RuntimeError, ValueError):  # a program that cannot be run there is met by what runs it next
            return problem
    error, allowed = found.get("precision_error", 0.0), found.get("precision_allowed", 0.0)
    if error <= MUCH + allowed or _out_of_bounds(problem, points):
        return problem
    warnings.warn(
        f"the log density of {problem.name!r} in float32 differs from that in float64 by {error:.3g} nats from point to point, so "
        "it is run in float64. Fix: subtract large offsets from data and constants, or pass dtype=torch.float64.",
        PyrolvmWarning,
        stacklevel=5,
    )
    return problem.to(dtype=torch.float64)


def _coarse(problem: Problem) -> str:
    """Which latent lies so far from zero for its prior's spread that float32 has few values to tell apart; empty if none does."""
    draws: dict[str, list[np.ndarray[Any, Any]]] = {site.name: [] for site in problem.continuous}
    try:
        wide = problem.to(dtype=torch.float64)
        with wide.session(seed=POINTS_SEED), torch.no_grad():
            for _ in range(PRIOR):
                nodes: Any = poutine.trace(wide.model).get_trace(*wide.args, **wide.kwargs).nodes
                for name, values in draws.items():
                    values.append(nodes[name]["value"].detach().cpu().numpy())
        found = {name: np.stack(values) for name, values in draws.items()}
    except Exception:  # of a prior without draws, or a program of float32 alone: densities are looked at next
        return ""
    for name, many in found.items():
        spread, size = many.std(axis=0), np.abs(many).min(axis=0)
        apart = np.spacing(size.astype(np.float32)).astype(float)
        far = (apart > COARSE * spread) & (spread > TINY * size)
        if far.any():
            at = np.argmax(np.where(far, apart, 0.0))
            return f"values of {name!r} in float32 are {apart.flat[at]:.3g} apart, and its prior has a spread of {spread.flat[at]:.3g}"
    return ""


def _out_of_bounds(problem: Problem, points: list[dict[str, Tensor]]) -> bool:
    """Whether the difference says nothing of digits.

    A distribution has arguments at these points that it does not take, so that what it computes hangs on the dtype; or the density is
    another one in every run, which is told where programs are checked for it.
    """
    with problem.session(seed=POINTS_SEED, validate=True):
        try:
            first, second = (_log_p(problem, points) for _ in range(2))
        except ValueError:
            return True
    return not np.array_equal(first, second, equal_nan=True)


def _log_p(problem: Problem, draws: list[dict[str, Tensor]]) -> np.ndarray[Any, Any]:
    joint = Joint(problem)
    with torch.no_grad():
        return np.array([float(joint.log_p(draw)) for draw in draws])
