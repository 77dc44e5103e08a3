"""Calibrations on disk: netCDF and JSON, in folders as :mod:`pyrolvm.runs` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrolvm import runs, store
from pyrolvm.calibration.ledger import read
from pyrolvm.calibration.result import Calibration
from pyrolvm.errors import StoreError
from pyrolvm.runs.readers import parsing

__all__ = ["CODEC", "COMMAND", "load"]

KIND, COMMAND = "Calibration", "calibrate"

_META: dict[str, type] = {
    "method": str, "problem": str, "draws": int, "simulations": int, "seed": int, "notes": list, "interrupted": bool,
}  # fmt: skip


def _parts(calibration: Calibration) -> Mapping[str, runs.Part]:
    meta: dict[str, Any] = {"kind": KIND, "name": calibration.method}
    for name in _META:
        value = getattr(calibration, name)
        meta[name] = list(value) if name == "notes" else value
    return {
        "data": (".nc", lambda file: store.write_tree(calibration.data, file)),
        "meta": (".json", runs.as_json(meta)),
    }


def load(path: str | Path) -> Calibration:
    """Reads a calibration; of an unfinished one, what there is so far."""
    folder = Path(path)
    manifest = runs.Manifest.read(folder)
    begun = runs.unfinished(folder) if manifest is None else None
    if begun is not None and begun.command == COMMAND:
        about, records = read(begun.folder)
        if not records:
            raise StoreError(f"{folder} holds no finished simulation yet. Fix: wait, or run it again with resume=True.")
        with parsing(begun.folder):
            return Calibration.of(about, records.values(), interrupted=len(records) < about["simulations"])
    if manifest is None or manifest.kind != KIND:
        what = "no calibration" if manifest is None else f"a {manifest.kind!r}, not a calibration"
        raise StoreError(f"{folder} holds {what}. Fix: give the folder that calibrate wrote, or use lvm.load(path).")
    paths = runs.verified(folder, ("data", "meta"))
    meta = paths["meta"].json()
    store.check_types(paths["meta"].path, meta, _META)
    with parsing(paths["meta"].path):
        found = Calibration(data=paths["data"].tree(), **{name: meta[name] for name in _META})
        str(found)
    return found


CODEC: runs.Codec[Calibration] = runs.Codec(KIND, _parts, load, lambda calibration: calibration.interrupted)
