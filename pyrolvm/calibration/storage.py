"""Calibrations on disk: netCDF and JSON, by the rules of :mod:`pyrolvm.store`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyrolvm import store
from pyrolvm.calibration.ledger import is_calibration, read
from pyrolvm.calibration.result import Calibration
from pyrolvm.errors import StoreError

__all__ = ["load", "save"]

_META: dict[str, type] = {
    "method": str, "problem": str, "draws": int, "simulations": int, "seed": int, "notes": list, "interrupted": bool,
}  # fmt: skip


def save(calibration: Calibration, path: str | Path, *, overwrite: bool = False, locked: bool = False) -> Path:
    """Writes a calibration to the folder ``path``, whose lock the caller may hold."""
    meta: dict[str, Any] = {"kind": "Calibration", "name": calibration.method}
    for name in _META:
        value = getattr(calibration, name)
        meta[name] = list(value) if name == "notes" else value
    parts: dict[str, store.Part] = {
        "data": (".nc", lambda file: store.write_tree(calibration.data, file)),
        "meta": (".json", lambda file: store.write_json(meta, file)),
    }
    return store.write_folder(path, parts, overwrite=overwrite, locked=locked)


def load(path: str | Path) -> Calibration:
    """Reads a calibration; of an unfinished one, what there is so far."""
    folder = Path(path)
    if is_calibration(folder) and not (folder / store.MANIFEST).is_file():
        about, records = read(folder)
        if not records:
            raise StoreError(f"{folder} holds no finished simulation yet. Fix: wait, or run it again with resume=True.")
        return Calibration.of(about, records.values(), interrupted=len(records) < about["simulations"])
    paths = store.verified(folder, ("data", "meta"))
    meta = store.read_json(paths["meta"])
    if meta.get("kind") != "Calibration":
        raise StoreError(f"{folder} holds a {meta.get('kind')!r}, not a calibration. Fix: use lvm.load(path).")
    store.check_types(paths["meta"], meta, _META)
    return Calibration(data=store.read_tree(paths["data"]), **{name: meta[name] for name in _META})
