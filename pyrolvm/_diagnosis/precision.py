"""Judges whether a posterior's density had the digits that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._program.density.precision import MUCH

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["judged_for_precision"]

_STEP = (
    "Use float64: pass dtype=torch.float64, and data as float64; or subtract large offsets from data and constants, so that no digits "
    "are spent on them. More steps or draws do not help."
)


def judged_for_precision(verdict: Verdict, data: xr.DataTree) -> Verdict:
    """The verdict with what rounding adds to it; where that is too much, all else may follow from it, and so may its remedies."""
    found = list(_judge(data))
    if not found:
        return verdict
    return Verdict.of([*found, *verdict.reasons], [_STEP])


def _judge(data: xr.DataTree) -> Iterator[Reason]:
    attrs = data["posterior"].attrs if "posterior" in data.children else {}
    error, allowed = float(attrs.get("precision_error", 0.0)), float(attrs.get("precision_allowed", 0.0))
    if error <= allowed:
        return
    text = (
        f"The precision does not suffice: from draw to draw, the log density in float32 differs from that in float64 by "
        f"{error:.2g} nats, where {allowed:.2g} may be."
    )
    yield Reason("failed" if error > MUCH + allowed else "doubtful", text, {"precision": error})
