"""Checkpoints of a run that goes on: the last two, so that a damaged one costs the steps between them.

They are in the folder ``checkpoints`` of the run. ``checkpoint-00000012.json`` is written last: it holds the state as JSON, the names
and checksums of the files of its tensors, and its own checksum. Draws of a sampler go into files of their own, each once, that all
later checkpoints refer to.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrolvm.errors import PyrolvmWarning, StoreError
from pyrolvm.runs.readers import parsing
from pyrolvm.store.files import read_json, replace, sweep, whole, write_part
from pyrolvm.store.packing import pack, read_tensors, unpack, write_tensors

__all__ = ["FOLDER", "Checkpoint", "Checkpoints", "about"]

FOLDER = "checkpoints"
SCHEMA = 1
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A state that was read.

    Attributes:
        about: of which run it is.
        state: what was written, nested values.
        chunks: what was written piece by piece, in that order.
    """

    about: dict[str, Any]
    state: dict[str, Any]
    chunks: list[Any]


class Checkpoints:
    """The checkpoints in a run's folder; whoever writes them holds the folder's lock.

    Args:
        run: the run's folder.
        about: of which run they are, which goes into each.
    """

    def __init__(self, run: Path, about: Mapping[str, Any]) -> None:
        self.folder, self.about = run / FOLDER, about
        self._chunks: list[dict[str, Any]] = []
        self._number = 0

    def read(self) -> Checkpoint | None:
        """The newest one that is whole, which later ones continue; ``None`` if there is none at all.

        A damaged one is named in a warning.

        Raises:
            StoreError: if there are some and all are damaged.
        """
        found = _newest(self.folder)
        if found is None:
            return None
        self._number, content, checkpoint = found
        self._chunks = content["chunks"]
        return checkpoint

    def write(self, state: Mapping[str, Any], chunk: Any = None) -> None:
        """Writes the next one, and forgets all but the last two.

        Args:
            state: nested values, as :func:`pyrolvm.store.packing.pack` takes them.
            chunk: what is new since the last one, if anything, likewise.

        Raises:
            OSError: if the disk does not take it; those before are untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        number = self._number + 1
        chunks = self._chunks if chunk is None else [*self._chunks, self._part("chunk", chunk)]
        content = {
            "about": dict(self.about), "number": number, "state": self._part("state", state), "chunks": chunks,
        }  # fmt: skip
        written = {"schema": SCHEMA, "sha256": _digest(content), "content": content}
        replace(self.folder, _name(number), lambda file: _write_compactly(written, file))
        self._number, self._chunks = number, chunks
        self._forget(content)

    def clear(self) -> None:
        """Removes all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _part(self, stem: str, value: Any) -> dict[str, Any]:
        tensors: dict[str, Any] = {}
        packed = pack(value, tensors)
        file = write_part(self.folder, stem, ".safetensors", lambda path: write_tensors(tensors, path))
        return {"value": packed, "file": file}

    def _forget(self, newest: Mapping[str, Any]) -> None:
        """Removes what neither of the last two refers to."""
        kept = {part["file"]["name"] for part in (newest["state"], *newest["chunks"])}
        numbers = sorted(_numbers(self.folder))
        for number in numbers[:-KEPT]:
            (self.folder / _name(number)).unlink(missing_ok=True)
        for number in numbers[-KEPT:-1]:
            try:
                with parsing(self.folder / _name(number)):
                    content = _content(self.folder / _name(number))
                    kept |= {part["file"]["name"] for part in (content["state"], *content["chunks"])}
            except StoreError:
                continue
        for path in self.folder.glob("*.safetensors"):
            if path.name not in kept:
                path.unlink(missing_ok=True)
        sweep(self.folder)


def about(run: Path) -> dict[str, Any] | None:
    """Of which run a folder's checkpoints are; ``None`` if it has none."""
    found = _newest(run / FOLDER)
    return None if found is None else found[2].about


def _newest(folder: Path) -> tuple[int, dict[str, Any], Checkpoint] | None:
    numbers = sorted(_numbers(folder), reverse=True)
    damaged: list[str] = []
    for number in numbers:
        try:
            with parsing(folder / _name(number)):
                content = _content(folder / _name(number))
                state = _read_part(folder, content["state"])
                chunks = [_read_part(folder, part) for part in content["chunks"]]
                about = dict(content["about"])
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
        return number, content, Checkpoint(about, state, chunks)
    if damaged:
        raise StoreError(
            f"none of the checkpoints in {folder} can be read: {' '.join(damaged)} "
            f"Fix: restore them from a copy, or remove {folder} and run again."
        )
    return None


def _numbers(folder: Path) -> list[int]:
    stems = (path.stem.partition("-")[2] for path in folder.glob("checkpoint-*.json"))
    return [int(stem) for stem in stems if stem.isdecimal() and len(stem) == 8]


def _name(number: int) -> str:
    return f"checkpoint-{number:08d}.json"


def _content(path: Path) -> dict[str, Any]:
    """What a checkpoint says, checked against its own checksum.

    Raises:
        StoreError: if it is damaged, or of another version.
    """
    found = read_json(path)
    if found.get("schema") != SCHEMA:
        raise StoreError(
            f"{path} has schema {found.get('schema')!r}, this version reads {SCHEMA}. Fix: use the version that wrote it."
        )
    content = found.get("content")
    if not isinstance(content, dict) or found.get("sha256") != _digest(content):
        raise StoreError(f"{path} is damaged: its checksum differs from its content's. Fix: restore it, or run again.")
    return content


def _read_part(folder: Path, part: Mapping[str, Any]) -> Any:
    return unpack(part["value"], read_tensors(whole(folder, part["file"])))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_compactly(value: Any, file: Path) -> None:
    file.write_text(json.dumps(value, sort_keys=True) + "\n", encoding="utf-8")
