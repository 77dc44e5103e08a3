"""Pairs the quantities of one posterior with those of the reference: same name, same coordinates."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.numerics import Array
from pyrolvm._program.symmetry import read_symmetries
from pyrolvm._results.copies import alignment, brought_together
from pyrolvm._results.reading import block, draws_group

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Pair", "pair_up", "screen"]


@dataclass(frozen=True)
class Pair:
    """All elements of one variable in both posteriors, element i of one beside element i of the other.

    Args:
        variable: its name.
        labels: one for each element, (n,).
        draws: the method's, (chain, draw, n).
        reference: the reference's, (chain, draw, n).
        discrete: True where both hold integers.
    """

    variable: str
    labels: list[str]
    draws: Array
    reference: Array
    discrete: bool

    def take(self, index: Array) -> Pair:
        """Returns the pair with the elements of the index only."""
        names = [self.labels[i] for i in index]
        return replace(self, labels=names, draws=self.draws[:, :, index], reference=self.reference[:, :, index])


def pair_up(method: xr.DataTree, reference: xr.DataTree) -> tuple[list[Pair], list[str]]:
    """Pairs all variables that two posteriors have in common, elementwise by coordinates.

    Identified ``quantities`` are compared where both posteriors have them, otherwise the sites in ``posterior``; of a posterior that
    consists of copies of one mode, draws of both sides brought to one copy, chosen by the reference.

    Returns:
        The pairs in the reference's order, and one note for everything that could not be paired or only in part.
    """
    groups = {draws_group(method), draws_group(reference)}
    group = groups.pop() if len(groups) == 1 else "posterior"
    notes = [] if not groups else ["only one of the two has the group `quantities`, so sites are compared instead"]
    ours, theirs = method[group].to_dataset(), reference[group].to_dataset()
    if group == "posterior":
        ours, theirs, remark = _one_copy(method, reference, ours, theirs)
        notes += [remark] if remark else []
    pairs = []
    for name in theirs.data_vars:
        if name not in ours.data_vars or not _usable(theirs[name]) or not _usable(ours[name]):
            continue
        left, right, note = _align(ours[name], theirs[name])
        if note:
            notes.append(f"`{name}`: {note}")
        if left is None or right is None:
            continue
        one, other = block(left), block(right)
        pairs.append(Pair(str(name), other.labels, one.draws, other.draws, one.discrete and other.discrete))
    for side, mine, yours in (("the reference", ours, theirs), ("this method", theirs, ours)):
        absent = [f"`{name}`" for name in mine.data_vars if name not in yours.data_vars]
        if absent:
            notes.append(f"{', '.join(absent)} left out: not in {side}")
    return pairs, notes


def _one_copy(
    method: xr.DataTree, reference: xr.DataTree, ours: xr.Dataset, theirs: xr.Dataset
) -> tuple[xr.Dataset, xr.Dataset, str]:
    """Both posteriors brought to one copy, where either knows that it consists of copies, and a note that says so."""
    for known in (reference, method):
        found = read_symmetries(known.attrs)
        to = None if found is None else alignment(reference, found[0])
        if found is None or to is None:
            continue
        pair = tuple(brought_together(values, found[0], to) for values in (ours, theirs))
        if pair[0] is not None and pair[1] is not None:
            what = "; ".join(block.text for block in found[0].blocks)
            left = [f"`{name}`" for name in theirs.data_vars if name not in pair[1].data_vars]
            lost = f", and {', '.join(left)} left out, which depend on the copy" if left else ""
            return pair[0], pair[1], f"{what}: draws of both are brought to one copy{lost}"
    return ours, theirs, ""


def _usable(values: xr.DataArray) -> bool:
    return {"chain", "draw"} <= set(values.dims) and values.dtype.kind in "fiub" and values.size > 0


_Aligned = tuple["xr.DataArray | None", "xr.DataArray | None", str]


def _align(method: xr.DataArray, reference: xr.DataArray) -> _Aligned:
    """Returns both arrays with equal dims, sizes and coordinates, or None and the reason why that cannot be."""
    reference = reference.transpose("chain", "draw", ...)
    method = method.transpose("chain", "draw", ...)
    ours, theirs = method.dims[2:], reference.dims[2:]
    if set(ours) != set(theirs):
        if method.shape[2:] != reference.shape[2:]:
            return None, None, f"left out, shape {_shape(method)} against the reference's {_shape(reference)}"
        method = method.drop_vars([dim for dim in ours if dim in method.coords]).rename(
            dict(zip(ours, theirs, strict=True))
        )
        note = f"dims {_names(ours)} and {_names(theirs)} paired by position" if ours else ""
    else:
        method, note = method.transpose("chain", "draw", *theirs), ""
    for dim in theirs:
        method, reference, remark = _along(method, reference, dim)
        if not reference.size or not method.size:
            return None, None, f"left out, {remark}"
        note = "; ".join(part for part in (note, remark) if part)
    return method, reference, note


def _along(method: xr.DataArray, reference: xr.DataArray, dim: Hashable) -> tuple[xr.DataArray, xr.DataArray, str]:
    size = reference.sizes[dim]
    same_size = method.sizes[dim] == size
    ours, theirs = _values(method, dim), _values(reference, dim)
    if same_size and (ours is None or theirs is None or np.array_equal(ours, theirs)):
        return method, reference, ""
    if ours is not None and theirs is not None:
        wanted = {value: place for place, value in enumerate(ours.tolist())}
        shared = [(wanted[value], place) for place, value in enumerate(theirs.tolist()) if value in wanted]
        unique = len(wanted) == len(ours) and len(set(theirs.tolist())) == len(theirs)
        named = not (same_size and (_is_range(ours) or _is_range(theirs)))
        if unique and shared and named:
            left, right = zip(*shared, strict=True)
            dropped = f"{len(shared)} of {size} coordinates of `{dim}` are in both" if len(shared) < size else ""
            return method.isel({dim: list(left)}), reference.isel({dim: list(right)}), dropped
        if same_size and not named:
            return method, reference, f"`{dim}` paired by position, since only one of the two names its coordinates"
    nothing = {dim: slice(0, 0)}
    return method.isel(nothing), reference.isel(nothing), f"no coordinate of `{dim}` is in both"


def _values(values: xr.DataArray, dim: Hashable) -> Array | None:
    return np.asarray(values.coords[dim].values) if dim in values.coords else None


def _is_range(values: Array) -> bool:
    return bool(values.dtype.kind in "iu" and np.array_equal(values, np.arange(len(values))))


def _shape(values: xr.DataArray) -> str:
    return str(tuple(values.shape[2:]))


def _names(dims: tuple[Hashable, ...]) -> str:
    return ", ".join(f"`{dim}`" for dim in dims)


def screen(pair: Pair) -> Array:
    """Scores how far each element is from the reference, (n,): the larger of |mean difference| / sd and |log sd ratio|.

    Costs two passes over the draws and no error bars: enough to choose what deserves them.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mean, other = (side.mean(axis=(0, 1)) for side in (pair.draws, pair.reference))
        sd, scale = (side.std(axis=(0, 1)) for side in (pair.draws, pair.reference))
        score = np.maximum(np.abs(mean - other) / scale, np.abs(np.log(sd / scale)))
    both_fixed = (sd == 0) & (scale == 0) & (mean == other)
    return np.where(both_fixed, 0.0, np.where(np.isnan(score), np.inf, score)).astype(np.float64)
