"""Arguments of ``lvm.smc``, checked before anything runs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, PyrolvmWarning, positive_int
from pyrolvm._base.machine import require_memory
from pyrolvm._program.names import variable
from pyrolvm._program.problem import Problem
from pyrolvm._results import Fit, Posterior

__all__ = ["between", "check_memory", "check_particles", "held_parameters", "started", "warn_of_subsamples"]

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


def held_parameters(
    problem: Problem, posterior: Posterior | None, params: Posterior | Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """The learnable parameters' values to hold.

    Raises:
        ArgumentError: if some are missing, or of no problem like this.
    """
    given = params if params is not None else posterior
    if given is None:
        return {}
    values = given.params if isinstance(given, Posterior) else given
    if not isinstance(values, Mapping):
        raise ArgumentError(
            f"params must be a fitted result or values by name, got {type(values).__name__}. Fix: pass params=lvm.fit(problem)."
        )
    absent = [name for name in problem.parameters if name not in values]
    if absent:
        raise ArgumentError(
            f"there is no value for the learnable parameter {absent[0]!r} of {problem.name} (there are: {', '.join(values) or 'none'}"
            "). Fix: pass params=fit, of a fit of this problem."
        )
    return {name: torch.as_tensor(values[name]).detach() for name in problem.parameters}


def warn_of_subsamples(problem: Problem) -> None:
    """Says that all rows are used, where a model subsamples by itself."""
    for plate in problem.plates.values():
        if plate.subsampled:
            warnings.warn(
                f"plate {plate.name!r} subsamples its {plate.size} rows; all rows are used, since particles on subsamples do not go to "
                f"the posterior. Fix: write pyro.plate({plate.name!r}, {plate.size}) to make this explicit.",
                PyrolvmWarning,
                stacklevel=5,
            )


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
