"""A calibration while it runs: what is calibrated, and a line of JSON for each simulation that is done.

``calibration.json`` is written first. A line is appended in one piece and is there for good, so that a process that is killed
loses the simulations it was at, and no other. Both say by checksums of their own whether they are what was written; a line that is
not is left out, and run again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrolvm import _runs as runs
from pyrolvm._base.errors import PyrolvmWarning, StoreError
from pyrolvm._check.calibrate.job import Record
from pyrolvm._runs import readers
from pyrolvm._runs.sealing import opened, sealed, unsealed

__all__ = ["Ledger", "read"]

ABOUT, LINES = "calibration.json", "simulations.jsonl"
SCHEMA = 2


def read(folder: Path) -> tuple[dict[str, Any], dict[int, Record]]:
    """What a run says about its calibration, and the records of the simulations that are done.

    Args:
        folder: of the run, inside the folder that the user named.

    Raises:
        StoreError: if what it says cannot be read.
    """
    return opened(folder / ABOUT, SCHEMA), _records(folder / LINES)


def _records(path: Path) -> dict[int, Record]:
    records: dict[int, Record] = {}
    for line in readers.read_bytes(path, growth=readers.JSON_GROWTH).split(b"\n") if path.is_file() else ():
        try:
            record = unsealed(readers.as_object(readers.parse_json(line, path), path), SCHEMA, path)
            records[int(record["simulation"])] = record
        except (StoreError, ValueError, OverflowError, KeyError, TypeError):
            continue  # a line that is damaged or was cut short, which is run again
    return records


class Ledger:
    """The simulations of a calibration in its folder.

    Args:
        run: the calibration in its folder.
        about: what is calibrated.

    Attributes:
        records: what is done already, by simulation.
    """

    def __init__(self, run: runs.Run, about: Mapping[str, object]) -> None:
        self._lines, self._path = run.generation.lines(LINES), run.generation.path / LINES
        self._waiting: list[bytes] = []
        self.records = _records(self._path)
        run.generation.write(ABOUT, lambda file: file.write(sealed(about, SCHEMA)))

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self._lines.close()

    def add(self, record: Record) -> None:
        """Appends a record, in one piece, and waits until the disk has it.

        A disk that does not take it is named in a warning; it is tried again with the next one.
        """
        self.records[record["simulation"]] = record
        full = bool(self._waiting)
        self._waiting.append(sealed(record, SCHEMA, indent=None).rstrip(b"\n"))
        try:
            while self._waiting:
                self._lines.append(self._waiting[0], sync=True)
                del self._waiting[0]
        except OSError as error:
            if not full:
                warnings.warn(
                    f"a simulation could not be written to {self._path}: {error}. The calibration goes on. "
                    "Fix: make room on the disk; it is tried again after the next simulation.",
                    PyrolvmWarning,
                    stacklevel=2,
                )
