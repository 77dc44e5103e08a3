"""Gaps on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pyrolvm import _runs as runs
from pyrolvm._check.gaps.result import Collapse, Gaps
from pyrolvm._report.origin import stored_origin
from pyrolvm._results.nested import nested_parts, read_frame, read_nested, stored_frame
from pyrolvm._runs.readers import parsing

__all__ = ["CODEC", "COMMAND", "load"]

KIND, COMMAND = "Gaps", "gaps"
_UNITS = ("kl", "mutual_information", "mutual_information_error", "ceiling")


def _parts(found: Gaps) -> Mapping[str, runs.Part]:
    value: dict[str, object] = {
        "name": found.name, "rows": found.rows, "figures": dict(found.figures), "table": stored_frame(found.table),
        "method": found.method, "refinement": stored_frame(found.refinement.to_frame()), "seconds": found.seconds,
        "origin": found.origin.stored(),
        "units": stored_frame(found.collapse.table), **{name: float(getattr(found.collapse, name)) for name in _UNITS},
    }  # fmt: skip
    return nested_parts(value)


def load(path: str | Path) -> Gaps:
    """Reads gaps.

    Raises:
        StoreError: if there are none, or a file is damaged.
    """
    folder = Path(path)
    stored = read_nested(folder)
    with parsing(folder):
        table, units, course = (read_frame(stored[name]) for name in ("table", "units", "refinement"))
        if table is None or units is None or course is None:
            raise ValueError("a table is missing")
        return Gaps(
            str(stored["name"]), int(stored["rows"]), {name: float(value) for name, value in stored["figures"].items()}, table,
            str(stored["method"]), Collapse(units, *(float(stored[name]) for name in _UNITS)), course["elbo"],
            float(stored["seconds"]), stored_origin(stored),
        )  # fmt: skip


CODEC: runs.Codec[Gaps] = runs.Codec(KIND, _parts, load)
