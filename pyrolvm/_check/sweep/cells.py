"""A sweep's folder: what it is to do, and a folder for each cell that is done, which counts as soon as its record is there.

``sweep.json`` lists the cells. ``cells/<key>/cell.json`` says what became of one, under a checksum, and ``cells/<key>/result`` is
its saved posterior, as :func:`pyrolvm.load` reads it; the record is written last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pyrolvm import _runs as runs
from pyrolvm._base.errors import StoreError
from pyrolvm._check.sweep.plan import Cell
from pyrolvm._runs.readers import parsing
from pyrolvm._runs.sealing import opened, sealed

__all__ = ["COMMAND", "KIND", "Cells", "kept_in", "listed", "read_cell", "result_of"]

KIND, COMMAND = "Sweep", "sweep"
LIST, FOLDER, CELL, RESULT = "sweep.json", "cells", "cell.json", "result"
SCHEMA = 1
STATUSES = ("done", "failed", "died")
_KEY = re.compile(r"[0-9a-f]{32}")


def kept_in(path: Path) -> Path:
    """Where the sweep in a run's folder keeps its cells: the one in force, or the one that has begun.

    Raises:
        StoreError: if there is none.
    """
    manifest = runs.Manifest.read(path)
    if manifest is not None and manifest.kind == KIND:
        return path / manifest.generation
    begun = runs.unfinished(path) if manifest is None else None
    if begun is None or begun.command != COMMAND:
        what = "no sweep" if manifest is None else f"a {manifest.kind!r}, not a sweep"
        raise StoreError(f"{path} holds {what}. Fix: give the folder that sweep wrote.")
    return begun.folder


def listed(folder: Path) -> tuple[Cell, ...]:
    """The cells of a sweep, in order.

    Raises:
        StoreError: if its list is not there, since it was killed before it wrote it, or is damaged.
    """
    if not (folder / LIST).is_file():
        raise StoreError(f"{folder} lists no cells yet. Fix: run the sweep again with resume=True.")
    with parsing(folder / LIST):
        content = opened(folder / LIST, SCHEMA)
        cells = tuple(
            Cell(str(c["problem"]), str(c["method"]), int(c["seed"]), str(c["key"])) for c in content["cells"]
        )
        if not all(_KEY.fullmatch(cell.key) for cell in cells):
            raise ValueError("a cell has no key")
    return cells


def read_cell(folder: Path, cell: Cell) -> dict[str, object] | None:
    """What became of a cell; ``None`` if it was not run yet.

    Raises:
        StoreError: if what is there is damaged.
    """
    path = folder / FOLDER / cell.key / CELL
    if not path.is_file():
        return None
    record = opened(path, SCHEMA)
    if record.get("key") != cell.key or record.get("status") not in STATUSES:
        raise StoreError(
            f"{path} is damaged: it is of another cell, or of none. Fix: run the sweep again with resume=True."
        )
    return record


def result_of(folder: Path, cell: Cell) -> Path:
    """Where the posterior of a cell is saved, if it is."""
    return folder / FOLDER / cell.key / RESULT


class Cells:
    """The one writer of a sweep's cells.

    Args:
        run: the sweep in its folder.
        cells: what is to be there in the end; cells of earlier calls stay.

    Attributes:
        folder: where they are.
        records: what is done already, by key.
        damaged: why a cell that is there is run again, by key.
    """

    def __init__(self, run: runs.Run, cells: Iterable[Cell]) -> None:
        self._generation, self.folder = run.generation, run.generation.path
        self.records: dict[str, dict[str, object]] = {}
        self.damaged: dict[str, str] = {}
        cells = tuple(cells)
        before = listed(self.folder) if (self.folder / LIST).is_file() else ()
        every = {cell.key: cell for cell in (*before, *cells)}
        self._write(LIST, {"kind": KIND, "cells": [cell.as_dict() for cell in every.values()]})
        for cell in cells:
            try:
                record = read_cell(self.folder, cell)
            except StoreError as error:
                self.damaged[cell.key] = str(error)
                continue
            if record is not None:
                self.records[cell.key] = record

    def add(self, record: Mapping[str, object], files: Mapping[str, bytes]) -> None:
        """Writes a cell: its posterior, then its record.

        Raises:
            OSError: if the disk does not take it; then the cell is not done.
        """
        folder = f"{FOLDER}/{record['key']}"
        self._generation.remove(f"{folder}/{CELL}")
        self._generation.remove_all(f"{folder}/{RESULT}")
        for name, content in files.items():
            self._generation.write(f"{folder}/{RESULT}/{name}", lambda file, content=content: file.write(content))  # type: ignore[misc]
        self._write(f"{folder}/{CELL}", record)

    def _write(self, name: str, content: Mapping[str, object]) -> None:
        whole = sealed(content, SCHEMA)
        self._generation.write(name, lambda file: file.write(whole))
