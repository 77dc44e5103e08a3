"""XLA, with less optimisation for programs that are too small to gain from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pyrolvm._base.passing import passed_over
from pyrolvm._base.programs import Programs, key_of, processor, programs
from pyrolvm._compat.jax import stored_in

__all__ = ["QUICK", "UNFUSED", "compiled"]

QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
"""Where compilation matters more than the last third of speed: it takes half the time, on a CPU."""

UNFUSED = {"xla_cpu_use_fusion_emitters": False}
"""Without fused loops, which take a CPU as long to compile as all the rest of a small program."""


class _Store(NamedTuple):
    """What JAX is given in place of its own cache: its names say nothing of the processor."""

    kept: Programs

    def get(self, key: str) -> bytes | None:
        return self.kept.get(self._named(key))

    def put(self, key: str, value: bytes) -> None:
        self.kept.put(self._named(key), value)

    @staticmethod
    def _named(key: str) -> str:
        return key_of("xla", key, processor())


def compiled(lowered: Any, options: Mapping[str, object] | None = None) -> Any:
    """Compiles what ``jax.jit(f).lower(...)`` returned, or takes what an earlier process of this user compiled.

    Args:
        lowered: the program.
        options: XLA's, such as :data:`QUICK`.
    """
    kept = programs()
    if kept.folder is None:
        return _compiled(lowered, options)
    with stored_in(_Store(kept)):
        return _compiled(lowered, options)


def _compiled(lowered: Any, options: Mapping[str, object] | None) -> Any:
    if options:
        try:
            return lowered.compile(compiler_options=options)
        except Exception:
            passed_over("XLA's options come and go; without them it compiles longer")
    return lowered.compile()
