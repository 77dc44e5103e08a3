"""Jobs of ``server.py`` over the command line: killed before its n-th write, without room from it on, or copied before each.

What counts as a write is each file that is opened to be written, each piece that is written, each sync, and whatever makes, renames
or removes a name. A process that is killed before its n-th write leaves what the system was told by then: the folder as it is at that
moment, without what lies in the process's own buffers. So one run that copies its folder at each moment gives all that kills can
leave; ``test_campaign.py`` holds some of the copies against folders whose process was killed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def command(job: dict[str, Any]) -> dict[str, Any]:
    """The command line in a folder, of whose writes one is the last.

    Where ``kill`` says so its process is killed before the n-th write; where ``full`` does, the disk takes nothing from the n-th on.
    """
    kill, full = job.get("kill"), job.get("full", math.inf)

    def seen(count: int, takes: bool) -> None:
        if count == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if takes and count >= full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with _said_to(Path(job["log"])):
        return _watched(job, seen)


def record(job: dict[str, Any]) -> dict[str, Any]:
    """The command line in a folder, which is copied before each write; copies that are alike are kept once.

    Returns:
        The exit code; how often it wrote; and ``states``: for each write the number of the folder's copy below ``copies``.
    """
    folder, copies = Path(job["folder"]), Path(job["copies"])
    known: dict[str, int] = {}
    states: list[int] = []

    def seen(count: int, takes: bool) -> None:
        state = known.setdefault(_digest(folder), len(known))
        if len(known) > len(set(states)):
            shutil.copytree(folder, copies / str(state), symlinks=True)
        states.append(state)

    with _said_to(Path(job["log"])):
        return {**_watched(job, seen), "states": states}


def again(job: dict[str, Any]) -> dict[str, Any]:
    """The command line in one folder after the other, all in this process: the exit code and what it said in each."""
    from pyrolvm._cli import main

    found = []
    for folder in job["folders"]:
        os.chdir(folder)
        with _said_to(Path(job["log"])):
            code = main(job["words"])
        found.append({"code": code, "log": Path(job["log"]).read_text()})
    return {"found": found}


def _undrawn(figure: Any, file: Any, **words: Any) -> None:
    """In place of a drawing, which takes longer than all else and of which only that it is written matters here."""
    file.write(b'<svg viewBox="0 0 1 1"></svg>')


@contextlib.contextmanager
def _said_to(log: Path) -> Iterator[None]:
    """Output goes to a file, and figures are not drawn."""
    from matplotlib.figure import Figure

    Figure.savefig = _undrawn  # type: ignore[method-assign]
    before = sys.stdout, sys.stderr, os.dup(2)
    with log.open("w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before[:2]
            os.dup2(before[2], 2)
            os.close(before[2])


def _watched(job: dict[str, Any], seen: Callable[[int, bool], None]) -> dict[str, Any]:
    """Runs the command; calls ``seen`` before each write with its number, and whether it takes room."""
    from pyrolvm._cli import main

    folder, count, looking = job["folder"], 0, False

    def inside(path: Any) -> bool:
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return False
            if not path.startswith("/"):  # a pipe
                return False
        return f"{os.path.abspath(os.fsdecode(path))}/".startswith(f"{folder}/")

    def before(path: Any, *, takes: bool = True) -> None:
        nonlocal count, looking
        if not looking and inside(path):
            count, looking = count + 1, True
            try:
                seen(count, takes)
            finally:
                looking = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                before(args[0])
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"):
            before(args[0], takes=event in ("os.mkdir", "os.symlink"))

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(handle: int, *rest: Any) -> Any:
            before(handle)
            return call(handle, *rest)

        return called

    os.chdir(folder)
    for name in ("write", "pwrite", "fsync"):
        setattr(os, name, watched(getattr(os, name)))
    sys.addaudithook(hook)
    code = main(job["words"])
    return {"code": code, "writes": count}


def _digest(folder: Path) -> str:
    """A checksum of all names in a folder, of what links say and files hold."""
    digest = hashlib.sha256()
    for above, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(above, name)
            digest.update(f"{path}\0".encode())
            if path.is_symlink():
                digest.update(os.readlink(path).encode())
            elif path.is_file():
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
