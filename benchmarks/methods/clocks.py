"""Clocks that tell compiling from running."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

COMPILING = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration")


class JaxClock:
    """Wall seconds of a block that runs JAX, and how many of them JAX spent tracing, lowering and compiling.

    JAX reports each of these as it ends; those inside another are not counted twice.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._open = False
        self._spans: list[tuple[float, float]] = []

    def __enter__(self) -> JaxClock:
        import jax.monitoring

        jax.monitoring.register_event_duration_secs_listener(self._note)
        self._open = True
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.total = time.perf_counter() - self._started
        self._open = False

    def _note(self, event: str, seconds: float, **_: object) -> None:
        if self._open and event.endswith(COMPILING):
            now = time.perf_counter()
            self._spans.append((now - seconds, now))

    @property
    def compile(self) -> float:
        """Seconds covered by at least one report."""
        covered, end = 0.0, float("-inf")
        for start, stop in sorted(self._spans):
            covered += max(0.0, stop - max(start, end))
            end = max(end, stop)
        return covered


def pyrolvm_loaded() -> Any:
    """Pyrolvm, with what it imports only when it is first used: imports are not timed."""
    import pyrolvm

    assert callable(pyrolvm.fit) and callable(pyrolvm.nuts)
    return pyrolvm


def best_threads(step: Callable[[], object], repeats: int = 15) -> int:
    """Sets torch to one thread or to its default, whichever takes the step faster, and returns the number."""
    import torch

    timings: dict[int, float] = {}
    for threads in sorted({torch.get_num_threads(), 1}):
        torch.set_num_threads(threads)
        step()
        started = time.perf_counter()
        for _ in range(repeats):
            step()
        timings[threads] = time.perf_counter() - started
    best = min(timings, key=timings.__getitem__)
    torch.set_num_threads(best)
    return best
