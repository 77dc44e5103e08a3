"""Files that are whole or not there: written beside, synced, renamed, and told by their checksum.

A reader finds what was before or what came after, never a part, whatever moment a process is killed at or a disk is full.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from pyrolvm.errors import StoreError
from pyrolvm.runs import readers

__all__ = [
    "LOCK", "PART", "Lock", "make_folder", "read_json", "replace", "sha256", "sweep", "sync", "write_json", "write_part", "writing",
]  # fmt: skip

LOCK = ".writer"
"""The file that says who is writing to a folder."""

PART = ".part-"
"""How the names of files begin that are not whole yet."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Names the folder where it cannot be made or does not take what is written.

    Raises:
        StoreError: if that is so.
    """
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise StoreError(
            f"{str(folder)!r} cannot be written to: {why}. Fix: name a folder that can be made and written, with room for the result."
        ) from error


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, if it is not there.

    Raises:
        StoreError: if it cannot be made.
    """
    with writing(folder):
        if "\0" in str(folder):
            raise OSError("it has a null character")
        folder.mkdir(parents=True, exist_ok=True)


class Lock:
    """The right to write to a folder, which the system takes back when this process ends, however it ends.

    It is an advisory lock of the file ``.writer``, which holds the process's number. A lock that a killed process held is
    free. It holds on one host: two hosts that share a file system may both get it.

    Args:
        folder: where to write; it must exist.

    Raises:
        StoreError: on entering, if another process, or another run of this one, writes there, or none may.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK

    def __enter__(self) -> Lock:
        import fcntl

        while True:
            with writing(self.path.parent):
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.read(handle, 300).decode(errors="replace") or "unknown"
                os.close(handle)
                raise StoreError(
                    f"process {holder} is writing to {self.path.parent}. Fix: wait for it, or name another folder."
                ) from None
            if _is_at(handle, self.path):
                break
            os.close(handle)  # the holder before removed the file between our opening and locking it
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
        self._handle = handle
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def write_part(folder: Path, stem: str, suffix: str, write: Callable[[Path], None]) -> dict[str, Any]:
    """Writes one file under a name that holds its checksum; returns its entry for a manifest."""
    temporary = _temporary(folder, suffix)
    try:
        write(temporary)
        digest = sha256(temporary)
        target = folder / f"{stem}-{digest[:12]}{suffix}"
        sync(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return {"name": target.name, "sha256": digest, "bytes": target.stat().st_size}


def replace(folder: Path, name: str, write: Callable[[Path], None]) -> None:
    """Writes a file so that a reader finds the old one or the new one, never a part."""
    temporary = _temporary(folder, ".json")
    try:
        write(temporary)
        sync(temporary)
        sync(folder)
        os.replace(temporary, folder / name)
        sync(folder)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes what killed processes left half written; whoever calls it holds the folder's lock."""
    for path in folder.glob(f"{PART}*"):
        path.unlink(missing_ok=True)


def whole(folder: Path, entry: Mapping[str, Any]) -> Path:
    """The file of a manifest's entry, checked against its size and checksum.

    Raises:
        StoreError: if it is not there, or not what was written.
    """
    name = str(entry.get("name"))
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise StoreError(f"{folder} lacks its file {name!r}. Fix: restore the folder from a copy, or run again.")
    size, expected = path.stat().st_size, entry.get("bytes")
    if isinstance(expected, int) and size != expected:
        raise StoreError(f"{path} is damaged: it has {size} bytes, not {expected}. Fix: restore it, or run again.")
    if sha256(path) != entry.get("sha256"):
        raise StoreError(f"{path} is damaged: its checksum differs from the manifest's. Fix: restore it, or run again.")
    return path


def write_json(value: Any, file: Path) -> None:
    """Writes JSON."""
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        StoreError: if it holds none.
    """
    value = readers.read_json(path)
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged: expected a JSON object. Fix: restore it, or run again.")
    return value


def sha256(path: Path) -> str:
    """The checksum of a file.

    Raises:
        StoreError: if it cannot be read, or is no regular file.
    """
    return readers.digest(path)


def _temporary(folder: Path, suffix: str) -> Path:
    handle, name = tempfile.mkstemp(dir=folder, prefix=PART, suffix=suffix)
    os.close(handle)
    return Path(name)


def sync(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
