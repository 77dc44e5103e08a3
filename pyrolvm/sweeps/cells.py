"""A sweep's folder: what it is to do, and a folder for each cell that is done, which appears as a whole or not at all.

``sweep-run.json`` lists the cells. ``cells/<key>/cell.json`` says what became of one, under a checksum, and ``cells/<key>/result`` is
its saved posterior, as :func:`pyrolvm.load` reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyrolvm.errors import StoreError
from pyrolvm.store import SWEEP, Lock, make_folder, read_json, replace
from pyrolvm.store.files import sync
from pyrolvm.sweeps.plan import Cell

__all__ = ["MARKER", "Cells", "is_sweep", "listed", "read_cell", "result_of"]

MARKER, FOLDER, CELL, RESULT = SWEEP, "cells", "cell.json", "result"
FORMAT = 1
STATUSES = ("done", "failed", "died")
_KEY = re.compile(r"[0-9a-f]{32}")


def is_sweep(folder: str | Path) -> bool:
    """Whether a folder holds a sweep, finished or not."""
    return (Path(folder) / MARKER).is_file()


def listed(folder: Path) -> tuple[Cell, ...]:
    """The cells of a sweep, in order.

    Raises:
        StoreError: if there is no sweep, or its list is damaged.
    """
    if not is_sweep(folder):
        raise StoreError(f"{folder} holds no sweep: there is no {MARKER}. Fix: give the folder that sweep wrote.")
    content = _opened(folder / MARKER)
    try:
        cells = tuple(
            Cell(str(c["problem"]), str(c["method"]), int(c["seed"]), str(c["key"])) for c in content["cells"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{folder / MARKER} is damaged: {error!r}. Fix: restore it, or run again.") from None
    if not all(_KEY.fullmatch(cell.key) for cell in cells):
        raise StoreError(f"{folder / MARKER} is damaged: a cell has no key. Fix: restore it, or run again.")
    return cells


def read_cell(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """What became of a cell; ``None`` if it was not run yet.

    Raises:
        StoreError: if what is there is damaged.
    """
    path = folder / FOLDER / cell.key / CELL
    if not path.is_file():
        return None
    record = _opened(path)
    if record.get("key") != cell.key or record.get("status") not in STATUSES:
        raise StoreError(
            f"{path} is damaged: it is of another cell, or of none. Fix: run the sweep again with resume=True."
        )
    return record


def result_of(folder: Path, cell: Cell) -> Path:
    """Where the posterior of a cell is saved, if it is."""
    return folder / FOLDER / cell.key / RESULT


class Cells:
    """The one writer of a sweep's folder.

    Args:
        folder: where to write.
        cells: what is to be there in the end; cells of earlier calls stay.
        resume: whether to go on with what is there.

    Attributes:
        records: what is done already, by key.
        damaged: why a cell that is there is run again, by key.
    """

    def __init__(self, folder: str | Path, cells: Iterable[Cell], *, resume: bool) -> None:
        self.folder, self.cells, self.resume = Path(folder), tuple(cells), resume
        self.records: dict[str, dict[str, Any]] = {}
        self.damaged: dict[str, str] = {}

    def __enter__(self) -> Cells:
        before: tuple[Cell, ...] = ()
        if is_sweep(self.folder):
            if not self.resume:
                raise StoreError(
                    f"{self.folder} holds a sweep already. Fix: pass resume=True, which runs what is missing, or name another folder."
                )
            before = listed(self.folder)
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise StoreError(f"{self.folder} is not empty and holds no sweep. Fix: name a new folder.")
        make_folder(self.folder / FOLDER)
        self._lock = Lock(self.folder)
        self._lock.__enter__()
        try:
            for leftover in (self.folder / FOLDER).glob(".*"):  # of a process that was killed while it wrote
                shutil.rmtree(leftover, ignore_errors=True)
            every = {cell.key: cell for cell in (*before, *self.cells)}
            content = {"kind": "Sweep", "cells": [cell.as_dict() for cell in every.values()]}
            replace(self.folder, MARKER, lambda file: _seal(content, file))
            for cell in self.cells:
                try:
                    record = read_cell(self.folder, cell)
                except StoreError as error:
                    self.damaged[cell.key] = str(error)
                    continue
                if record is not None:
                    self.records[cell.key] = record
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.__exit__(None, None, None)

    def add(self, record: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Writes a cell, as a whole.

        Raises:
            OSError: if the disk does not take it; then it holds nothing of it.
        """
        parent = self.folder / FOLDER
        target, part = parent / record["key"], Path(tempfile.mkdtemp(dir=parent, prefix=".part-"))
        try:
            if files:
                (part / RESULT).mkdir()
            for name, content in files.items():
                _write(part / RESULT / name, content)
            _seal(record, part / CELL)
            sync(part)
            if target.exists():
                os.rename(target, tempfile.mkdtemp(dir=parent, prefix=".old-"))
            os.rename(part, target)
            sync(parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        for old in parent.glob(".old-*"):
            shutil.rmtree(old, ignore_errors=True)


def _seal(content: Mapping[str, Any], file: Path) -> None:
    """Writes JSON with its checksum."""
    text = _canonical(content)
    digest = hashlib.sha256(text.encode()).hexdigest()
    _write(
        file, json.dumps({"format": FORMAT, "sha256": digest, "content": content}, indent=1, allow_nan=False).encode()
    )


def _opened(path: Path) -> dict[str, Any]:
    """The content of a file that :func:`_seal` wrote.

    Raises:
        StoreError: if it is not what was written.
    """
    whole = read_json(path)
    content = whole.get("content")
    if whole.get("format") != FORMAT:
        raise StoreError(
            f"{path} has format {whole.get('format')!r}, this version reads {FORMAT}. Fix: update pyrolvm."
        )
    if not isinstance(content, dict) or hashlib.sha256(_canonical(content).encode()).hexdigest() != whole.get("sha256"):
        raise StoreError(
            f"{path} is damaged: its checksum is another. Fix: run the sweep again with resume=True, which runs that cell anew."
        )
    return content


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
