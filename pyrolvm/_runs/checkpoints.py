"""Checkpoints of a run that goes on: the last two, so that a damaged one costs the steps between them.

They are in the folder ``checkpoints`` of the run. ``checkpoint-00000012.json`` is written last: it holds the state as JSON, the names
and checksums of the files of its tensors, and its own checksum. Draws of a sampler go into files of their own, each once, that all
later checkpoints refer to.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrolvm._base.errors import PyrolvmWarning, StoreError
from pyrolvm._runs.files import stored
from pyrolvm._runs.generation import Generation
from pyrolvm._runs.pace import Pace
from pyrolvm._runs.packing import pack, unpack, write_tensors
from pyrolvm._runs.readers import parsing
from pyrolvm._runs.sealing import opened, sealed

__all__ = ["FOLDER", "Checkpoint", "Checkpoints", "newest"]

FOLDER = "checkpoints"
SCHEMA = 2
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A state that was read.

    Attributes:
        state: what was written, nested values.
        chunks: what was written piece by piece, in that order.
    """

    state: dict[str, Any]
    chunks: list[Any]


class Checkpoints:
    """The checkpoints of a run.

    Args:
        generation: the run's folder, open for writing.
        every: seconds between two; ``None`` for the default.

    Attributes:
        folder: where they are.
        run: the folder that the user named, for messages.
    """

    def __init__(self, generation: Generation, every: float | None = None) -> None:
        self._generation, self._pace = generation, Pace(every)
        self.folder, self.run = generation.path / FOLDER, generation.path.parent
        self._chunks: list[dict[str, Any]] = []
        self._number, self._before = 0, frozenset[str]()

    def read(self) -> Checkpoint | None:
        """The newest one that is whole, which later ones continue; ``None`` if there is none at all.

        A damaged one is named in a warning.

        Raises:
            StoreError: if there are some and all are damaged.
        """
        found = _found(self.folder)
        if found is None:
            return None
        self._number, content, checkpoint = found
        self._chunks, self._before = content["chunks"], _names(content)
        return checkpoint

    def look(
        self, state: Callable[[], Mapping[str, Any]], chunk: Callable[[], Any] = lambda: None, *, now: bool = False
    ) -> bool:
        """Writes the next one if it is due; returns whether it did. A disk that does not take it is named in a warning.

        Args:
            state: makes the state.
            chunk: makes what is new since the last one, if anything.
            now: whether it is due in any case.
        """
        if not (now or self._pace.due()):
            return False
        began = time.monotonic()
        try:
            self.write(state(), chunk())
        except OSError as error:
            warnings.warn(
                f"a checkpoint could not be written to {self.folder}: {error}. The run goes on, and the checkpoint before is as it "
                "was. Fix: make room on the disk; the next one is tried in a while.",
                PyrolvmWarning,
                stacklevel=3,
            )
            return False
        finally:
            self._pace.written(began)
        return True

    def write(self, state: Mapping[str, Any], chunk: Any = None) -> None:
        """Writes the next one, and forgets all but the last two.

        Args:
            state: nested values, as :func:`pyrolvm._runs.packing.pack` takes them.
            chunk: what is new since the last one, if anything, likewise.

        Raises:
            OSError: if the disk does not take it; those before are untouched.
            StoreError: if the folder is somebody else's by now.
        """
        number = self._number + 1
        chunks = self._chunks if chunk is None else [*self._chunks, self._part("chunk", chunk)]
        content = {"number": number, "state": self._part("state", state), "chunks": chunks}
        written = sealed(content, SCHEMA, indent=None)
        self._generation.write(f"{FOLDER}/{_name(number)}", lambda file: file.write(written))
        before, self._before = self._before, _names(content)
        self._number, self._chunks = number, chunks
        self._forget(before | self._before)

    def clear(self) -> None:
        """Removes all of them."""
        self._generation.remove_all(FOLDER)

    def _part(self, stem: str, value: Any) -> dict[str, Any]:
        tensors: dict[str, Any] = {}
        packed = pack(value, tensors)
        file = self._generation.write_part(
            f"{FOLDER}/{stem}", ".safetensors", lambda opened: write_tensors(tensors, opened)
        )
        return {"value": packed, "file": file}

    def _forget(self, kept: frozenset[str]) -> None:
        """Removes checkpoints before the last two, and the files that neither of them refers to."""
        numbers = {_name(self._number - back) for back in range(KEPT)}
        for name in self._generation.names(FOLDER):
            if name not in (kept if name.endswith(".safetensors") else numbers):
                self._generation.remove(f"{FOLDER}/{name}")


def newest(run: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole of the run whose folder is given; ``None`` if there is none."""
    found = _found(run / FOLDER)
    return None if found is None else found[2]


def _found(folder: Path) -> tuple[int, dict[str, Any], Checkpoint] | None:
    numbers = sorted(_numbers(folder), reverse=True)
    damaged: list[str] = []
    for number in numbers:
        try:
            with parsing(folder / _name(number)):
                content = opened(folder / _name(number), SCHEMA)
                state = _read_part(folder, content["state"])
                chunks = [_read_part(folder, part) for part in content["chunks"]]
        except StoreError as error:
            damaged.append(str(error).partition(" Fix:")[0])
            continue
        if damaged:
            warnings.warn(
                f"{' '.join(damaged)} The run goes on from the checkpoint before, {folder / _name(number)}. "
                "Fix: nothing needs to be done; check the disk if this happens again.",
                PyrolvmWarning,
                stacklevel=2,
            )
        return number, content, Checkpoint(state, chunks)
    if damaged:
        raise StoreError(
            f"none of the checkpoints in {folder} can be read: {' '.join(damaged)} "
            "Fix: restore them from a copy, or run again with overwrite=True."
        )
    return None


def _names(content: Mapping[str, Any]) -> frozenset[str]:
    """The files that a checkpoint refers to."""
    return frozenset(part["file"]["name"] for part in (content["state"], *content["chunks"]))


def _numbers(folder: Path) -> list[int]:
    stems = (path.stem.partition("-")[2] for path in folder.glob("checkpoint-*.json"))
    return [int(stem) for stem in stems if stem.isdecimal() and len(stem) == 8]


def _name(number: int) -> str:
    return f"checkpoint-{number:08d}.json"


def _read_part(folder: Path, part: Mapping[str, Any]) -> Any:
    return unpack(part["value"], stored(folder, part["file"]).tensors())
