"""Files of a result, by the entries of its manifest, and results that are written at once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pyrolvm._base.errors import StoreError
from pyrolvm._runs import readers
from pyrolvm._runs.directory import Write, is_name
from pyrolvm._runs.layout import MANIFEST, Manifest
from pyrolvm._runs.trees import parse_tree

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

__all__ = ["Part", "Stored", "as_json", "bundled", "steady", "stored", "verified"]

T = TypeVar("T")

GROWTH = 3.0
"""How many bytes of memory a byte of a result takes: what was read, what it is parsed to, and room to work."""
TIMES = 10
"""How often a folder is read that somebody replaces again and again."""


Part = tuple[str, Write]
"""A file: the end of its name, and what writes it."""


def as_json(value: object) -> Write:
    """What writes a value as JSON."""
    return lambda file: file.write((json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def bundled(kind: str, parts: Mapping[str, Part]) -> dict[str, bytes]:
    """The files of a result by name, with a manifest that names them, for a folder without a run of its own."""
    files: dict[str, bytes] = {}
    entries: dict[str, dict[str, Any]] = {}
    for what, (suffix, write) in parts.items():
        content = BytesIO()
        write(content)
        digest = hashlib.sha256(content.getbuffer()).hexdigest()
        name = f"{what}-{digest[:12]}{suffix}"
        files[name] = content.getvalue()
        entries[what] = {"name": name, "sha256": digest, "bytes": len(files[name])}
    return {**files, MANIFEST: Manifest(kind, entries).content}


@dataclass(frozen=True)
class Stored:
    """A file of a result that was read and is what was written.

    Attributes:
        path: where it is.
        content: all of it.
    """

    path: Path
    content: bytes

    def json(self) -> dict[str, Any]:
        """The object that it holds as JSON."""
        readers.check_json_size(len(self.content), self.path)
        return readers.as_object(readers.parse_json(self.content, self.path), self.path)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that it holds."""
        return readers.parse_tensors(self.content, self.path)

    def tree(self) -> xr.DataTree:
        """The tree that it holds."""
        return parse_tree(self.content, self.path)


def steady(folder: Path, read: Callable[[Path], T]) -> T:
    """What is read of a folder, again if another result was put in force meanwhile, of which the files of the one before are removed.

    Raises:
        StoreError: if it cannot be read as it is.
    """
    for _ in range(TIMES):
        before = Manifest.read(folder)
        try:
            found = read(folder)
        except StoreError:
            if Manifest.read(folder) == before:
                raise
            continue
        if Manifest.read(folder) == before:
            return found
    return read(folder)


def verified(folder: Path, keys: Sequence[str]) -> dict[str, Stored]:
    """Files of a result, each read once and held against its size and checksum.

    Raises:
        StoreError: if one is not there, or not what was written.
    """
    manifest = Manifest.read(folder)
    if manifest is None:
        raise StoreError(
            f"{folder} holds no saved result: there is no {MANIFEST}. Fix: give the folder of result.save(path)."
        )
    absent = [key for key in keys if key not in manifest.files]
    if absent:
        raise StoreError(
            f"{folder / MANIFEST} is damaged: it names no {absent[0]!r} file. Fix: restore it, or run again with overwrite=True."
        )
    return {key: stored(folder, manifest.files[key]) for key in keys}


def stored(folder: Path, entry: Mapping[str, Any]) -> Stored:
    """The file of a manifest's entry, read once and held against its size and checksum.

    Raises:
        StoreError: if it is not there, is a link or in one, or is not what was written.
    """
    name, size = str(entry.get("name")), entry.get("bytes")
    parts = name.split("/")
    path = folder.joinpath(*parts) if all(map(is_name, parts)) and len(parts) <= 2 else None
    if path is None or not os.path.lexists(path) or (len(parts) > 1 and path.parent.is_symlink()):
        raise StoreError(
            f"{folder} lacks its file {name!r}. Fix: restore the folder from a copy, or run again with overwrite=True."
        )
    content = readers.read_bytes(path, growth=GROWTH)
    remedy = "Fix: restore it, or run again with overwrite=True."
    if len(content) != size:
        raise StoreError(f"{path} is damaged: it has {len(content)} bytes, not {size}. {remedy}")
    if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
        raise StoreError(f"{path} is damaged: its checksum differs from the manifest's. {remedy}")
    return Stored(path, content)
