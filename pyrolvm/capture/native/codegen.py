"""The gradient of a captured potential as one C function."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions, decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode

from pyrolvm.capture.graph import Captured
from pyrolvm.capture.native.builder import Array, At, Builder, Value
from pyrolvm.capture.native.index import ZERO
from pyrolvm.capture.native.printer import body
from pyrolvm.capture.native.rules import RULES, Call
from pyrolvm.capture.recorder import operation, record
from pyrolvm.errors import CaptureError
from pyrolvm.program.explain import reason

__all__ = ["Source", "generate"]

_STACK = 8192  # Numbers of 8 bytes of scratch space on the stack; threads may have no more than 2 MiB of it.

_HEAD = """\
{helpers}
/* Nonzero for a density or a gradient that is not finite, as nutpie wants it. */
int64_t log_density(uint64_t dim, const double *restrict point, double *restrict out, double *restrict result,
                    const void *const *data) {{
(void)data;
if (dim != {size}) return -1;
{open}
"""
_TAIL = """
{close}
if (!isfinite(*result)) return 4;
for (integer k = 0; k < {size}; k++) if (!isfinite(out[k])) return 3;
return 0;
}}

int64_t identity(uint64_t dim, uint64_t expanded, const double *point, double *out, int64_t *calls) {{
if (calls) __atomic_fetch_add(calls, 1, __ATOMIC_RELAXED);
if (dim != {size} || expanded != {size}) return -1;
memcpy(out, point, {size} * sizeof(double));
return 0;
}}
"""


@dataclass(frozen=True)
class Source:
    """A program in C and its data.

    Attributes:
        text: defines ``log_density`` and ``identity``, with the signatures of nutpie's density and expansion.
        data: the arrays that ``log_density`` takes, by their addresses, as its last argument.
        size: the number of unknowns.
    """

    text: str
    data: tuple[np.ndarray, ...]
    size: int


def generate(captured: Captured) -> Source:
    """C code for minus a captured potential, and minus its gradient.

    Data are not in the text, but for tensors whose entries are all equal.

    Raises:
        CaptureError: if an operation has no rule; it is named.
    """
    module = _value_and_gradient(captured)
    module.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or _writes(node))
    _check_writes(module.graph)
    builder = Builder()
    (point,) = module.graph.find_nodes(op="placeholder")
    size = point.meta["val"].numel()
    known = _known(module)
    values: dict[fx.Node, Any] = {
        node: builder.constant(value)
        for node, value in known.items()
        if isinstance(value, Tensor) and any(user not in known for user in node.users)
    }
    values[point] = builder.value(Array("x", "d", size, "point", local=False), (size,))
    ends = (("result", 1), ("out", size))
    for (name, length), value in zip(ends, _lower(module.graph, builder, known, values), strict=True):
        array = Array(f"end_{name}", "d", length, name, local=False)
        builder.write(array, value.shape, _negative(value), lambda i: i[0] if i else ZERO)
    text, scratch = body(builder)
    return Source("".join([_head(size, scratch), text, _tail(size, scratch)]), tuple(builder.given), size)


def _negative(value: Value) -> At:
    return lambda index: f"-{value.at(index)}"


def _head(size: int, scratch: int) -> str:
    held = f"double scratch[{max(scratch, 1)}] __attribute__((aligned(64)));\n(void)scratch;"
    if scratch > _STACK:
        held = f"double *scratch = aligned_alloc(64, {scratch} * sizeof(double));\nif (!scratch) return -2;"
    return _HEAD.format(helpers=(Path(__file__).parent / "helpers.h").read_text(), size=size, open=held)


def _tail(size: int, scratch: int) -> str:
    return _TAIL.format(size=size, close="free(scratch);" if scratch > _STACK else "")


# --- the graph of the gradient ----------------------------------------------------------------------------------------


_CORE = dict(core_aten_decompositions().items())


def _parts(func: Any) -> Callable[..., Any]:
    """What an operation consists of by torch's own account: first by that which ends in the core of its operations."""
    if func in _CORE or func._schema.is_mutable:
        return _CORE.get(func, func.decompose)
    return decomposition_table.get(func, func.decompose)


class _Differentiable(fx.Interpreter):
    """Runs a graph with an operation that torch cannot differentiate written as one that it can."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch.ops.aten.copy.default:
            return args[1].to(args[0].dtype).expand(args[0].shape)
        return super().call_function(target, args, kwargs)


class _Decomposed(TorchDispatchMode):
    """Replaces operations that have no rule by their parts."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its whole compiler, a second, only to switch it off here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = NotImplemented
        if _rule(func) is None:
            with self:
                result = _parts(func)(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if result is NotImplemented else result


def _value_and_gradient(captured: Captured) -> fx.GraphModule:
    """The graph of a potential and its gradient."""
    point = captured.module.graph.find_nodes(op="placeholder")[0].meta
    devices = {str(tensor.device) for tensor in captured.constants} | {str(point["device"])}
    if captured.noise or captured.random or captured.inputs != 1 or devices != {"cpu"}:
        raise CaptureError("engine 'c' needs a potential of one vector, without random numbers, on the CPU.")

    def run(leaves: list[Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad(), _Decomposed():
            moving = leaves[0].detach().requires_grad_()
            (value,) = _Differentiable(captured.module).run(moving, *captured.constants)
            (gradient,) = torch.autograd.grad(value, moving)
        return value.detach(), gradient

    try:
        with torch.no_grad():
            return record(run, [torch.zeros(point["val"].shape, dtype=point["val"].dtype)])
    except Exception as error:
        raise CaptureError(f"engine 'c' cannot differentiate the potential: {reason(error)}") from error


def _known(module: fx.GraphModule) -> dict[fx.Node, Any]:
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
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


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
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.target is operator.getitem
    return any(result.alias_info is not None for result in node.target._schema.returns)


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


def _rule(target: Any) -> Any:
    """The rule for an operation: for its overload (``max.dim``) if there is one, else for its name (``add``)."""
    name, _, overload = str(target).removeprefix("aten.").partition(".")
    if target._schema.is_mutable:
        name = name.removesuffix("_")
    return RULES.get(f"{name}.{overload}") or RULES.get(name)
