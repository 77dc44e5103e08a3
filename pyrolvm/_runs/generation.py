"""The folder of one run inside a run's folder: what it is, and each name that was ever written there.

``begun.json`` says which run it is. ``names.log`` has every name before the file of that name is made: what is removed later is what
it lists, and nothing else. A folder in which something foreign lies stays, with that in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pyrolvm._runs.directory import PART, Directory, Write
from pyrolvm._runs.layout import BEGUN, NAMES, SCHEMA
from pyrolvm._runs.removal import listed, remove_listed
from pyrolvm._runs.sealing import sealed

__all__ = ["Generation"]


OPEN = 16
"""Folders that are kept open at once."""


class Generation:
    """The folder of one run, open for writing; whoever has it holds the lock of the run's folder.

    Args:
        directory: the folder, which this object closes.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._open: dict[str, Directory] = {}
        self._log = os.open(NAMES, _APPEND, 0o644, dir_fd=directory.handle)
        try:
            self._known = set(listed(directory))
            self._end_line()
        except BaseException:
            os.close(self._log)
            raise

    def close(self) -> None:
        """Gives descriptors back."""
        for one in self._open.values():
            one.close()
        self._open.clear()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
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
        """Whether nothing was written that a run could go on from."""
        return not any(self._counts(name) for name in self._known)

    @staticmethod
    def _counts(name: str) -> bool:
        """Whether what has this name is more than a beginning: a whole file, or a run that is a part of this one."""
        folder = name.endswith("/") and not name.endswith("//")
        return not folder and name != BEGUN and name.rpartition("/")[2] != PART

    # --- which run ------------------------------------------------------------------------------------------------------

    def begin(self, command: str, about: Mapping[str, object]) -> None:
        """Says which run it is."""
        content = sealed({"command": command, "about": about}, SCHEMA)
        self.write(BEGUN, lambda file: file.write(content))

    # --- files: names are paths inside, with slashes ----------------------------------------------------------------------

    def write(self, name: str, write: Write) -> None:
        """Writes a file, whole or not at all, and replaces what has its name.

        Raises:
            OSError: if the disk does not take it; what was there is untouched.
        """
        folder, last = self._place(name)
        self._note(name)
        self._note(_beside(name))
        folder.replace(last, write)

    def write_part(self, stem: str, suffix: str, write: Write) -> dict[str, object]:
        """Writes a file under a name that holds its checksum; returns its entry for a manifest, the name without folders."""
        folder, last = self._place(stem)
        self._note(_beside(stem))
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

    def append(self, name: str) -> int:
        """A descriptor of a file that lines are appended to; the caller closes it."""
        folder, last = self._place(name)
        self._note(name)
        return os.open(last, _APPEND, 0o644, dir_fd=folder.handle)

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
        """The folder of a run that is a part of this one, which makes and locks it itself."""
        self._folder(folder, make=True)
        self._note(f"{folder}/{name}//")
        return self.path / folder / name

    # --- within -----------------------------------------------------------------------------------------------------------

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
            os.write(self._log, f"{name}\n".encode())
            self._known.add(name)

    def _end_line(self) -> None:
        size = os.fstat(self._log).st_size
        if size and os.pread(self._log, 1, size - 1) != b"\n":
            os.write(self._log, b"\n")


_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def _beside(name: str) -> str:
    folder, slash, _ = name.rpartition("/")
    return f"{folder}{slash}{PART}"
