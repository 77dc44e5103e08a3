"""What the registered problems have, found once in a process: to build them all takes seconds, and many tests choose by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pyrolvm as lvm


@dataclass(frozen=True)
class Kind:
    """What a problem has.

    Attributes:
        latents: whether there is a posterior; without, it is fitted by maximum likelihood.
        parameters: whether something is learnt beside, as of a network.
        continuous: whether some latents are.
        observed: whether there are data.
        rows: whether these are independent rows.
        module: where its model is defined.
    """

    latents: bool
    parameters: bool
    continuous: bool
    observed: bool
    rows: bool
    module: str


@cache
def kind(name: str) -> Kind:
    problem = lvm.problem(name)
    return Kind(
        latents=bool(problem.latents),
        parameters=bool(problem.parameters),
        continuous=bool(problem.continuous),
        observed=bool(problem.observed),
        rows=len(problem.plates) == 1 and bool(problem.observed),
        module=problem.model.__module__,
    )


def names(chosen: Callable[[Kind], bool]) -> list[str]:
    """The registered problems of a kind."""
    return [name for name in lvm.problems(ready=True) if chosen(kind(name))]
