"""A Dask cluster. Its own futures are used, not joblib's adapter, which gives up all calls when one of them is lost."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pyrolvm._base.errors import ArgumentError

__all__ = ["Dask"]

_WAIT = 10.0
"""Seconds in which a scheduler must answer."""


class Dask:
    """Places of a Dask cluster, one for each thread of its workers.

    A worker that dies is replaced by its nanny. In a cluster that was there before, the scheduler begins its calls again by itself, as
    often as its ``distributed.scheduler.allowed-failures`` says, before it gives them up.
    """

    def __init__(self, client: Any, wanted: int | None, ended: tuple[Any, ...]) -> None:
        self._client, self._wanted, self._ended = client, wanted, ended
        self._executor = client.get_executor(pure=False)

    @classmethod
    def begun(cls, jobs: int) -> Dask:
        """A cluster on this machine, which ends with the pool."""
        distributed = _distributed()
        import dask

        # A death is said at once: who began the call knows how often it is to be tried.
        with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
            cluster = distributed.LocalCluster(
                n_workers=jobs,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        client = distributed.Client(cluster, set_as_default=False)
        return cls(client, jobs, (client, cluster))

    @classmethod
    def at(cls, where: Any, wanted: int | None) -> Dask:
        """A cluster that is there: its client, or the address of its scheduler.

        Raises:
            ArgumentError: if no scheduler answers at the address.
        """
        distributed = _distributed()
        if not isinstance(where, str):
            return cls(where, wanted, ())
        try:
            client = distributed.Client(where, timeout=_WAIT, set_as_default=False)
        except OSError as error:
            raise ArgumentError(
                f"no Dask scheduler answers at {where!r}: {error}. Fix: start one with `dask scheduler`, or use another address."
            ) from None
        return cls(client, wanted, (client,))

    @property
    def slots(self) -> int:
        """Threads of the cluster's workers, or as many as were asked for."""
        threads = sum(self._client.nthreads().values())
        return max(1, threads if self._wanted is None else min(threads, self._wanted))

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Runs a function on a worker."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")
            future: Future[Any] = self._executor.submit(function, *args)
        return future

    def share(self, content: bytes) -> bytes:
        """Content goes with each call: what is scattered is lost with the worker that holds it."""
        return content

    def death(self, error: BaseException) -> str | None:
        """Which worker died, once the scheduler has given up."""
        from distributed import KilledWorker

        return f"Dask gave it up ({str(error).splitlines()[0]})" if isinstance(error, KilledWorker) else None

    def close(self) -> None:
        """Cancels what has not run, and ends a cluster that this pool has begun."""
        self._executor.shutdown(wait=False)
        for part in self._ended:
            part.close()


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise ArgumentError(
            "backend 'dask' needs the package distributed, which is not installed. "
            "Fix: pip install 'pyrolvm[dask]', or use backend=\"local\"."
        ) from None
    return distributed
