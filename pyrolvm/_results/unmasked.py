"""Which observations a model counts: those that it masks out are in no group about data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.numerics import Array
from pyrolvm._program.names import variable
from pyrolvm._program.peeling import own_masks
from pyrolvm._program.problem import Problem

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["counted", "present", "present_groups"]


def present(problem: Problem) -> dict[str, Array]:
    """For observed sites of which some rows are masked out: which are not, in the shape of the site's batch; inside a session."""
    found = {}
    for name, seen in counted(problem).items():
        site = problem.sites[name]
        rows = np.asarray(seen.reshape(*seen.shape[: seen.ndim - site.event_dim], -1).any(-1))
        if not rows.all():
            found[name] = rows
    return found


def counted(problem: Problem) -> dict[str, Array]:
    """For observed sites of which some values are masked out or missing: which are not, in the site's shape; inside a session."""
    found = {}
    nodes: Mapping[str, Any] = problem.whole.trace(problem).nodes
    for site in problem.observed:
        node = nodes[site.name]
        seen = torch.ones(site.shape, dtype=torch.bool)
        for mask in (node["mask"], *own_masks(node["fn"])):
            seen = seen & _spread(mask, len(site.shape), len(site.batch_shape))
        for one in problem.absent.values():
            if one.site == site.name:
                seen = seen & ~one.mask.cpu().reshape(site.shape)
        if not bool(seen.all()):
            found[site.name] = seen.numpy()
    return found


def _spread(mask: Any, dims: int, batch: int) -> Tensor:
    """A mask with as many dimensions as the value: those of the batch alone go for all entries of an event."""
    if mask is None or isinstance(mask, bool):
        return torch.tensor(mask is not False)
    seen = mask.detach().cpu().bool()
    return seen.reshape(*seen.shape, *[1] * (dims - max(seen.dim(), batch)))


def present_groups(groups: Mapping[str, Any], seen: Mapping[str, Array]) -> dict[str, Any]:
    """Groups whose ``log_likelihood`` and ``observed_data`` have no rows that are masked out.

    Rows of which nothing is seen are left out, with their labels; where single entries of a table are masked, those that are seen
    are one dimension ``<site>_seen``, and coordinates say where each one was. A site of which nothing is seen is left out.
    """
    done = dict(groups)
    for group in ("log_likelihood", "observed_data"):
        values = groups.get(group)
        if values is None:
            continue
        for name, mask in seen.items():
            if variable(name) in values:
                values = _without(values, variable(name), mask)
        done[group] = values
        if not values.data_vars:
            del done[group]
    return done


def _without(dataset: xr.Dataset, name: str, mask: Array) -> xr.Dataset:
    values = dataset[name]
    rest = dataset.drop_vars(name)
    used = {dim for other in rest.data_vars.values() for dim in other.dims}
    rest = rest.drop_vars([label for label, at in rest.coords.items() if not set(at.dims) <= used])
    lead = [dim for dim in values.dims if dim in ("chain", "draw")]
    dims = [str(dim) for dim in values.dims if dim not in lead][: mask.ndim]
    if not mask.any() or len(dims) < mask.ndim:
        return rest if not mask.any() else dataset
    values = values.assign_coords({dim: np.arange(values.sizes[dim]) for dim in dims if dim not in values.coords})
    for axis, dim in enumerate(dims):
        others = tuple(i for i in range(mask.ndim) if i != axis)
        if np.array_equal(mask.any(axis=others), mask.all(axis=others)):  # whole rows of this dimension
            kept = np.flatnonzero(mask.any(axis=others))
            part = values.isel({dim: kept})
            shared = any(dim in rest[other].dims for other in rest.data_vars)
            return rest.assign({name: part.rename({dim: f"{name}_{dim}"}) if shared else part})
    seen = values.stack({f"{name}_seen": dims}).isel({f"{name}_seen": np.flatnonzero(mask.reshape(-1))})
    return rest.assign({name: seen.reset_index(f"{name}_seen")})
