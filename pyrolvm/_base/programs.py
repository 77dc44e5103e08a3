"""Compiled programs that are kept for later processes: bytes by a key, in a folder of the user's own.

Nothing here is ever unpickled, and nothing is believed: an entry is a regular file of this user in a folder that nobody else can write
to, and holds its own key and a checksum. Whatever is not so is passed over and made anew. A disk that fails costs the kept program, not
the run.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import stat
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pyrolvm._base.machine import flags
from pyrolvm._base.passing import passed_over

__all__ = ["LIMIT", "VARIABLE", "Kept", "Programs", "key_of", "processor", "programs"]

VARIABLE = "PYROLVM_CACHE"
"""The variable that names the folder, or switches it off."""

OFF = ("off", "0", "no", "none", "false")

LIMIT = 256 * 2**20
"""Bytes beyond which what was not used for longest is removed."""

_MAGIC = b"pyrolvm program 1\n"
_SUFFIX = ".program"
_PART = ".part-"
_PROGRAMS = re.compile(f"[0-9a-f]{{64}}{re.escape(_SUFFIX)}")
_PARTS = re.compile(f"{re.escape(_PART)}[0-9a-f]{{32}}")
_ABANDONED = 3600.0
"""Seconds after which a part of a file is nobody's."""

_TELLING = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features", "isa", "uarch", "cpu")
"""What ``/proc/cpuinfo`` says of the kind of processor, and not of its state; names that begin with "CPU " tell it too."""


def key_of(*parts: str | bytes) -> str:
    """A name for what depends on all of these, and on nothing else."""
    found = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        found.update(len(content).to_bytes(8, "big") + content)
    return found.hexdigest()


@cache
def processor() -> str:
    """The kind of processor, whose instructions compiled programs are made of; the host's name where that is not told."""
    told: set[str] = set()
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() in _TELLING or name.startswith("CPU "):
                told.add(f"{name.strip()}: {value.strip()}")
    return "\n".join([platform.system(), platform.machine(), *(sorted(told) or [platform.node()])])


class Kept(NamedTuple):
    """What lies in a folder: how many programs, and their bytes."""

    number: int
    size: int


class Programs(NamedTuple):
    """Compiled programs in a folder.

    Attributes:
        folder: where they lie; ``None`` where none are kept.
        limit: bytes that they may take together.
    """

    folder: Path | None
    limit: int = LIMIT

    def get(self, key: str) -> bytes | None:
        """The program of that key, if it is there as it was put there."""
        try:
            if self.folder is None or not self._trusted(make=False):
                return None
            path = self.folder / f"{key}{_SUFFIX}"
            content = _read(path, self.limit)
            if content is None or not content.startswith(_MAGIC):
                return None
            head, _, body = content[len(_MAGIC) :].partition(b"\n")
            if head != _head(key, body):
                return None
            with suppress(OSError):
                os.utime(path)
        except OSError:
            passed_over("a kept program that cannot be read is compiled again")
            return None
        return body

    def put(self, key: str, body: bytes) -> None:
        """Keeps a program, if the disk takes it."""
        if self.folder is None or len(body) > self.limit:
            return
        part = self.folder / f"{_PART}{uuid.uuid4().hex}"
        try:
            if not self._trusted(make=True):
                return
            self._trim(len(body))
            handle = os.open(part, flags("O_WRONLY", "O_CREAT", "O_EXCL"), 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + _head(key, body) + b"\n" + body)
            os.replace(part, self.folder / f"{key}{_SUFFIX}")
        except OSError:
            passed_over("a compiled program cannot be kept")
            with suppress(OSError):
                os.unlink(part)

    def clear(self) -> Kept:
        """Removes all programs, and says what was there; nothing else in the folder is touched.

        Raises:
            OSError: if one cannot be removed.
        """
        before = self.kept()
        for path in self._files(_PROGRAMS, _PARTS):
            path.unlink(missing_ok=True)
        return before

    def kept(self) -> Kept:
        """How many there are."""
        sizes = []
        for path in self._files(_PROGRAMS):
            with suppress(FileNotFoundError):
                sizes.append(path.lstat().st_size)
        return Kept(len(sizes), sum(sizes))

    def fault(self) -> str | None:
        """Why the folder is not used; ``None`` if it is, or can be made."""
        if self.folder is None:
            return f"{VARIABLE} switches it off, or this user has no folder of their own"
        try:
            found = os.lstat(self.folder)
        except FileNotFoundError:
            above = next((one for one in self.folder.absolute().parents if one.exists()), None)
            writable = above is not None and above.is_dir() and os.access(above, os.W_OK | os.X_OK)
            return None if writable else f"it cannot be made, since nothing can be written to {above}"
        except OSError as error:
            return error.strerror or str(error)
        return _distrusted(found)

    def _trusted(self, *, make: bool) -> bool:
        assert self.folder is not None
        if make:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                self.folder.mkdir(mode=0o700)
        try:
            return _distrusted(os.lstat(self.folder)) is None
        except FileNotFoundError:
            return False

    def _files(self, *kinds: re.Pattern[str]) -> Iterator[Path]:
        """What was put there: files by the names that are made here, and nothing else that may lie in the folder."""
        if self.folder is None or self.fault() is not None or not self.folder.exists():
            return
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process trims too
                if any(kind.fullmatch(path.name) for kind in kinds) and stat.S_ISREG(path.lstat().st_mode):
                    yield path

    def _trim(self, more: int) -> None:
        """Makes room: what was not used for longest goes, and parts of processes that died."""
        found = []
        for path in self._files(_PROGRAMS, _PARTS):
            with suppress(FileNotFoundError):  # another process trims too
                state = path.lstat()
                if path.name.startswith(_PART):
                    if time.time() - state.st_mtime > _ABANDONED:
                        path.unlink()
                    continue
                found.append((state.st_mtime, state.st_size, path))
        size = more + sum(one for _, one, _ in found)
        for _, one, path in sorted(found, key=lambda item: item[0]):
            if size <= self.limit:
                break
            path.unlink(missing_ok=True)
            size -= one


def programs() -> Programs:
    """Those of this user: in the folder that ``PYROLVM_CACHE`` names, or where this system keeps what can be made again."""
    asked = os.environ.get(VARIABLE, "").strip()
    if asked.lower() in OFF:
        return Programs(None)
    if asked:
        return Programs(Path(asked).absolute())
    try:
        home = Path.home()
    except RuntimeError:
        passed_over("who has no home keeps no programs")
        return Programs(None)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        given = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(given) if os.path.isabs(given) else home / ".cache"
    return Programs(base / "pyrolvm")


def _head(key: str, body: bytes) -> bytes:
    return f"{key} {hashlib.sha256(body).hexdigest()}".encode()


def _distrusted(found: os.stat_result) -> str | None:
    """Why a folder cannot be believed; ``None`` if nobody else can write to it."""
    if not stat.S_ISDIR(found.st_mode):
        return "it is a link or a file, not a folder"
    if hasattr(os, "getuid"):
        if found.st_uid != os.getuid():
            return "it belongs to another user"
        if stat.S_IMODE(found.st_mode) & 0o077:
            return "others may read or write it; chmod 700 mends that"
    return None


def _read(path: Path, limit: int) -> bytes | None:
    """A file of this user's; ``None`` for none, a link, a pipe, someone else's, or one that is too large."""
    try:
        handle = os.open(path, flags("O_RDONLY", "O_NOFOLLOW", "O_NONBLOCK"))
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        foreign = hasattr(os, "getuid") and found.st_uid != os.getuid()
        if not stat.S_ISREG(found.st_mode) or foreign or found.st_size > limit + 4096:
            return None
        return file.read()
