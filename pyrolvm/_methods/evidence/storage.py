"""Estimates of the evidence on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrolvm import _runs as runs
from pyrolvm._methods.evidence.result import Evidences
from pyrolvm._report.origin import stored_origin
from pyrolvm._results import Evidence
from pyrolvm._results.nested import nested_parts, read_frame, read_nested, read_verdict, stored_frame, stored_verdict
from pyrolvm._runs.readers import parsing

__all__ = ["CODEC", "COMMAND", "load"]

KIND, COMMAND = "Evidence", "evidence"


def _stored(one: Evidence) -> dict[str, object]:
    return {
        "value": one.value, "error": one.error, "method": one.method, "verdict": stored_verdict(one.verdict), "lower": one.lower,
        "upper": one.upper, "figures": dict(one.figures), "trace": stored_frame(one.trace), "evaluations": one.evaluations,
        "seconds": one.seconds, "origin": one.origin.stored(),
    }  # fmt: skip


def _read(stored: Mapping[str, Any]) -> Evidence:
    def number(name: str) -> float | None:
        return None if stored[name] is None else float(stored[name])

    return Evidence(
        float(stored["value"]), float(stored["error"]), str(stored["method"]), read_verdict(stored["verdict"]), number("lower"),
        number("upper"), {name: float(value) for name, value in stored["figures"].items()}, read_frame(stored["trace"]),
        int(stored["evaluations"]), float(stored["seconds"]), None, stored_origin(stored),
    )  # fmt: skip


def _parts(found: Evidence | Evidences) -> Mapping[str, runs.Part]:
    if isinstance(found, Evidence):
        return nested_parts({"one": _stored(found)})
    return nested_parts({"several": [[name, _stored(one)] for name, one in found.found.items()], "exact": found.exact})


def load(path: str | Path) -> Evidence | Evidences:
    """Reads an estimate, or several; they no longer know the problem that they are of.

    Raises:
        StoreError: if there is none, or a file is damaged.
    """
    folder = Path(path)
    stored = read_nested(folder)
    with parsing(folder):
        if "one" in stored:
            return _read(stored["one"])
        exact = None if stored["exact"] is None else float(stored["exact"])
        return Evidences({str(name): _read(one) for name, one in stored["several"]}, exact)


CODEC: runs.Codec[Any] = runs.Codec(KIND, _parts, load)
