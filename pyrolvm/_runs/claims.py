"""Who writes to a run's folder: the lock of its marker, and the lines in it that say whose turn it is.

The lock is the system's, so that it is free as soon as its process ends. It does not reach from host to host, and some file systems
have none: so the marker also says who writes, which is looked at before each write. Of two that write at once, the one that came
first finds the other's name, and ends.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyrolvm._base.errors import PyrolvmWarning, StoreError
from pyrolvm._base.machine import flags
from pyrolvm._runs.directory import Directory, write_whole, writing
from pyrolvm._runs.layout import MARKER, Marker, is_unwritten

__all__ = ["Claim", "claimed"]

_OPEN = flags("O_RDWR", "O_NOFOLLOW", "O_NONBLOCK")
_MAKE = _OPEN | os.O_CREAT | os.O_EXCL
_LONGEST = 1 << 20


class Claim:
    """A folder that this process may write to.

    Args:
        directory: the folder.
        handle: the descriptor of its marker, which is locked.
        marker: what the marker says.

    Attributes:
        marker: what the marker says.
    """

    def __init__(self, directory: Directory, handle: int, marker: Marker) -> None:
        self._directory, self._handle, self.marker = directory, handle, marker
        first, _, before = os.pread(handle, _LONGEST, 0).partition(b"\n")
        self._length = len(first) + 1
        self._said = f"{os.getpid()} on {socket.gethostname()}\n{uuid.uuid4().hex}\n".encode()
        _warn_of_host(_holder(before), directory.path)
        os.ftruncate(handle, self._length)
        write_whole(handle, self._said, self._length)

    @property
    def holds(self) -> bool:
        """Whether nobody has come since, and the marker is where it was."""
        return os.pread(self._handle, _LONGEST, self._length) == self._said and _is_at(self._handle, self._directory)

    def check(self) -> None:
        """Refuses to go on where somebody else writes, or the folder is gone.

        Raises:
            StoreError: if that is so.
        """
        if self.holds:
            return
        path = self._directory.path
        other = _holder(os.pread(self._handle, _LONGEST, self._length))
        if not other or not _is_at(self._handle, self._directory):
            raise StoreError(
                f"{path} was removed, or another run has taken its place, while a run wrote to it; nothing more is written. "
                "Fix: run it again, with resume=True if the folder is there."
            )
        raise StoreError(
            f"process {other} has begun to write to {path} while this one did, which writes nothing more. "
            "Fix: let one of the two end; then call it again with resume=True, or name another folder."
        )

    def end(self) -> None:
        """Says that nobody writes any more, unless somebody else does."""
        with suppress(OSError):
            if self.holds:
                os.ftruncate(self._handle, self._length)


@contextmanager
def claimed(directory: Directory, new: Marker) -> Iterator[Claim | None]:
    """Holds a folder's lock; makes the marker where there is none. ``None`` if the folder was removed since it was opened.

    Raises:
        StoreError: if another process, or another run of this one, writes there; if the folder is somebody else's.
    """
    with writing(directory.path):
        found = _taken(directory, new)
    if found is None:
        yield None
        return
    handle, claim = found
    try:
        yield claim
    finally:
        claim.end()
        os.close(handle)


def _taken(directory: Directory, new: Marker) -> tuple[int, Claim] | None:
    while True:
        handle = _marker(directory)
        if handle is None:
            return None
        try:
            _lock(handle, directory.path)
            marker = _written(handle, directory, new)
            if marker is not None:
                return handle, Claim(directory, handle, marker)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the holder before removed the file between our opening and locking it


def _marker(directory: Directory) -> int | None:
    """The marker's descriptor; the file is made only in a folder that is empty. ``None`` if the folder has been removed.

    What is seen of the folder may be another by the time at which the file is opened: then it is looked at again.

    Raises:
        StoreError: if the folder is somebody else's.
    """
    while True:
        names = directory.names()
        if names and MARKER not in names:
            raise _foreign(directory.path)
        try:
            handle = os.open(MARKER, _OPEN if names else _MAKE, 0o644, dir_fd=directory.handle)
        except FileExistsError:
            continue
        except FileNotFoundError:
            if names:
                continue
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a folder, a socket
                raise _foreign(directory.path) from None
            raise
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
        raise _foreign(directory.path)


def _lock(handle: int, path: Path) -> None:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR):
            _warn_of_locks(error, path)
            return
        holder = _holder(os.pread(handle, _LONGEST, 0).partition(b"\n")[2])
        raise StoreError(_held(holder, path)) from None


def _holder(said: bytes) -> str:
    """Who writes, by what stands below the marker's first line."""
    return said.partition(b"\n")[0].decode(errors="replace").strip()


def _held(holder: str, path: Path) -> str:
    process, _, host = holder.partition(" on ")
    if host == socket.gethostname() and process.isdecimal() and not _runs(int(process)):
        return (
            f"process {holder}, which was writing to {path}, has ended, but not all processes that it forked. "
            f"Fix: wait for them, end them (`fuser {path / MARKER}` names them), or name another folder."
        )
    return f"{f'process {holder}' if holder else 'another process'} is writing to {path}. Fix: wait for it, or name another folder."


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _warn_of_host(holder: str, path: Path) -> None:
    """Warns of a writer on another host, which the lock does not keep away, and of which nobody here knows whether it still writes."""
    host = holder.partition(" on ")[2]
    if host and host != socket.gethostname():
        warnings.warn(
            f"process {holder} has begun to write to {path} and has not said that it ended; locks do not reach from host to host. "
            "If it still runs, it ends with an error at its next write there. Fix: if both are to run, name another folder for one of "
            "them; if it was killed, nothing needs to be done.",
            PyrolvmWarning,
            stacklevel=2,
        )


def _warn_of_locks(error: OSError, path: Path) -> None:
    warnings.warn(
        f"the file system of {path} has no locks ({error.strerror}): a second process that writes there is not refused, and the first "
        "one ends at its next write. Fix: let one process write there at a time, or name a folder on a disk of this machine.",
        PyrolvmWarning,
        stacklevel=2,
    )


def _is_at(handle: int, directory: Directory) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(MARKER, dir_fd=directory.handle, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _written(handle: int, directory: Directory, new: Marker) -> Marker | None:
    """What the marker says, which is written now if it is empty and nothing is there but it; ``None`` if it was removed meanwhile."""
    found = Marker.of(directory)
    if found is None and is_unwritten(directory):
        write_whole(handle, new.line, 0)
        os.fsync(handle)
        directory.sync()
        found = new
    if not _is_at(handle, directory):
        return None
    if found is None:
        raise _foreign(directory.path)
    return found


def _foreign(path: Path) -> StoreError:
    return StoreError(
        f"{path} is not empty and was not made by pyrolvm (it has no {MARKER} of its own); what is in it is left as it is. "
        "Fix: name a new folder, or an empty one."
    )
