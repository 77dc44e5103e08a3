"""What restarts with other seeds say of a fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyrolvm._base.verdict import Reason
from pyrolvm._base.wording import told
from pyrolvm._diagnosis.reweighted import MEAN_BOUND, SD_BOUND, SIGMAS
from pyrolvm._runs.attributes import said

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["RESTARTS", "judge_restarts"]

RESTARTS = "pyrolvm_restarts"
"""The attribute of a tree that has the record of restarts."""


def judge_restarts(data: xr.DataTree) -> Iterator[Reason]:
    """Yields whether the same method with other seeds found the same posterior; nothing where that was not tried."""
    record = said(data.attrs, RESTARTS, _read, None)
    if record is None:
        return
    count, (shift, shift_error, shifted), (change, change_error, changed), statuses = record
    figures = {"restarts": float(count), "restart shift": shift, "restart sd change": change}
    runs = f"{count} restart{'s' if count > 1 else ''} with other seeds"
    if shift > MEAN_BOUND + SIGMAS * shift_error:
        yield Reason(
            "doubtful", f"Of {runs} one moves the mean of `{shifted}` by {told(shift, MEAN_BOUND, 2)} sd.", figures
        )
    elif change > SD_BOUND + SIGMAS * change_error:
        yield Reason(
            "doubtful",
            f"Of {runs} one changes the sd of `{changed}` by {told(100 * change, 100 * SD_BOUND, 0)}%.",
            figures,
        )
    elif "failed" in statuses:
        yield Reason("doubtful", f"Of {runs} one failed its own verdict.", figures)
    else:
        yield Reason(
            "trusted",
            f"{runs[0].upper()}{runs[1:]} move no mean by more than {shift:.2f} sd and no sd by more than {change:.0%}.",
            figures,
        )


_Moved = tuple[float, float, str]
"""By how much something moves, the error of that, and the name of what moves."""


def _read(record: dict[str, Any]) -> tuple[int, _Moved, _Moved, list[str]]:
    (shift, shift_error, shifted), (change, change_error, changed) = record["shift"], record["sd_change"]
    moved = (float(shift), float(shift_error), str(shifted)), (float(change), float(change_error), str(changed))
    return int(record["restarts"]), *moved, list(record["statuses"])
