"""Which engine takes the steps, and why."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

from torch import Tensor, fx

from pyrolvm._base.entries import Kind
from pyrolvm._base.errors import CaptureError, PluginError, PyrolvmWarning
from pyrolvm._base.forks import jax_is_lost
from pyrolvm._base.kinds import ENGINES as REGISTERED_ENGINES
from pyrolvm._capture import Captured, selfcheck, with_gammas, with_noise
from pyrolvm._capture.recorder import operation
from pyrolvm._methods.fit.engines.base import Engine, MakeEngine, Work
from pyrolvm._methods.fit.engines.c_engine import CEngine
from pyrolvm._methods.fit.engines.captured import capture_objective
from pyrolvm._methods.fit.engines.stock import PyroEngine
from pyrolvm._methods.fit.engines.torch_engine import TorchEngine

__all__ = ["ENGINES", "REGISTERED", "begin"]

# What follows was measured on two cores; docs/engines.md has the figures.

FEW_STEPS = 300
"""Steps below which no compilation pays: each takes stock Pyro a few milliseconds."""

NETWORK = 50_000
"""Parameters from which on products of matrices are most of a step; libraries do those better than plain loops in C."""

LARGE_PRODUCT = 100_000
"""Multiplications in a product of matrices from which on XLA's, which is Eigen's, is faster than C's."""

LARGE_CONVOLUTION = 1_000_000
"""Multiplications in the convolutions of a step from which on torch's library is several times as fast as XLA on a CPU."""

LONG_CONVOLVED = 5e11
"""Multiplications in the convolutions of all steps from which on torch's compiler, which saves a fifth of each, has paid for itself."""

LARGE_FACTOR, HUGE_FACTOR = 40, 200
"""Rows of a matrix from which on XLA factorises or solves faster than C, and torch faster than XLA."""

LONG = 3_000
"""Operations from which on a C compiler takes longer than the steps do."""


_FACTORS = ("linalg_cholesky_ex", "cholesky", "linalg_solve_triangular", "triangular_solve")
_PRODUCTS = ("mv", "mm", "bmm", "addmv", "addmm", "baddbmm")


def _c(work: Work, captured: Captured, chunk: int) -> Engine:
    return CEngine(work, with_gammas(captured), chunk)


def _jax(work: Work, captured: Captured, chunk: int) -> Engine:
    selfcheck.require("jax")
    from pyrolvm._methods.fit.engines.jax_engine import JaxEngine

    return JaxEngine(work, captured, chunk)


def _torch(work: Work, captured: Captured, chunk: int) -> Engine:
    return TorchEngine(work, captured, chunk)


COMPILED: dict[str, Callable[[Work, Captured, int], Engine]] = {"c": _c, "jax": _jax, "torch": _torch}
"""What builds an engine from a captured objective and the steps that one call may take; raises ``CaptureError`` if it cannot."""

ENGINES = (*COMPILED, "pyro")

REGISTERED: Kind[MakeEngine] = REGISTERED_ENGINES
"""Those of other distributions, which are taken where they are asked for by name."""

NEEDED = ("name", "limit", "compile_seconds", "advance", "publish", "restart", "state", "restore")
"""What an engine has to have."""


def begin(name: str, work: Work, chunk: int, max_steps: int) -> tuple[Engine, str]:
    """The engine of that name, or the best one for ``"auto"``, ready to step, and why it is this one.

    What cannot be captured falls back to stock Pyro, and what one engine has no rule for to the next one, with the reason. An engine
    of another distribution runs the fit or leaves it to stock Pyro.
    """
    if name == "pyro":
        return PyroEngine(work), "asked for"
    if name == "auto" and work.problem.device.type == "cpu" and max_steps < FEW_STEPS:
        return PyroEngine(work), f"at most {max_steps} steps, which take less time than to compile them"
    refused: list[str] = []
    try:
        if name not in ("auto", *ENGINES):
            return _registered(name, work, chunk), "asked for"
        captured = with_noise(capture_objective(work))
        others = ("c", "torch") if jax_is_lost() else ("jax", "torch")
        order, why = ([name, *(other for other in others if other != name)], "asked for")
        if name == "auto":
            order, why = _order(work, captured, max_steps)
        if not order:
            return PyroEngine(work), why
        for candidate in order:
            try:
                engine = COMPILED[candidate](work, captured, chunk)
            except CaptureError as error:
                refused.append(str(error))
                continue
            reason = " ".join(dict.fromkeys(refused)) or why
            if candidate != name != "auto":
                _warn(name, candidate, reason)
            return engine, reason + getattr(engine, "note", "")
    except CaptureError as error:
        refused.append(str(error))
    reason = " ".join(dict.fromkeys(refused))
    if name != "auto":
        _warn(name, "pyro", reason)
    return PyroEngine(work), reason


def _registered(name: str, work: Work, chunk: int) -> Engine:
    """An engine of another distribution.

    Raises:
        PluginError: if it is broken or lacks something.
        CaptureError: if it cannot run this.
    """
    engine = REGISTERED.named(name, "auto", *ENGINES)(work, chunk)
    lacking = [one for one in NEEDED if not hasattr(engine, one)]
    if lacking:
        raise PluginError(
            f"engine {REGISTERED.entries()[name]} made a {type(engine).__name__}, which has no {' and no '.join(lacking)}. "
            "Fix: write what pyrolvm.plugins.Engine names."
        )
    return engine


def _warn(asked: str, taken: str, reason: str) -> None:
    warnings.warn(
        f"engine {asked!r} cannot run this fit, so engine {taken!r} does: {reason} "
        'Fix: pass engine="auto", or mend the line that is named.',
        PyrolvmWarning,
        stacklevel=6,
    )


def _order(work: Work, captured: Captured, max_steps: int) -> tuple[list[str], str]:
    """The engines to try, best first, and why that is so; none for stock Pyro."""
    size = sum(parameter.numel() for parameter in work.parameters())
    if work.problem.device.type != "cpu":
        return ["torch"], f"compiled by torch for {work.problem.device.type}"
    if work.stepper.adam is None:
        return ["torch"], "compiled by torch, which steps with the optimizer that was given"
    convolved = _convolved(captured)
    if convolved >= LARGE_CONVOLUTION:
        why = f"convolutions of {convolved:,} multiplications, which torch's own library does faster than XLA on a CPU"
        if convolved * max_steps >= LONG_CONVOLVED:
            return ["torch"], f"compiled by torch: {why}"
        return [], f"{why}; not compiled by it for at most {max_steps:,} steps"
    heavy, rows = _heavy(captured)
    if size >= NETWORK and not heavy:
        heavy = f"{size:,} parameters, so that matrix products are most of a step"
    if rows >= HUGE_FACTOR:
        return ["torch"], f"compiled by torch: {heavy}"
    if heavy:
        return ["jax", "torch"], f"compiled by XLA: {heavy}"
    return ["c", "jax", "torch"], f"compiled from C: {size:,} parameters, so that overhead would be most of a step"


def _heavy(captured: Captured) -> tuple[str, int]:
    """What in a program a library does faster than plain loops do, in words, and the rows of its largest factor."""
    calls = [node for node in captured.module.graph.nodes if node.op == "call_function"]
    factors = [node for node in calls if _name(node) in _FACTORS]
    largest = max(factors, key=lambda node: _shapes(node)[0][-1], default=None)
    rows = 0 if largest is None else _shapes(largest)[0][-1]
    if largest is not None and rows >= LARGE_FACTOR:
        return f"{_name(largest)} of {rows} rows", rows
    for node in calls:
        if _name(node) in _PRODUCTS:
            size = node.meta["val"].numel() * _shapes(node)[-2][-1]
            if size >= LARGE_PRODUCT:
                return f"{_name(node)} of {size:,} multiplications", rows
    return (f"{len(calls):,} operations" if len(calls) > LONG else ""), rows


def _convolved(captured: Captured) -> int:
    """The multiplications of all convolutions."""
    nodes = [n for n in captured.module.graph.nodes if n.op == "call_function" and _name(n) == "convolution"]
    return sum(node.meta["val"].numel() * math.prod(_shapes(node)[1][1:]) for node in nodes)


def _name(node: fx.Node) -> str:
    return operation(node).split(".")[0]


def _shapes(node: fx.Node) -> list[tuple[int, ...]]:
    """The shapes of the tensors that an operation takes."""
    values = (source.meta.get("val") for source in node.all_input_nodes)
    return [tuple(value.shape) for value in values if isinstance(value, Tensor)]
