"""Arguments of ``lvm.smc``, checked before anything runs."""

from __future__ import annotations

from dataclasses import replace

from pyrolvm._base.errors import ArgumentError, positive_int
from pyrolvm._base.machine import require_memory
from pyrolvm._program.names import variable
from pyrolvm._program.problem import Problem
from pyrolvm._results import Fit, Posterior

__all__ = ["between", "check_memory", "check_particles", "started"]

FEWEST = 50
"""Particles of an island."""


def between(name: str, value: object, usual: float) -> float:
    """A number between 0 and 1.

    Raises:
        ArgumentError: if it is none.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < float(value) < 1:  # type: ignore[arg-type]
        raise ArgumentError(f"{name} must lie between 0 and 1, got {value!r}. Fix: use {name}={usual:g}.")
    return float(value)  # type: ignore[arg-type]


def check_particles(particles: int, islands: int) -> None:
    """Refuses numbers of particles and islands that do not go together.

    Raises:
        ArgumentError: with numbers that do.
    """
    positive_int("islands", islands)
    positive_int("particles", particles)
    if particles % islands or particles < FEWEST * islands:
        near = max(round(particles / islands), FEWEST) * islands
        raise ArgumentError(
            f"particles must be a multiple of islands={islands} with at least {FEWEST} for each, got {particles}. "
            f"Fix: use particles={near}."
        )


def started(start: object, problem: Problem) -> Posterior | None:
    """The posterior to start from, of the problem; ``None`` for the prior.

    Raises:
        ArgumentError: if it is neither, has no density, or is of another problem.
    """
    if isinstance(start, str) and start == "prior":
        return None
    if not isinstance(start, Posterior):
        raise ArgumentError(
            f'start must be "prior" or a posterior, got {start!r:.80}. Fix: use start="prior", or start=lvm.fit(problem).'
        )
    if isinstance(start, Fit):
        if start.maximum_likelihood:
            raise ArgumentError(f'{start.name} has no draws to start from. Fix: use start="prior" with params=fit.')
        start.check_density("a start")
    drawn = start.data["posterior"].data_vars
    for site in problem.continuous:
        name = variable(site.name)
        shape = tuple(drawn[name].shape[2:]) if name in drawn else None
        if shape != tuple(site.shape):
            told = "none" if shape is None else f"draws of shape {shape}"
            raise ArgumentError(
                f"start is a posterior of another problem: for site {site.name!r} it has {told}, expected {tuple(site.shape)}. "
                "Fix: start from a posterior of this problem."
            )
    return replace(start, problem=problem)


def check_memory(problem: Problem, particles: int) -> None:
    """Refuses more particles than there is room for.

    Raises:
        ArgumentError: with what they take and what is free.
    """
    size = problem.unconstrained_size
    require_memory(
        f"{particles:,} particles of {size:,} unknowns take, with gradients, on both scales and in the result",
        12.0 * particles * size * 8 + 4.0 * 8 * size**2,
        "ask for fewer particles.",
    )
