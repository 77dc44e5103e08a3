"""Whether a run's folder can be where a user wants it, asked before anything is computed for it."""

from __future__ import annotations

import errno
import os
import uuid
from contextlib import suppress
from pathlib import Path

from pyrolvm._base.errors import ArgumentError

__all__ = ["as_folder", "check_place"]

LONGEST_NAME = 255
"""Bytes of a name in any usual file system."""


def as_folder(path: object, name: str = "out", what: str = "to save the result in") -> Path:
    """The path that a user names.

    Args:
        path: what was given.
        name: the argument.
        what: what the folder is for.

    Raises:
        ArgumentError: if it is none.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path) or isinstance(os.fspath(path), bytes):
        raise ArgumentError(f'{name} must be a folder {what}, got {path!r}. Fix: pass for example {name}="runs/a".')
    return Path(path)


def check_place(folder: Path) -> None:
    """Refuses a folder that cannot be made.

    Raises:
        ArgumentError: if its path cannot exist, or there is nothing that takes it.
    """
    path = folder.absolute()
    try:
        above = next(part for part in (path, *path.parents) if _exists(part))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArgumentError(
            f"out={str(folder)!r} cannot be a folder: {reason}. Fix: pass a path of shorter names below a folder."
        ) from None
    why = None if above == path else _refused(above)
    if why is not None:
        raise ArgumentError(
            f"out={str(folder)!r} cannot be made: {str(above)!r} takes no new folder ({why}). "
            "Fix: pass a path below a folder that may be written to, on a disk with room."
        )


def _refused(above: Path) -> str | None:
    """Why no folder can be made there, which permissions do not tell of a system's own folders or a read-only disk.

    One of another name is made and removed: another process may be about to make the one that is asked for, or to remove this one.
    """
    probe = above / f".pyrolvm-{uuid.uuid4().hex}"
    try:
        probe.mkdir()
    except OSError as error:
        return error.strerror if above.is_dir() or _exists(above) else None
    with suppress(OSError):
        probe.rmdir()
    return None


def _exists(path: Path) -> bool:
    """Whether there is something at a path; an error where there can be nothing."""
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True
