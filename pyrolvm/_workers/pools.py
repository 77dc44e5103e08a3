"""Where calls run: what all pools have in common, and which one is meant."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from pyrolvm._base.errors import ArgumentError, positive_int, unknown_name
from pyrolvm._base.machine import available
from pyrolvm._workers.dask import Dask
from pyrolvm._workers.local import Local
from pyrolvm._workers.ray import Ray

__all__ = ["Pool", "open_pool"]

NAMES = ("local", "dask", "ray", "here")


class Pool(Protocol):
    """Places that run a call each."""

    @property
    def slots(self) -> int:
        """How many calls run at once, by now."""

    def submit(self, function: Callable[..., object], *args: Any) -> Future[object]:
        """Runs a function, in a free place if there is one."""

    def share(self, content: bytes) -> object:
        """What to give to calls for content that many of them take."""

    def death(self, error: BaseException) -> str | None:
        """How a worker died, if that is what the error of a call says, else ``None``."""

    def close(self) -> None:
        """Ends what was begun; a cluster that was there before stays."""


class Here:
    """This process itself: no process to kill, and a debugger can look in."""

    slots = 1

    def submit(self, function: Callable[..., object], *args: Any) -> Future[object]:
        """Runs the function before it returns."""
        future: Future[object] = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def share(self, content: bytes) -> bytes:
        """The content itself."""
        return content

    def death(self, error: BaseException) -> None:
        """Nothing: whoever could say so would be dead."""

    def close(self) -> None:
        """Nothing was begun."""


def open_pool(backend: object, jobs: int | str, most: int) -> Pool:
    """The pool that is meant.

    Args:
        backend: ``"local"``, ``"here"``, ``"dask"`` or ``"ray"`` for a cluster on this machine; a Dask ``Client``; or an address:
            ``"tcp://host:8786"`` of a Dask scheduler, ``"ray://host:10001"`` or ``"ray:auto"`` of a Ray cluster.
        jobs: how many processes; ``"auto"`` for as many as there are processors, or places in a cluster that is there already.
        most: how many are of use at most.

    Raises:
        ArgumentError: if it is none of these, or the package that it needs is not installed.
    """
    if jobs != "auto":
        jobs = positive_int("jobs", jobs)
    wanted = None if jobs == "auto" else min(int(jobs), max(most, 1))
    here = wanted or min(available(), max(most, 1))
    if backend == "local":
        return Local(here)
    if backend == "here":
        return Here()
    if not isinstance(backend, str):
        if type(backend).__module__.partition(".")[0] != "distributed":
            raise ArgumentError(
                f"backend must be one of {', '.join(NAMES)}, an address or a Dask client, got {backend!r}. "
                'Fix: use backend="local".'
            )
        return Dask.at(backend, wanted)
    if backend == "dask":
        return Dask.begun(here)
    if backend == "ray" or backend.startswith(("ray:", "ray://")):
        return Ray.begun(here) if backend == "ray" else Ray.at(backend, wanted)
    if "://" in backend:
        return Dask.at(backend, wanted)
    raise unknown_name("backend", backend, NAMES)
