"""A calibration's folder while it runs: what is calibrated, and a line of JSON for each simulation that is done.

``calibration-run.json`` is written first. A line is appended in one piece and is there for good, so that a process that is killed
loses the simulations it was at, and no other. A line that is not whole is left out, and run again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pyrolvm.calibration.job import Record
from pyrolvm.errors import StoreError
from pyrolvm.runs import readers
from pyrolvm.store import Lock, make_folder, read_json, replace, write_json

__all__ = ["MARKER", "Ledger", "is_calibration", "read"]

MARKER, LINES = "calibration-run.json", "simulations.jsonl"


def is_calibration(folder: str | Path) -> bool:
    """Whether a folder holds a calibration, finished or not."""
    return (Path(folder) / MARKER).is_file()


def read(folder: Path) -> tuple[dict[str, Any], dict[int, Record]]:
    """What a folder says about its calibration, and the records of the simulations that are done.

    Raises:
        StoreError: if it holds none, or what it says cannot be read.
    """
    if not is_calibration(folder):
        raise StoreError(
            f"{folder} holds no calibration: there is no {MARKER}. Fix: give the folder that calibrate wrote."
        )
    about = read_json(folder / MARKER)
    records: dict[int, Record] = {}
    path = folder / LINES
    for line in readers.read_bytes(path, growth=readers.JSON_GROWTH).split(b"\n") if path.exists() else ():
        try:
            record = readers.parse_json(line, path)
            records[int(record["simulation"])] = record
        except (ValueError, OverflowError, KeyError, TypeError):
            continue  # a line cut short, which is run again
    return about, records


@dataclass
class Ledger:
    """The one writer of a folder.

    Args:
        folder: where to write.
        about: what is calibrated; simulations of another ``identity`` are refused.
        resume: whether to go on with what is there.

    Attributes:
        records: what is done already, by simulation.
    """

    folder: Path
    about: Mapping[str, Any]
    resume: bool

    def __enter__(self) -> Ledger:
        self.records: dict[int, Record] = {}
        if is_calibration(self.folder):
            if not self.resume:
                raise StoreError(
                    f"{self.folder} holds a calibration already. "
                    "Fix: pass resume=True to go on with it, or name another folder."
                )
            said, self.records = read(self.folder)
            _check_same(self.folder, said.get("identity", {}), self.about["identity"])
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise StoreError(f"{self.folder} is not empty and holds no calibration. Fix: name a new folder.")
        make_folder(self.folder)
        self._lock = Lock(self.folder)
        self._lock.__enter__()
        replace(self.folder, MARKER, lambda file: write_json(self.about, file))
        self._file = os.open(self.folder / LINES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._end_line()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        self._lock.__exit__(kind, error, trace)

    def add(self, record: Record) -> None:
        """Appends a record, in one piece, and waits until the disk has it."""
        self.records[record["simulation"]] = record
        os.write(self._file, (json.dumps(record, allow_nan=False) + "\n").encode())
        os.fsync(self._file)

    def _end_line(self) -> None:
        """Ends a line that was cut short, so that the next one stands by itself."""
        path = self.folder / LINES
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    os.write(self._file, b"\n")


def _check_same(folder: Path, said: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    about = json.loads(json.dumps(about))
    for what in about:
        if said.get(what) != about[what]:
            raise StoreError(
                f"{folder} was made with another {what.replace('_', ' ')}: {_short(said.get(what))}, now {_short(about[what])}. "
                "Fix: name another folder, or use the same inputs."
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
