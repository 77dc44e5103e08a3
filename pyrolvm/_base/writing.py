"""Files that a user names: whole or not at all, and an error in words where the disk does not take them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pyrolvm._base.errors import StoreError
from pyrolvm._base.machine import flags

__all__ = ["replace_file", "write_file"]


def write_file(path: str | Path, write: Callable[[BinaryIO], object]) -> Path:
    """Writes a file that a caller names, whole or not at all.

    Args:
        path: the file; one of that name is replaced.
        write: writes its content.

    Returns:
        The file.

    Raises:
        StoreError: if its folder is not there, or does not take it.
    """
    file = Path(path)
    try:
        replace_file(file, write)
    except OSError as error:
        why = error.strerror or str(error)
        raise StoreError(
            f"{str(path)!r} cannot be written: {why}. Fix: name a file in a folder that is there and can be written to."
        ) from error
    return file


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that a reader sees the old content or the new, never half of it.

    It has no name until it is whole, where the system can do that: a process that is killed leaves nothing beside it.
    """
    part = path.absolute().parent / f".pyrolvm-{uuid.uuid4().hex}"
    handle = _unnamed(part.parent)
    named = handle is None
    if handle is None:
        handle = os.open(part, flags("O_RDWR", "O_CREAT", "O_EXCL"), 0o666)
    try:
        with os.fdopen(handle, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if not named:
                _name(file.fileno(), part)
        os.replace(part, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)
        raise


def _unnamed(folder: Path) -> int | None:
    """A file in a folder that has no name yet; ``None`` where there are none such."""
    kind = getattr(os, "O_TMPFILE", None)
    if kind is None or not os.path.exists("/proc/self/fd"):
        return None
    try:
        return os.open(folder, kind | flags("O_RDWR"), 0o666)
    except OSError:  # a file system that has none, or one that cannot be written to, as is said next
        return None


def _name(handle: int, part: Path) -> None:
    folder = os.open(part.parent, flags("O_RDONLY", "O_DIRECTORY"))
    try:  # with a folder given, so that the link in /proc is followed
        os.link(f"/proc/self/fd/{handle}", part.name, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)
