"""Graphs as statements in C."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from pyrolvm._base.errors import CaptureError
from pyrolvm._base.explain import reason
from pyrolvm._capture.graph import Captured
from pyrolvm._capture.native.builder import Array, Builder, Value, kind_of
from pyrolvm._capture.native.index import fold
from pyrolvm._capture.native.printer import body
from pyrolvm._capture.native.rules import RULES, Call, elements
from pyrolvm._capture.recorder import operation, record
from pyrolvm._compat.torch import (
    DispatchMode,
    core_decompositions,
    decompositions,
    is_operation,
    shares_memory,
    without_compiler,
    writes,
)

__all__ = ["Body", "check_plain", "differentiable", "helpers", "lowered", "recorded"]

STACK = 8192  # Numbers of 8 bytes of scratch space on the stack; threads may have no more than 2 MiB of it.


@dataclass(frozen=True)
class Body:
    """The statements of a C function, without its head.

    Attributes:
        text: reads the inputs by their names, ``data`` by address, and writes the results by their names.
        opening: declares the scratch space that ``text`` uses.
        closing: frees it.
        data: the arrays whose addresses ``data`` holds.
    """

    text: str
    opening: str
    closing: str
    data: tuple[np.ndarray, ...]


def helpers() -> str:
    """C that every function needs ahead of it: types, and the special functions."""
    return (Path(__file__).parent / "helpers.h").read_text()


def lowered(module: fx.GraphModule, inputs: Sequence[str], results: Sequence[str], single: Container[str] = ()) -> Body:
    """A graph in C.

    Data are not in the text, but for tensors whose entries are all equal.

    Args:
        module: of placeholders, constants and operations that are not random.
        inputs: where each placeholder's entries are, as C expressions of a pointer.
        results: where each result's entries go, by name.
        single: those of the inputs that lie there in single precision.

    Raises:
        CaptureError: if an operation has no rule; it is named.
    """
    module.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or _writes(node))
    _check_writes(module.graph)
    builder = Builder()
    known = _known(module)
    values: dict[fx.Node, Any] = {
        node: builder.constant(value)
        for node, value in known.items()
        if isinstance(value, Tensor) and any(user not in known for user in node.users)
    }
    for k, (node, source) in enumerate(zip(module.graph.find_nodes(op="placeholder"), inputs, strict=True)):
        shape, kind = node.meta["val"].shape, "f" if source in single else kind_of(node.meta["val"].dtype)
        values[node] = builder.given_value(Array(f"x{k}", kind, shape.numel(), source, local=False), shape)
    for name, value in zip(results, _lower(module.graph, builder, known, values), strict=True):
        array = Array(f"end_{name}", "d", prod(value.shape), name, local=False)
        builder.write(array, value.shape, value.at, partial(fold, shape=value.shape))
    text, scratch = body(builder)
    opening, closing = f"double scratch[{max(scratch, 1)}] __attribute__((aligned(64)));\n(void)scratch;", ""
    if scratch > STACK:
        opening = f"double *scratch = aligned_alloc(64, {scratch} * sizeof(double));\nif (!scratch) return -2;"
        closing = "free(scratch);"
    return Body(text, opening, closing, tuple(builder.given))


# --- graphs with gradients --------------------------------------------------------------------------------------------


def _parts(func: Any) -> Callable[..., Any]:
    """What an operation consists of by torch's own account: first by that which ends in the core of its operations."""
    if func in core_decompositions() or writes(func):
        return core_decompositions().get(func, func.decompose)
    return decompositions().get(func, func.decompose)


class _Differentiable(fx.Interpreter):
    """Runs a graph with an operation that torch cannot differentiate written as one that it can."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch.ops.aten.copy.default:
            return args[1].to(args[0].dtype).expand(args[0].shape)
        return super().call_function(target, args, kwargs)


class _Decomposed(DispatchMode):
    """Replaces operations that have no rule by their parts."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        result = NotImplemented
        if _rule(func) is None:
            parts = _parts(func)
            with self, without_compiler(parts):
                result = parts(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if result is NotImplemented else result


def differentiable(captured: Captured) -> Callable[..., list[Tensor]]:
    """A captured program as a function of its inputs and noise that autograd can follow, by operations that have rules."""

    def run(*leaves: Tensor) -> list[Tensor]:
        return list(_Differentiable(captured.module).run(*leaves, *captured.constants))

    return run


def recorded(run: Callable[[list[Tensor]], object], inputs: Sequence[Tensor]) -> fx.GraphModule:
    """The graph of a function that takes gradients of captured programs.

    Raises:
        CaptureError: if torch cannot differentiate it.
    """

    def inner(leaves: list[Tensor]) -> Any:
        with torch.enable_grad(), _Decomposed():
            return run(leaves)

    try:
        with torch.no_grad():
            return record(inner, list(inputs))
    except Exception as error:
        raise CaptureError(f"engine 'c' cannot differentiate the program: {reason(error)}") from error


def check_plain(captured: Captured) -> None:
    """Refuses what C has no numbers for.

    Raises:
        CaptureError: if the program draws from a distribution with parameters of its own, or is not on the processor.
    """
    if captured.random:
        raise CaptureError(f"engine 'c' has no rule for {', '.join(sorted(map(operation, captured.random)))}.")
    placeholders = captured.module.graph.find_nodes(op="placeholder")[: captured.inputs]
    devices = {str(tensor.device) for tensor in captured.constants} | {str(n.meta["device"]) for n in placeholders}
    if devices - {"cpu"}:
        raise CaptureError("engine 'c' runs on the processor alone, and the program does not.")


def _known(module: fx.GraphModule) -> dict[fx.Node, object]:
    """What nodes amount to that follow from the data alone."""
    known: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            known[node] = getattr(module, str(node.target))
        elif node.op == "call_function" and not _writes(node) and all(n in known for n in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), known.__getitem__)
            with torch.no_grad():
                known[node] = node.target(*args, **kwargs)
    return known


def _writes(node: fx.Node) -> bool:
    """Whether an operation writes into its first argument."""
    return is_operation(node.target) and writes(node.target)


def _check_writes(graph: fx.Graph) -> None:
    """Makes sure that an operation in place may be read as one that is not: nothing looks at its argument any more.

    Raises:
        CaptureError: if something does.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in filter(_writes, graph.nodes):
        pending: list[Any] = [node.args[0]]
        sharing: set[fx.Node] = {node}
        while pending:
            other = pending.pop()
            if other in sharing:
                continue
            sharing.add(other)
            if other.op != "call_function" or any(order[user] > order[node] for user in other.users):
                raise CaptureError(f"engine 'c' has no rule for {operation(node)} on what is used again.")
            pending += [other.args[0]] if _shares(other) else []
            pending += [user for user in other.users if _shares(user) and user.args[0] is other]


def _shares(node: fx.Node) -> bool:
    """Whether an operation returns memory of its first argument."""
    if not is_operation(node.target):
        return node.target is operator.getitem
    return shares_memory(node.target)


def _lower(graph: fx.Graph, builder: Builder, known: Container[fx.Node], values: dict[fx.Node, Any]) -> list[Value]:
    """The values that the graph returns.

    Raises:
        CaptureError: if operations have no rule; all of them are named.
    """
    calls = [node for node in graph.nodes if node.op == "call_function" and node not in known]
    absent = sorted({operation(n) for n in calls if n.target is not operator.getitem and _rule(n.target) is None})
    if absent:
        raise CaptureError(f"engine 'c' has no rule for {', '.join(absent)}.")
    for node in calls:
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), values.__getitem__)
        if node.target is operator.getitem:
            values[node] = args[0][args[1]]
        else:
            values[node] = _rule(node.target)(Call(operation(node), builder, node.meta["val"]), *args, **kwargs)
    return [values[node] for node in graph.find_nodes(op="output")[0].args[0]]


def _rule(target: object) -> Any:
    """The rule for an operation: for its overload (``max.dim``) if there is one, else for its name (``add``)."""
    name, _, overload = str(target).removeprefix("aten.").partition(".")
    if writes(target):
        name = name.removesuffix("_")
    if name == "prims":  # what decompositions end in: the same operations where they act on each element by itself
        return RULES.get(f"prims.{overload}") or elements.POINTWISE.get(overload.partition(".")[0])
    return RULES.get(f"{name}.{overload}") or RULES.get(name)
