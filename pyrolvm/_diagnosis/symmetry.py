"""What is said of posteriors that are several copies of one: how many there are, and which the draws cover."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.verdict import Reason
from pyrolvm._program.symmetry import Symmetries, read_symmetries
from pyrolvm._results.copies import alignment, copies, flattened

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["judge_symmetry", "symmetry_steps"]

SEEN = 0.005
"""The share of draws from which on a copy counts as covered."""


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
