"""Checks on disk, as nested values in two files: tables, verdict, and the data behind pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm import _runs as runs
from pyrolvm._check.discrepancy.checked import Checked
from pyrolvm._check.discrepancy.statistics import Sample
from pyrolvm._report.origin import stored_origin
from pyrolvm._results.nested import nested_parts, read_frame, read_nested, read_verdict, stored_frame, stored_verdict
from pyrolvm._runs.readers import parsing

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORM", "read"]


def _parts(found: Checked) -> Mapping[str, runs.Part]:
    return nested_parts(
        {
            "name": found.name, "problem": found.problem, "verdict": stored_verdict(found.verdict),
            "origin": found.origin.stored(),
            "tables": {kind: _stored(table) for kind, table in found.tables.items()},
            "sensitivity": None if found.sensitivity is None else _stored(found.sensitivity),
            "samples": {kind: [_sample(one) for one in samples.values()] for kind, samples in found.samples.items()},
        }
    )  # fmt: skip


FORM: runs.Codec[Checked] = runs.Codec("Check", _parts)


def read(path: str | Path) -> dict[str, Any]:
    """What a check is made of.

    Raises:
        StoreError: if there is none, or a file is damaged.
    """
    stored = read_nested(Path(path))
    with parsing(path):
        samples = {
            kind: {one["name"]: _read_sample(one) for one in several} for kind, several in stored["samples"].items()
        }
        return {
            "name": str(stored["name"]), "problem": str(stored["problem"]),
            "tables": {str(kind): _frame(table) for kind, table in stored["tables"].items()},
            "sensitivity": None if stored["sensitivity"] is None else _frame(stored["sensitivity"]),
            "samples": samples, "verdict": read_verdict(stored["verdict"]), "origin": stored_origin(stored),
        }  # fmt: skip


def _stored(table: pd.DataFrame) -> dict[str, Any]:
    """A table whose index is columns, so that several levels are kept; text as lists, attributes beside."""
    levels = [str(name or "") for name in table.index.names]
    stored = stored_frame(table.rename_axis(levels).reset_index())
    assert stored is not None
    stored["columns"] = [
        [name, values if values.dtype.kind in "biuf" else [str(one) for one in values]]
        for name, values in stored["columns"]
    ]
    return {"frame": stored, "levels": levels, "attrs": {str(name): value for name, value in table.attrs.items()}}


def _frame(stored: Mapping[str, Any]) -> pd.DataFrame:
    table = read_frame(stored["frame"])
    if table is None:
        raise ValueError("a table is missing")
    levels = list(stored["levels"])
    found = table.set_index(levels).rename_axis([name or None for name in levels])
    found.columns.name = None
    found.attrs.update(stored["attrs"])
    return found


def _sample(one: Sample) -> dict[str, Any]:
    rows = one.rows if one.rows.dtype.kind in "biuf" else [str(row) for row in one.rows]
    return {"name": one.name, "seen": one.seen, "replicated": one.replicated, "labels": one.labels, "rows": rows}


def _read_sample(stored: Mapping[str, Any]) -> Sample:
    labels = None if stored["labels"] is None else tuple(map(str, stored["labels"]))
    return Sample(stored["name"], stored["seen"], stored["replicated"], labels, np.asarray(stored["rows"]))
