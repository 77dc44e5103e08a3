"""Calibrations as they are written: netCDF and JSON."""

from __future__ import annotations

from collections.abc import Mapping

from pyrolvm import _runs as runs
from pyrolvm._check.calibrate.ranks import Ranks
from pyrolvm._results.saving import write_tree

__all__ = ["FORM", "META"]

META: dict[str, type] = {
    "method": str, "problem": str, "draws": int, "simulations": int, "seed": int, "notes": list, "interrupted": bool,
}  # fmt: skip


def _parts(calibration: Ranks) -> Mapping[str, runs.Part]:
    meta: dict[str, object] = {"kind": "Calibration", "name": calibration.method}
    for name in META:
        value = getattr(calibration, name)
        meta[name] = list(value) if name == "notes" else value
    return {
        "data": (".nc", lambda file: write_tree(calibration.data, file)),
        "meta": (".json", runs.as_json(meta)),
    }


FORM: runs.Codec[Ranks] = runs.Codec("Calibration", _parts, partial=lambda calibration: calibration.interrupted)
