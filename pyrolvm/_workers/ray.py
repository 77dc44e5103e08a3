"""A Ray cluster. Its own tasks are used, not joblib's adapter, which has a pool of actors and no way to replace a dead one."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pyrolvm._base.errors import ArgumentError
from pyrolvm._workers.local import ONE_THREAD

__all__ = ["Ray"]


class Ray:
    """Processors of a Ray cluster, one a call."""

    def __init__(self, wanted: int | None, *, ends: bool) -> None:
        self._wanted, self._ends = wanted, ends
        self._remote: dict[Callable[..., Any], Any] = {}

    @classmethod
    def begun(cls, jobs: int) -> Ray:
        """A cluster on this machine, which ends with the pool; one that this process is in already is taken, and stays."""
        ray = _ray()
        if ray.is_initialized():
            return cls(None, ends=False)
        # Ray 2 takes accelerators from processes that ask for none, unless it is told how it will behave later.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(
            num_cpus=jobs, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL,
            runtime_env={"env_vars": ONE_THREAD},
        )  # fmt: skip
        return cls(jobs, ends=True)

    @classmethod
    def at(cls, where: str, wanted: int | None) -> Ray:
        """A cluster that is there.

        Raises:
            ArgumentError: if none answers.
        """
        ray = _ray()
        if ray.is_initialized():
            return cls(wanted, ends=False)
        address = where if "://" in where else where.removeprefix("ray:")
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                runtime_env={"env_vars": ONE_THREAD},
            )
        except (ConnectionError, ValueError) as error:
            raise ArgumentError(
                f"no Ray cluster answers at {where!r}: {error}. Fix: start one with `ray start --head`, or use another address."
            ) from None
        return cls(wanted, ends=True)

    @property
    def slots(self) -> int:
        """Processors of the cluster, or as many as were asked for."""
        found = int(_ray().cluster_resources().get("CPU", 1))
        return max(1, found if self._wanted is None else min(found, self._wanted))

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[object]:
        """Runs a function in a process of the cluster."""
        if function not in self._remote:
            self._remote[function] = _ray().remote(num_cpus=1, max_retries=0)(function)
        future: Future[Any] = self._remote[function].remote(*args).future()
        return future

    def share(self, content: bytes) -> Any:
        """Puts content into the cluster's store once."""
        return _ray().put(content)

    def death(self, error: BaseException) -> str | None:
        """How the process died."""
        from ray import exceptions

        kinds = (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError, exceptions.NodeDiedError)
        return f"{type(error).__name__} ({str(error).strip().splitlines()[0]})" if isinstance(error, kinds) else None

    def close(self) -> None:
        """Ends a cluster that this pool has begun, or leaves one that it has joined."""
        if self._ends:
            _ray().shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ArgumentError(
            "backend 'ray' needs the package ray, which is not installed. Fix: pip install 'pyrolvm[ray]', or use backend=\"local\"."
        ) from None
    return ray
