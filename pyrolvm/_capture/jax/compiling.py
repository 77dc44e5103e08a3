"""XLA, with less optimisation for programs that are too small to gain from it."""

from __future__ import annotations

from typing import Any

from pyrolvm._base.passing import passed_over

__all__ = ["compiled"]

_QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}


def compiled(lowered: Any, *, quick: bool) -> Any:
    """Compiles what ``jax.jit(f).lower(...)`` returned.

    Args:
        lowered: the program.
        quick: whether compilation matters more than the last third of speed: it takes half the time, on a CPU.
    """
    if quick:
        try:
            return lowered.compile(compiler_options=_QUICK)
        except Exception:
            passed_over("XLA's options come and go; without them it compiles longer")
    return lowered.compile()
