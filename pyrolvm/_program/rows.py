"""Which plate holds the rows: the one place that decides it, for minibatches and for data points with a density of their own."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, ProblemError
from pyrolvm._program.program import Program
from pyrolvm._program.sites import Plate

__all__ = ["data_plates", "has_latents", "has_terms", "minibatch_plate", "plate_of_independent_rows", "plate_of_rows"]


def data_plates(problem: Program) -> set[str]:
    """The plates around observed sites."""
    return {plate for site in problem.observed for plate in site.plates}


def has_terms(problem: Program, fn: Any) -> bool:
    """Whether a site has a density by row: not a factor, except one with a batch, which is a likelihood where nothing is observed."""
    return not isinstance(fn, dist.Unit) or (bool(fn.batch_shape) and not problem.observed)


def has_latents(problem: Program, plate: str) -> bool:
    """Whether the rows of a plate have latent sites of their own."""
    return any(plate in site.plates for site in problem.latents)


def minibatch_plate(problem: Program, name: str | None = None) -> Plate:
    """The plate whose rows a minibatch takes.

    Raises:
        ArgumentError: if there is none, several, or none of that name.
    """
    around_data = data_plates(problem)
    candidates = {
        plate.name: plate
        for plate in problem.plates.values()
        if plate.name in around_data and (plate.subsampled or _has_rows(problem, plate.size))
    }
    if name is not None:
        if name not in candidates:
            raise ArgumentError(
                f"plate {name!r} cannot be subsampled: no observed site with rows of its own is in it. "
                f"Fix: use one of {', '.join(candidates) or 'none: this model has no such plate'}."
            )
        return candidates[name]
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    if not candidates:
        raise ArgumentError(
            f"batch_size needs a plate over the rows of the data around an observed site; {problem.name} has none. "
            'Fix: put the observation into `with pyro.plate("data", len(y)):`, or leave batch_size out.'
        )
    raise ArgumentError(
        f"batch_size could mean the rows of {' or '.join(repr(p) for p in candidates)}. "
        f"Fix: name one, for example batch_plate={next(iter(candidates))!r}."
    )


def plate_of_rows(problem: Program, name: str | None = None) -> Plate | None:
    """The plate of the data's rows, that of the name if one is given; ``None`` if there is none, or several could be meant."""
    try:
        return minibatch_plate(problem, name)
    except ArgumentError:
        return None


def plate_of_independent_rows(problem: Program, name: str | None = None) -> str:
    """The plate whose rows are data points: all latents and all data are in it.

    Args:
        problem: the problem.
        name: the plate, where several could be meant.

    Raises:
        ArgumentError: if there is no such plate.
        ProblemError: if rows have no density of their own, naming the site that is in the way.
    """
    factor = next((site.name for site in problem.sites.values() if site.kind == "factor"), None)
    if factor is not None:
        raise ProblemError(
            f"{problem.name} has a factor, {factor!r}, of which nothing says to which row it belongs. Fix: make it a site."
        )
    if not problem.observed:
        raise ProblemError(f"{problem.name} observes nothing, so there is no log p(x). Fix: give it data (obs=).")
    around = [plate for plate in problem.observed[0].plates if plate in problem.plates]
    shared = [plate for plate in around if all(plate in site.plates for site in problem.observed)]
    if name is not None:
        if name not in shared:
            raise ArgumentError(
                f"plate {name!r} does not hold all observed sites of {problem.name}. "
                f"Fix: use one of {', '.join(map(repr, shared)) or 'none: no plate does'}."
            )
        shared = [name]
    if not shared:
        raise ProblemError(
            f"no plate of {problem.name} holds all that it observes ({', '.join(site.name for site in problem.observed)}), so data "
            'have no rows. Fix: put the observations into one `with pyro.plate("data", len(x)):`.'
        )
    inside = [plate for plate in shared if all(plate in site.plates for site in problem.latents)]
    if not inside:
        outside = next(site.name for site in problem.latents if shared[0] not in site.plates)
        raise ProblemError(
            f"site {outside!r} is outside plate {shared[0]!r}: all rows share it, so that no row has a log p(x) of its own. Fix: make "
            "what rows share a learnable parameter (pyro.param, pyro.module), or score new rows by lvm.predict or lvm.cross_validate."
        )
    # The outermost: plates within it are of the parts of one row.
    chosen = inside[0]
    if problem.plates[chosen].dim is None:
        raise ProblemError(
            f"plate {chosen!r} of {problem.name} is a loop, so that rows do not run at once. "
            f'Fix: write it as `with pyro.plate("{chosen}", n):`.'
        )
    return chosen


def _has_rows(problem: Program, size: int) -> bool:
    return any(isinstance(value, Tensor) and value.dim() and len(value) == size for value in problem.arguments.values())
