"""Which engine takes the steps, and why."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from pyrolvm.errors import CaptureError, PyrolvmWarning
from pyrolvm.vi.engines.base import Engine, Work
from pyrolvm.vi.engines.stock import PyroEngine

__all__ = ["ENGINES", "begin"]

NETWORK = 50_000
"""Parameters from which on matrix products dominate a step, which torch does at least as fast as XLA on a CPU."""

FEW_STEPS = 300
"""Steps below which no compilation pays: each takes stock Pyro a few milliseconds."""


def _jax(work: Work, chunk: int) -> Engine:
    from pyrolvm.vi.engines.jax_engine import JaxEngine

    return JaxEngine(work, chunk)


def _torch(work: Work, chunk: int) -> Engine:
    from pyrolvm.vi.engines.torch_engine import TorchEngine

    return TorchEngine(work, chunk)


ENGINES: dict[str, Callable[[Work, int], Engine]] = {
    "pyro": lambda work, chunk: PyroEngine(work),
    "torch": _torch,
    "jax": _jax,
}
"""What builds an engine, by name, from the work and the steps that one call may take; it raises ``CaptureError`` if it cannot."""


def begin(name: str, work: Work, chunk: int, max_steps: int) -> tuple[Engine, str]:
    """The engine of that name, or the best one for ``"auto"``, ready to step, and why it is this one.

    What cannot be captured falls back, from JAX to torch and from torch to stock Pyro, with the reason.
    """
    order, why = ([name], "asked for") if name != "auto" else _order(work, max_steps)
    order += [other for other in ("torch", "pyro") if other not in order and name != "pyro"]
    refused: list[str] = []
    for candidate in order:
        try:
            engine = ENGINES[candidate](work, chunk)
        except CaptureError as error:
            refused.append(str(error))
            continue
        reason = why if not refused else " ".join(dict.fromkeys(refused))
        if refused and name != "auto":
            warnings.warn(
                f"engine {name!r} cannot run this fit, so engine {candidate!r} does: {reason} "
                f'Fix: pass engine="auto", or mend the line that is named.',
                PyrolvmWarning,
                stacklevel=5,
            )
        return engine, reason + getattr(engine, "note", "")
    raise CaptureError(f"no engine can run {work.problem.name!r}: {' '.join(refused)}")


def _order(work: Work, max_steps: int) -> tuple[list[str], str]:
    size = sum(parameter.numel() for parameter in work.parameters())
    if work.problem.device.type != "cpu":
        return ["torch"], f"compiled by torch for {work.problem.device.type}"
    if max_steps < FEW_STEPS:
        return ["pyro"], f"at most {max_steps} steps, which take less time than to compile them"
    if size >= NETWORK:
        return ["torch"], f"compiled by torch: {size:,} parameters, so that matrix products are most of a step"
    if work.stepper.adam is None:
        return ["torch"], "compiled by torch, which steps with the optimizer that was given"
    return ["jax", "torch"], f"compiled by XLA: {size:,} parameters, so that overhead would be most of a step"
