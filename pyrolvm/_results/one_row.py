"""What rows are left out of: the draws of a result as the model takes them, and which rows count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import CaptureError
from pyrolvm._base.numerics import Array
from pyrolvm._capture import capture
from pyrolvm._program.names import variable
from pyrolvm._program.problem import Problem
from pyrolvm._results.unmasked import present

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["draws_at", "recorded", "rows_of", "rows_seen"]

T = TypeVar("T")


def draws_at(problem: Problem, data: xr.Dataset, places: Array) -> dict[str, Tensor]:
    """Draws of the continuous latents, each of shape ``(draws, ...)``.

    Args:
        problem: the problem.
        data: the group of the draws.
        places: which draws of all.
    """
    found = {}
    for site in problem.continuous:
        every = data[variable(site.name)].transpose("chain", "draw", ...).values.reshape(-1, *site.shape)
        found[site.name] = torch.as_tensor(every[places], device=problem.device).to(problem.dtype)
    return found


def recorded(function: Callable[[Tensor], T], flat: Tensor) -> Callable[[Tensor], T]:
    """A function of a flat vector as a graph, which runs without the program's handlers; itself where there is none."""
    try:
        graph: Any = capture(function, flat.clone())
    except CaptureError:
        return function
    return function if graph.noise or graph.random else graph


def rows_of(terms: Sequence[Tensor]) -> Tensor:
    """The log density of each row, flat: sites of the same rows are added up, and those of one value each are a row each."""
    if all(term.numel() == 1 for term in terms):
        return torch.cat([term.reshape(1) for term in terms])
    return torch.stack([term.reshape(-1) for term in terms]).sum(0)


def rows_seen(problem: Problem, sites: tuple[str, ...]) -> tuple[tuple[str, ...], Array | None]:
    """The names in the model of observed sites, and where the rows of the first that are not masked are among all; inside a session.

    Args:
        problem: the problem.
        sites: the sites, as results call them.

    Returns:
        The names, and places; ``None`` where no row is masked.
    """
    names = {variable(site.name): site.name for site in problem.sites.values()}
    found = tuple(names.get(site, site) for site in sites)
    seen = present(problem).get(found[0])
    return found, None if seen is None else np.flatnonzero(seen.reshape(-1))
