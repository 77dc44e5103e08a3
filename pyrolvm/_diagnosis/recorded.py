"""What a method has found out about its own result, kept with it: reasons of the verdict, and what to do about figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyrolvm._base.verdict import Verdict
from pyrolvm._results.nested import read_verdict
from pyrolvm._runs.attributes import said

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["RECORD", "record", "recorded", "remedies"]

RECORD = "pyrolvm_findings"
"""The attribute of a tree that has the record."""


def record(data: xr.DataTree, verdict: Verdict, steps: Mapping[str, str]) -> None:
    """Keeps what a method says of its own result.

    Args:
        data: the result's tree.
        verdict: the method's own findings.
        steps: what to do about figures of chains that a check finds wanting, by name, in the words of the method.
    """
    data.attrs[RECORD] = json.dumps({"verdict": verdict.as_dict(), "steps": dict(steps)})


def recorded(data: xr.DataTree) -> Verdict:
    """The method's own findings; ``trusted`` without reasons where it has none."""
    return said(data.attrs, RECORD, lambda record: read_verdict(record["verdict"]), Verdict("trusted"))


def remedies(data: xr.DataTree) -> dict[str, str]:
    """What to do about figures of chains, in the words of the method; empty where it has none of its own."""
    return said(data.attrs, RECORD, lambda record: dict(record["steps"]), {})
