"""A calibration while it runs: what is calibrated, and a line of JSON for each simulation that is done.

``calibration.json`` is written first. A line is appended in one piece and is there for good, so that a process that is killed
loses the simulations it was at, and no other. A line that is not whole is left out, and run again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrolvm import _runs as runs
from pyrolvm._base.errors import StoreError
from pyrolvm._check.calibrate.job import Record
from pyrolvm._runs import readers

__all__ = ["Ledger", "read"]

ABOUT, LINES = "calibration.json", "simulations.jsonl"


def read(folder: Path) -> tuple[dict[str, Any], dict[int, Record]]:
    """What a run says about its calibration, and the records of the simulations that are done.

    Args:
        folder: of the run, inside the folder that the user named.

    Raises:
        StoreError: if what it says cannot be read.
    """
    about = runs.read_object(folder / ABOUT)
    return about, _records(folder / LINES)


def _records(path: Path) -> dict[int, Record]:
    records: dict[int, Record] = {}
    for line in readers.read_bytes(path, growth=readers.JSON_GROWTH).split(b"\n") if path.is_file() else ():
        try:
            record = readers.parse_json(line, path)
            records[int(record["simulation"])] = record
        except (StoreError, ValueError, OverflowError, KeyError, TypeError):
            continue  # a line cut short, which is run again
    return records


class Ledger:
    """The simulations of a calibration in its folder.

    Args:
        run: the calibration in its folder.
        about: what is calibrated.

    Attributes:
        records: what is done already, by simulation.
    """

    def __init__(self, run: runs.Run, about: Mapping[str, Any]) -> None:
        self._file = run.generation.append(LINES)
        size = os.fstat(self._file).st_size
        if (
            size and os.pread(self._file, 1, size - 1) != b"\n"
        ):  # a line cut short, so that the next one stands by itself
            os.write(self._file, b"\n")
        self.records = _records(run.generation.path / LINES)
        run.generation.write(ABOUT, runs.as_json(about))

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._file)

    def add(self, record: Record) -> None:
        """Appends a record, in one piece, and waits until the disk has it."""
        self.records[record["simulation"]] = record
        os.write(self._file, (json.dumps(record, allow_nan=False) + "\n").encode())
        os.fsync(self._file)
