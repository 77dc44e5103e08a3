"""A folder by its descriptor: what is read, written and removed is in it, whatever links and renames go on around it.

Names are single: no slash, no ``..``. No link is followed. Files are whole or not there: written beside, synced, renamed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from pyrolvm._base.errors import StoreError
from pyrolvm._base.machine import flags

__all__ = ["PART", "Directory", "Unwritten", "Write", "append_whole", "is_name", "taken", "write_whole", "writing"]

PART = ".part"
"""The name of a file that is not whole yet."""

Write = Callable[[BinaryIO], object]
"""Writes a file's content."""


class Unwritten(OSError):
    """The disk did not take a file of a run; what was there is untouched."""


_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_READ = flags("O_RDONLY", "O_NOFOLLOW")
_FOLDER = flags("O_RDONLY", "O_NOFOLLOW", "O_DIRECTORY")


def is_name(name: object) -> bool:
    """Whether it may be the name of a file or folder of ours: letters, digits, dots, dashes and underscores, at most 200."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and name not in (".", "..")


@contextmanager
def taken() -> Iterator[None]:
    """What the system says to what is written, as :class:`Unwritten`."""
    try:
        yield
    except Unwritten:
        raise
    except OSError as error:
        raise Unwritten(*error.args) from error


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


def append_whole(handle: int, content: bytes) -> None:
    """Writes at the end of a file, all of it or nothing.

    Raises:
        OSError: if the disk does not take it; then the file is as it was.
    """
    write_whole(handle, content, os.fstat(handle).st_size)


def write_whole(handle: int, content: bytes, at: int) -> None:
    """Writes from a place in a file on, where it then ends; or ends it there, if the disk does not take all of it.

    Raises:
        OSError: if the disk does not take it.
    """
    try:
        if os.pwrite(handle, content, at) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except BaseException:
        with suppress(OSError):
            os.ftruncate(handle, at)
        raise


class Directory:
    """An open folder.

    Args:
        path: what to call it in messages.
        handle: its descriptor, which this object closes.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self.handle = path, handle

    @classmethod
    def opened(cls, path: Path) -> Directory:
        """Opens the folder that a user names, who may name a link to one.

        Raises:
            OSError: if there is none.
            StoreError: on Windows, which names no file by the folder that is open.
        """
        if os.open not in os.supports_dir_fd:
            raise StoreError(
                f"{str(path)!r} cannot be a folder of results: this system does not keep folders open, which is how files are written "
                "whole. Fix: run pyrolvm in WSL or on Linux or macOS, or keep the draws by posterior.data.to_netcdf(path)."
            )
        return cls(path, os.open(path, flags("O_RDONLY", "O_DIRECTORY")))

    def __enter__(self) -> Directory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the descriptor back."""
        handle, self.handle = self.handle, -1
        if handle >= 0:
            os.close(handle)

    def folder(self, name: str) -> Directory:
        """A folder in it.

        Raises:
            OSError: if there is none of that name, or a link.
        """
        return Directory(self.path / _checked(name), os.open(name, _FOLDER, dir_fd=self.handle))

    def make(self, name: str) -> Directory:
        """A folder in it, made if it is not there.

        Raises:
            OSError: if it cannot be made, or something else has its name.
        """
        with suppress(FileExistsError):
            os.mkdir(_checked(name), 0o755, dir_fd=self.handle)
        return self.folder(name)

    def is_in_place(self) -> bool:
        """Whether it is still what lies at its path."""
        try:
            return os.path.samestat(os.fstat(self.handle), os.stat(self.path))
        except OSError:
            return False

    def names(self) -> list[str]:
        """The names of all that is in it, in order."""
        return sorted(os.listdir(self.handle))

    def is_file(self, name: str) -> bool:
        """Whether there is a file of that name, no link."""
        found = self._stat(name)
        return found is not None and stat.S_ISREG(found.st_mode)

    def is_empty(self, name: str) -> bool:
        """Whether there is a file of that name with nothing in it."""
        found = self._stat(name)
        return found is not None and stat.S_ISREG(found.st_mode) and not found.st_size

    def is_folder(self, name: str) -> bool:
        """Whether there is a folder of that name, no link."""
        found = self._stat(name)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def is_link(self, name: str) -> bool:
        """Whether there is a symbolic link of that name."""
        found = self._stat(name)
        return found is not None and stat.S_ISLNK(found.st_mode)

    def has(self, name: str) -> bool:
        """Whether there is anything of that name."""
        return self._stat(name) is not None

    def _stat(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(_checked(name), dir_fd=self.handle, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO:
        """A file in it, to read.

        Raises:
            OSError: if there is none, or it is a link, a pipe or a device.
        """
        handle = os.open(_checked(name), _READ | flags("O_NONBLOCK"), dir_fd=self.handle)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.EINVAL, "not a file", name)
        return os.fdopen(handle, "rb")

    def replace(self, name: str, write: Write, *, part: str = PART) -> None:
        """Writes a file so that a reader finds the old one or the new one, never a part.

        Args:
            name: its name; a link of that name is replaced, not followed.
            write: writes its content.
            part: its name until it is whole; what has that name is removed.

        Raises:
            OSError: if the disk does not take it; what was there is untouched.
        """
        self.create(part, write)
        self._place(part, name)

    def link(self, name: str, target: str, *, part: str = PART) -> None:
        """Makes a link to what lies in this folder, in place of what has its name.

        Args:
            name: its name.
            target: what it leads to, relative to this folder.
            part: its name at first; what has that name is removed.
        """
        self.remove(part)
        os.symlink(target, _checked(part), dir_fd=self.handle)
        self._place(part, name)

    def _place(self, part: str, name: str) -> None:
        """Gives what is whole its name; removes it where it cannot have it."""
        try:
            self.rename(part, name)
        except BaseException:
            self.remove(part)
            raise

    def create(self, name: str, write: Write) -> None:
        """Writes a file under a name that is ours, in place of what has it, and waits until the disk has it.

        Raises:
            OSError: if the disk does not take it; then it is not there.
        """
        self.remove(name)
        handle = os.open(_checked(name), flags("O_RDWR", "O_CREAT", "O_EXCL", "O_NOFOLLOW"), 0o644, dir_fd=self.handle)
        try:
            with os.fdopen(handle, "w+b") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            self.remove(name)
            raise

    def rename(self, name: str, to: str, into: Directory | None = None) -> None:
        """Gives a file or folder another name, in this folder or another, and waits until the disk has it."""
        target = into or self
        os.rename(_checked(name), _checked(to), src_dir_fd=self.handle, dst_dir_fd=target.handle)
        self.sync()
        if into is not None:
            into.sync()

    def remove(self, name: str) -> None:
        """Removes a file or link, if it is there."""
        with suppress(FileNotFoundError):
            os.unlink(_checked(name), dir_fd=self.handle)

    def remove_folder(self, name: str) -> None:
        """Removes a folder, if it is there and empty. One that has something in it stays."""
        with suppress(OSError):
            os.rmdir(_checked(name), dir_fd=self.handle)

    def sync(self) -> None:
        """Brings the names in it to the disk."""
        os.fsync(self.handle)

    def size(self, name: str) -> int:
        """The size of a file in bytes."""
        with self.open(name) as file:
            return os.fstat(file.fileno()).st_size

    def digest(self, name: str) -> tuple[str, int]:
        """The sha256 of a file, and its size in bytes."""
        with self.open(name) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            return found, os.fstat(file.fileno()).st_size


def _checked(name: str) -> str:
    if not is_name(name):
        raise StoreError(
            f"{name!r} is no name of a file in a run's folder. Fix: restore the folder from a copy, or run again."
        )
    return name
