"""Processes of this machine, by joblib's loky: one executor a place, so that a process that dies takes nothing else along."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pyrolvm._compat.python import end_at_once

__all__ = ["Local"]

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
_PATROL = 1.0


class Local:
    """``slots`` processes, each with one thread, each a fresh interpreter that takes one call after the other.

    joblib's own ``Parallel`` runs all processes under one executor, which breaks as a whole when one of them is killed. Here each
    place has an executor of its own: a death is noticed at once, and is known to be that of one call.
    """

    def __init__(self, jobs: int) -> None:
        self.slots = jobs
        self._free: list[Any] = []
        self._busy: dict[Future[Any], Any] = {}

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Runs a function in a free process."""
        self._collect()
        executor = self._free.pop() if self._free else _executor()
        with warnings.catch_warnings():
            # loky replaces a process whose memory has grown, and says so.
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
            future: Future[Any] = executor.submit(function, *args)
        self._busy[future] = executor
        return future

    def share(self, content: bytes) -> bytes:
        """Content that many calls take: pipes are fast enough to send it each time."""
        return content

    def death(self, error: BaseException) -> str | None:
        """How a process died, if that is what the error says."""
        from joblib.externals.loky import BrokenProcessPool

        if not isinstance(error, BrokenProcessPool):
            return None
        codes = re.search(r"exit codes of the workers are \{(.*?)\}", str(error))
        return f"exit code {codes[1]}" if codes else str(error).splitlines()[0]

    def close(self) -> None:
        """Ends all processes, whatever they are at."""
        self._collect()
        for executor in self._busy.values():
            executor.shutdown(wait=True, kill_workers=True)
        for executor in self._free:
            executor.shutdown(wait=True)
        self._free, self._busy = [], {}

    def _collect(self) -> None:
        """Takes processes back from calls that are done; those that died are not used again."""
        for future in [future for future in self._busy if future.done()]:
            executor = self._busy.pop(future)
            if self.death(future.exception() or Exception()) is None:
                self._free.append(executor)
            else:
                executor.shutdown(wait=False, kill_workers=True)


def _executor() -> Any:
    from joblib.externals.loky import ProcessPoolExecutor

    return ProcessPoolExecutor(max_workers=1, env=ONE_THREAD, initializer=_settle, initargs=(os.getpid(),))


def _settle(parent: int) -> None:
    """What a process does first: it leaves interrupts to its parent, and ends when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PATROL)
    end_at_once(1)
