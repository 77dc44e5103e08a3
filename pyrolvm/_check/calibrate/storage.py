"""Calibrations on disk: netCDF and JSON, in folders as :mod:`pyrolvm._runs` makes them."""

from __future__ import annotations

from pathlib import Path

from pyrolvm import _runs as runs
from pyrolvm._base.errors import StoreError
from pyrolvm._check.calibrate.ledger import read
from pyrolvm._check.calibrate.result import Calibration
from pyrolvm._check.calibrate.saving import FORM, META
from pyrolvm._results import store
from pyrolvm._runs.readers import parsing

__all__ = ["CODEC", "COMMAND", "load"]

COMMAND = "calibrate"


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
    paths = runs.verified(folder, ("data", "meta"))
    meta = paths["meta"].json()
    store.check_types(paths["meta"].path, meta, META)
    with parsing(paths["meta"].path):
        found = Calibration(data=paths["data"].tree(), **{name: meta[name] for name in META})
        str(found)
    return found


CODEC: runs.Codec[Calibration] = runs.Codec(FORM.kind, FORM.parts, load, FORM.partial)
