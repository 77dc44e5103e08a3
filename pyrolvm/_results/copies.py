"""Posteriors that are several copies of one: draws brought to one copy, to be read and judged.

Of components that may be exchanged, or loadings whose sign is free, a single one means nothing: chains that sit in different
copies agree, and a guide that covers one copy misses nothing but the others. So what is judged are functions of a draw that
are the same in all copies: each draw is mapped to the copy nearest one point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm._program.names import variable
from pyrolvm._program.symmetry import Symmetries, read_symmetries
from pyrolvm._program.symmetry.orbit import Alignment

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["alignment", "brought_together", "copies", "flattened", "is_complete", "view"]


def is_complete(data: xr.DataTree) -> bool:
    """Whether draws were mapped to all copies alike."""
    found = read_symmetries(data.attrs)
    return found is not None and bool(found[1].get("complete"))


def copies(data: xr.DataTree) -> float:
    """How many copies of each other a posterior consists of; 1 where it has no symmetry that matters."""
    found = read_symmetries(data.attrs)
    return math.prod(block.copies for block in found[0].blocks) if found else 1.0


def flattened(values: xr.Dataset, symmetries: Symmetries) -> np.ndarray | None:
    """Draws as flat vectors ``(n, size)``, chain after chain; ``None`` if sites are missing or of another shape."""
    found = {}
    for name, shape in symmetries.layout.sites:
        key = variable(name)
        if key not in values.data_vars or not {"chain", "draw"} <= set(values[key].dims):
            return None
        array = np.asarray(values[key].transpose("chain", "draw", ...).values)
        if array.shape[2:] != shape:
            return None
        found[name] = array.reshape(-1, *shape)
    flat = symmetries.layout.join(found)
    return flat if np.isfinite(flat).all() else None


def alignment(data: xr.DataTree, symmetries: Symmetries) -> Alignment | None:
    """What brings draws to one copy, chosen by the draws of a tree; ``None`` where they lack a site or are not finite."""
    flat = flattened(data["posterior"].to_dataset(), symmetries)
    if flat is None or not symmetries.blocks:
        return None
    stats: Mapping[Any, Any] = data["sample_stats"].data_vars if "sample_stats" in data.children else {}
    heights = np.asarray(stats["lp"].values).reshape(-1) if "lp" in stats else None
    return Alignment.of(symmetries.blocks, flat, heights if heights is not None and len(heights) == len(flat) else None)


def brought_together(values: xr.Dataset, symmetries: Symmetries, to: Alignment) -> xr.Dataset | None:
    """Draws of a dataset brought to one copy, without what depends on the copy otherwise: discrete and derived sites."""
    flat = flattened(values, symmetries)
    if flat is None:
        return None
    parts = symmetries.layout.split(to(flat))
    kept = {}
    for name in parts:
        held = values[variable(name)].transpose("chain", "draw", ...)
        kept[str(held.name)] = held.copy(data=parts[name].reshape(held.shape))
    also = [variable(name) for name in symmetries.invariant]
    order = [str(name) for name in values.data_vars if name in kept or name in also]
    return values[order].assign(kept)[order]


def view(data: xr.DataTree) -> xr.Dataset:
    """The draws to judge: identified quantities where the model names them, sites brought to one copy, or the sites themselves."""
    if "quantities" in data.children and data["quantities"].data_vars:
        return data["quantities"].to_dataset()
    plain = data["posterior"].to_dataset()
    found = read_symmetries(data.attrs)
    if found is None or (found[1].get("complete") and "proposal_stats" in data.children):
        return plain
    to = alignment(data, found[0])
    together = None if to is None else brought_together(plain, found[0], to)
    return plain if together is None else together
