"""Posteriors that are several copies of one: what a result says of them, and draws brought to one copy to be judged.

Of components that may be exchanged, or loadings whose sign is free, a single one means nothing: chains that sit in different
copies agree, and a guide that covers one copy misses nothing but the others. So what is judged are functions of a draw that
are the same in all copies: each draw is mapped to the copy nearest one point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm.symmetry import Symmetries, read_symmetries
from pyrolvm.symmetry.orbit import Alignment
from pyrolvm.verdict import Reason

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["alignment", "brought_together", "copies", "is_complete", "judge_symmetry", "symmetry_steps", "view"]

SEEN = 0.005
"""The share of draws from which on a copy counts as covered."""


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
        key = name.replace("/", ".")
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
        held = values[name.replace("/", ".")].transpose("chain", "draw", ...)
        kept[str(held.name)] = held.copy(data=parts[name].reshape(held.shape))
    also = [name.replace("/", ".") for name in symmetries.invariant]
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


def judge_symmetry(data: xr.DataTree) -> Iterator[Reason]:
    """Yields that the posterior consists of copies, how many of them the draws cover, and what is judged then."""
    found = read_symmetries(data.attrs)
    if found is None or not found[0].blocks:
        return
    symmetries, more = found
    named = "quantities" in data.children and bool(data["quantities"].data_vars)
    what = "; ".join(block.text for block in symmetries.blocks)
    what = what.replace("components", "Components", 1) if what.startswith("components") else what[0].upper() + what[1:]
    total = copies(data)
    figures = {"copies": total}
    many = "a continuum of copies" if math.isinf(total) else f"{total:,.0f} copies"
    text = f"{what}, so that the posterior is {many} of one mode"
    if more.get("complete"):
        yield Reason("trusted", f"{text}, all of which the draws cover equally.", figures)
        if not more.get("counted", True) and "proposal_stats" in data.children:
            yield Reason(
                "trusted",
                "ELBO and evidence are of the copies that the guide covers, not of all.",
                {"copies counted": 0.0},
            )
        return
    judged = "the model's quantities are judged" if named else "each draw is brought to one copy and judged there"
    covered, low, high = _coverage(data, symmetries)
    if covered:
        figures["copies covered"] = float(covered)
        shares = "" if covered == 1 else f", with {low:.0%} to {high:.0%} of the draws each"
        text += f", {covered:,} of which the draws cover{shares}"
    yield Reason("trusted", f"{text}: {judged}, and single labels or signs mean nothing.", figures)
    weighed = "sample_stats" in data.children and "log_weight" in data["sample_stats"].data_vars
    if weighed and covered and covered < total < math.inf:
        missing = math.log(total / covered)
        yield Reason(
            "trusted",
            f"ELBO and evidence are of the copies that the draws cover, {missing:.2f} nats less than of all.",
            {"nats of other copies": missing},
        )


def _coverage(data: xr.DataTree, symmetries: Symmetries) -> tuple[int, float, float]:
    """How many copies have draws, and the least and largest share of those; 0 where copies are not numbered."""
    flat = flattened(data["posterior"].to_dataset(), symmetries)
    to = alignment(data, symmetries)
    if flat is None or to is None:
        return 0, 0.0, 0.0
    number = np.zeros(len(flat), dtype=np.int64)
    for block, label in zip(to.blocks, to.labelled(flat)[1], strict=True):
        if label is None:
            return 0, 0.0, 0.0
        number = number * int(block.copies) + label
    shares = np.unique(number, return_counts=True)[1] / len(flat)
    shares = shares[shares > SEEN]
    return len(shares), float(shares.min(initial=1.0)), float(shares.max(initial=0.0))


def symmetry_steps(data: xr.DataTree) -> Iterator[str]:
    """What to do about labels and signs that mean nothing, where the model names no identified quantities."""
    if copies(data) > 1 and not ("quantities" in data.children and data["quantities"].data_vars):
        yield "To read single components, name identified functions of a draw (quantities=), or give the model an order."
