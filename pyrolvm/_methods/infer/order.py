"""In which order ``lvm.infer`` tries methods."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyrolvm._base.budget import left
from pyrolvm._base.errors import ArgumentError
from pyrolvm._methods.nuts import nutpie_kernel
from pyrolvm._methods.table import Method, without_guide
from pyrolvm._methods.table import methods as all_methods
from pyrolvm._program.problem import Problem
from pyrolvm.family import gradient_seconds
from pyrolvm.family.choice import choose, resolve

__all__ = ["chains_before", "in_order", "row_of"]

COVARIANCE_UNKNOWNS = 1_000
"""Up to so many unknowns a Gaussian with full covariance is tried."""

FLOW_UNKNOWNS = 60
"""Up to so many unknowns a flow is worth its compilation."""

SPARSE_UNKNOWNS, SPARSE_DATA, SPARSE_MEMBERS = 60, 50_000, 20
"""More unknowns, or observed numbers, than so many are first looked at for blocks that are independent given the rest; and so many
unknowns of the members of plates: what they have in common narrows them all at once where it is small, in a tail of the joint posterior
that weights of all unknowns together hardly reach, and that is an ordinary place where members are integrated out."""

GRADIENTS, FLOW_SECONDS = 240_000, 40.0
"""Gradients that four chains of 2,000 transitions take as a rule, and the seconds that a flow takes at least where they are dear."""


def in_order(methods: str | Sequence[object], problem: Problem) -> list[object]:
    """The methods to try, in order.

    Raises:
        ArgumentError: if there is none, or one is unknown.
    """
    if isinstance(methods, str):
        if methods not in ("auto", "vi"):
            raise ArgumentError(
                f'methods must be "auto", "vi" or a list of guides and methods, got {methods!r}. '
                f"Fix: pass methods=[{methods!r}]."
            )
        further = ["nuts", *(name for name, row in all_methods().items() if row.rung)]
        first = ["sparse"] if methods == "auto" and _sparse(problem) else []
        return [*first, *_guides(problem), *(further if methods == "auto" and _can_sample(problem) else [])]
    if not isinstance(methods, Sequence) or not methods:
        raise ArgumentError(f'methods must be a list of guides and methods, got {methods!r}. Fix: use methods="auto".')
    for method in methods:
        if row_of(method) is None:
            resolve(method, problem)
    return list(methods)


def _sparse(problem: Problem) -> bool:
    """Whether blocks or rows are so many that it pays to look for structure before all else."""
    data = sum(site.numel for site in problem.observed)
    members = sum(site.unconstrained_numel for site in problem.latents if site.plates)
    large = problem.unconstrained_size > SPARSE_UNKNOWNS or data > SPARSE_DATA or members >= SPARSE_MEMBERS
    return large and _can_sample(problem) and not problem.discrete and problem.info.guide is None


def _guides(problem: Problem) -> list[object]:
    """The guides that suit a problem, from cheap to dear; the one that the model names, where it names one."""
    if problem.info.guide is not None:
        return [problem.info.guide]
    size = problem.unconstrained_size
    subsampled = any(plate.subsampled for plate in problem.plates.values())
    if problem.parameters or subsampled or size > COVARIANCE_UNKNOWNS or not problem.continuous:
        return [choose(problem)]
    return ["student", "flow"] if size <= FLOW_UNKNOWNS else ["student"]


def _can_sample(problem: Problem) -> bool:
    return bool(problem.continuous) and not problem.parameters


def row_of(method: object) -> Method | None:
    """The row of a method that is asked for by its name; ``None`` for a guide."""
    return None if method == "infer" else without_guide(method)


def chains_before(problem: Problem, methods: list[object]) -> bool:
    """Whether chains, the second method, are better tried before the first.

    A guide of more unknowns than a covariance is taken of cannot be weighed, so that chains would follow in any case. Where time is
    short they might end with nothing, and it goes first.
    """
    if methods[1:2] != ["nuts"] or not nutpie_kernel.usable():
        return False
    if methods[0] == "flow":
        return _chains_are_quick(problem)
    return problem.unconstrained_size > COVARIANCE_UNKNOWNS and methods[0] != "sparse" and math.isinf(left())


def _chains_are_quick(problem: Problem) -> bool:
    """Whether chains take less time than a flow takes to compile and train, by what the frame's gradients took."""
    seconds = gradient_seconds(problem)
    return seconds is not None and GRADIENTS * seconds < FLOW_SECONDS
