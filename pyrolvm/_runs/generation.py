"""The folder of one run inside a run's folder: what it is, and each name that was ever written there.

``begun.json`` says which run it is. ``names.log`` has every name before the file of that name is made: what is removed later is what
it lists, and nothing else. A folder in which something foreign lies stays, with that in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyrolvm._base.errors import StoreError
from pyrolvm._base.machine import flags
from pyrolvm._runs.directory import PART, Directory, Write, append_whole, taken
from pyrolvm._runs.layout import BEGUN, NAMES, SCHEMA
from pyrolvm._runs.removal import listed, remove_listed
from pyrolvm._runs.sealing import sealed

__all__ = ["Generation", "Lines"]

OPEN = 16
"""Folders that are kept open at once."""


class Generation:
    """The folder of one run, open for writing; whoever has it holds the lock of the run's folder.

    Args:
        directory: the folder, which this object closes.
        check: refuses to write where somebody else holds the run's folder by now.
    """

    def __init__(self, directory: Directory, check: Callable[[], None]) -> None:
        self._directory, self._check = directory, check
        self._open: dict[str, Directory] = {}
        with ExitStack() as undo:
            undo.callback(directory.close)
            self._log = Lines.opened(directory, NAMES)
            undo.callback(self._log.close)
            self._known = set(listed(directory))
            undo.pop_all()

    def close(self) -> None:
        """Gives descriptors back."""
        for one in self._open.values():
            one.close()
        self._open.clear()
        self._log.close()
        self._directory.close()

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._directory.path

    @property
    def name(self) -> str:
        """Its name in the run's folder."""
        return self._directory.path.name

    @property
    def barren(self) -> bool:
        """Whether there is nothing that a run could go on from."""
        return not any(self._counts(name) and self._has(name) for name in self._known)

    @staticmethod
    def _counts(name: str) -> bool:
        """Whether what has this name is more than a beginning: a whole file, or a run that is a part of this one."""
        folder = name.endswith("/") and not name.endswith("//")
        return not folder and name != BEGUN and name.rpartition("/")[2] != PART

    def _has(self, name: str) -> bool:
        folder, _, last = name.rstrip("/").rpartition("/")
        try:
            return self._folder(folder, make=False).has(last)
        except FileNotFoundError:
            return False

    # --- which run ------------------------------------------------------------------------------------------------------

    def begin(self, command: str, about: Mapping[str, object]) -> None:
        """Says which run it is."""
        content = sealed({"command": command, "about": about}, SCHEMA)
        self.write(BEGUN, lambda file: file.write(content))

    # --- files: names are paths inside, with slashes ----------------------------------------------------------------------

    def write(self, name: str, write: Write) -> None:
        """Writes a file, whole or not at all, and replaces what has its name.

        Raises:
            Unwritten: if the disk does not take it; what was there is untouched.
        """
        with self._writing(name, _beside(name)) as (folder, last):
            self._note(name)
            folder.replace(last, write)

    def write_part(self, stem: str, suffix: str, write: Write) -> dict[str, object]:
        """Writes a file under a name that holds its checksum; returns its entry for a manifest, the name without folders.

        Raises:
            Unwritten: if the disk does not take it.
        """
        with self._writing(stem, _beside(stem)) as (folder, last):
            folder.create(PART, write)
            try:
                digest, size = folder.digest(PART)
                target = f"{last}-{digest[:12]}{suffix}"
                self._note(stem.removesuffix(last) + target)
                folder.rename(PART, target)
            except BaseException:
                folder.remove(PART)
                raise
        return {"name": target, "sha256": digest, "bytes": size}

    def lines(self, name: str) -> Lines:
        """A file that lines are appended to; the caller closes it.

        Raises:
            Unwritten: if the disk does not take it.
        """
        with self._writing(name, name) as (folder, last):
            return Lines.opened(folder, last, self._check)

    def remove(self, name: str) -> None:
        """Removes a file that this run wrote, if it is there."""
        if name in self._known:
            folder, last = self._place(name)
            folder.remove(last)

    def remove_all(self, name: str) -> None:
        """Removes the folder ``name``, as far as this run wrote what is in it."""
        last = self._open.pop(name, None)
        if last is not None:
            last.close()
        for inside in [one for one in self._open if one.startswith(f"{name}/")]:
            self._open.pop(inside).close()
        remove_listed(self._directory, [one for one in self._known if one == f"{name}/" or one.startswith(f"{name}/")])

    def names(self, folder: str) -> list[str]:
        """What is in one of its folders; nothing, if that is not there."""
        try:
            return self._folder(folder, make=False).names()
        except FileNotFoundError:
            return []

    def nested(self, folder: str, name: str) -> Path:
        """The folder of a run that is a part of this one, which makes and locks it itself.

        Raises:
            StoreError: if this run's folder was moved, so that the part would be kept elsewhere.
            Unwritten: if the disk does not take it.
        """
        self._check()
        if not self._directory.is_in_place():
            raise StoreError(
                f"{self.path.parent} was moved or removed while a run wrote to it; what it had is where the folder is now. "
                "Fix: run it again with resume=True and the folder's place as out."
            )
        with taken():
            self._folder(folder, make=True)
            self._note(f"{folder}/{name}//")
        return self.path / folder / name

    # --- within -----------------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self, name: str, noted: str) -> Iterator[tuple[Directory, str]]:
        """The folder of a file that is written there, and its name in it; what is noted may be made in it from now on."""
        self._check()
        with taken():
            place = self._place(name)
            self._note(noted)
            yield place

    def _place(self, name: str) -> tuple[Directory, str]:
        folder, _, last = name.rpartition("/")
        return self._folder(folder, make=True), last

    def _folder(self, name: str, *, make: bool) -> Directory:
        if not name:
            return self._directory
        if name not in self._open:
            above, _, last = name.rpartition("/")
            parent = self._folder(above, make=make)
            if make:
                self._note(f"{name}/")
            opened = parent.make(last) if make else parent.folder(last)
            while len(self._open) >= OPEN:  # a sweep may have more folders than a process may have descriptors
                self._open.pop(next(iter(self._open))).close()
            self._open[name] = opened
        return self._open[name]

    def _note(self, name: str) -> None:
        if name not in self._known:
            self._log.append(name.encode())
            self._known.add(name)


class Lines:
    """A file that lines are appended to, each as a whole.

    Args:
        handle: its descriptor, which this object closes.
        check: refuses to write where somebody else holds the run's folder by now.
    """

    def __init__(self, handle: int, check: Callable[[], None]) -> None:
        self._handle, self._check = handle, check

    @classmethod
    def opened(cls, folder: Directory, name: str, check: Callable[[], None] = lambda: None) -> Lines:
        """The file of that name in a folder, which is made if it is not there.

        Raises:
            OSError: if it cannot be written to.
        """
        handle = os.open(name, _APPEND, 0o644, dir_fd=folder.handle)
        made = cls(handle, check)
        try:
            size = os.fstat(handle).st_size
            if (
                size and os.pread(handle, 1, size - 1) != b"\n"
            ):  # a line cut short, so that the next one stands by itself
                made.append(b"")
        except BaseException:
            made.close()
            raise
        return made

    def append(self, line: bytes, *, sync: bool = False) -> None:
        """Appends a line; nothing of it, if it does not fit.

        Args:
            line: without its end.
            sync: whether to wait until the disk has it.

        Raises:
            Unwritten: if the disk does not take it.
        """
        self._check()
        with taken():
            append_whole(self._handle, line + b"\n")
            if sync:
                os.fsync(self._handle)

    def close(self) -> None:
        """Gives the descriptor back."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


_APPEND = flags("O_RDWR", "O_APPEND", "O_CREAT", "O_NOFOLLOW")


def _beside(name: str) -> str:
    folder, slash, _ = name.rpartition("/")
    return f"{folder}{slash}{PART}"
