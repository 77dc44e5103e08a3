"""A tensor program as one pure graph of ATen operations.

:func:`capture` runs a function once under a tracer and records what it did to its inputs. Whatever the function
computes from other tensors alone (data, closures) is computed there and then: it is constant. The result is a pure
function of *inputs*, *noise* and *constants*, which nothing in Python can influence any more.
"""

from __future__ import annotations

import operator
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pyrolvm import runtime
from pyrolvm.density.vectorize import VmapFriendly
from pyrolvm.errors import CaptureError, PyrolvmError
from pyrolvm.program.explain import model_line, reason

__all__ = ["Captured", "Noise", "capture", "operations", "with_noise"]

aten = torch.ops.aten


@dataclass(frozen=True)
class Noise:
    """Independent random numbers that a graph takes as an input: standard normal, or uniform on [0, 1)."""

    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def draw(self) -> Tensor:
        """Fresh numbers from torch's generator."""
        make = torch.randn if self.kind == "normal" else torch.rand
        return make(self.shape, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class Captured:
    """A pure function: ``module(*inputs, *noise, *constants)`` returns the leaves of its result as a list.

    Attributes:
        module: the graph; each node's ``meta["val"]`` tells shape and dtype.
        inputs: how many inputs it takes.
        noise: the random numbers it takes after them; empty where they are drawn by nodes of the graph.
        constants: tensors it takes last: data, closures, and what followed from them alone.
        structure: how the leaves make up the result.
        seconds: what capturing took.
    """

    module: fx.GraphModule
    inputs: int
    noise: tuple[Noise, ...]
    constants: tuple[Tensor, ...]
    structure: pytree.TreeSpec
    seconds: float

    def __call__(self, *inputs: Tensor, noise: Sequence[Tensor] | None = None) -> Any:
        """Runs the graph by torch, operation by operation; fresh noise unless it is given."""
        numbers = [n.draw() for n in self.noise] if noise is None else list(noise)
        return self.unflatten(self.module(*inputs, *numbers, *self.constants))

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """The result that the leaves make up."""
        return pytree.tree_unflatten(list(leaves), self.structure)

    @property
    def random(self) -> list[fx.Node]:
        """The nodes that draw random numbers themselves."""
        return [node for node in self.module.graph.nodes if is_random(node)]

    @property
    def size(self) -> int:
        """The number of operations."""
        return sum(node.op == "call_function" for node in self.module.graph.nodes)


def operations(captured: Captured) -> set[str]:
    """The names of the operations in a graph, such as ``"add.Tensor"``."""
    return {operation(node) for node in captured.module.graph.nodes if node.op == "call_function"} - {"getitem"}


def operation(node: fx.Node) -> str:
    """The name of a node's operation: ``"add.Tensor"`` for ``aten.add.Tensor``, with the library's name for any other."""
    if node.target is operator.getitem:
        return "getitem"
    return str(node.target).removeprefix("aten.")


def is_random(node: fx.Node) -> bool:
    """Whether a node draws random numbers."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


# --- capturing --------------------------------------------------------------------------------------------------------


def capture(function: Callable[..., Any], *inputs: Tensor, what: str = "the program") -> Captured:
    """Records ``function(*inputs)`` as a graph; must be called inside a session.

    Tensors are recognised as inputs by identity, so that a function may reach them by other ways than its arguments, as
    a Pyro program reaches its parameters.

    Args:
        function: takes the inputs and returns tensors in any nest of tuples, lists and dictionaries. It may be random.
        *inputs: example inputs; shapes, dtypes and devices are those of every later call.
        what: the program's name, for messages.

    Raises:
        CaptureError: if the function reads the value of an input or of anything that follows from one. Its text names the line.
    """
    started = time.perf_counter()
    structure: pytree.TreeSpec | None = None

    def flat(leaves: list[Tensor]) -> list[Tensor]:
        nonlocal structure
        with _NoReading(), VmapFriendly(), runtime.batchable_enumeration(), _Constants():
            result = function(*leaves)
        values, structure = pytree.tree_flatten(result)
        return [torch.as_tensor(value) for value in values]

    try:
        module = _trace(flat, list(inputs))
        graph = _flat_signature(module)
        if any(_mutates(node) for node in graph.graph.nodes):
            graph = _functional(graph)
    except PyrolvmError:
        raise
    except Exception as error:
        line = model_line(error)
        raise CaptureError(f"{what} cannot be captured{f' at {line}' if line else ''}: {_plain(error)}") from error
    lifted, constants = _lift(graph)
    lifted.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    lifted.recompile()
    if structure is None:
        raise CaptureError(f"{what} cannot be captured: it was not run.")
    return Captured(lifted, len(inputs), (), constants, structure, time.perf_counter() - started)


def _trace(function: Callable[..., Any], example: Any) -> fx.GraphModule:
    """``make_fx``, without the second that torch takes to import its compiler only to switch it off."""
    guarded = proxy_tensor.dispatch_trace
    if "torch._dynamo" not in sys.modules:
        proxy_tensor.dispatch_trace = getattr(guarded, "__wrapped__", guarded)
    try:
        return make_fx(function)(example)
    finally:
        proxy_tensor.dispatch_trace = guarded


def _plain(error: Exception) -> str:
    """What a tracer's message means."""
    text = reason(error)
    signs = ("get value out of a tracing tensor", "data-dependent", "vmap: It looks like you're", "Cannot access data pointer")
    if any(sign in text for sign in signs):
        return "it reads the value of a tensor that changes from run to run."
    return text


class _Constants(TorchDispatchMode):
    """Computes what follows from constants alone, instead of recording it.

    Reading such a value (``int(group.max()) + 1``) is then an ordinary read: the data of a problem do not change.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        mode = proxy_tensor.get_proxy_mode()
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        random = torch.Tag.nondeterministic_seeded in func.tags
        if mode is None or not tensors or random or any(_tracked(tensor, mode.tracer) for tensor in tensors):
            return func(*args, **kwargs)
        with proxy_tensor.disable_proxy_modes_tracing():
            return func(*args, **kwargs)


class _NoReading(TorchFunctionMode):
    """Refuses to hand the values of recorded tensors to NumPy, where the tracer could not see what becomes of them."""

    _READS = frozenset({torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._READS:
            mode = proxy_tensor.get_proxy_mode()
            if mode is not None and _tracked(args[0], mode.tracer):
                raise RuntimeError("it reads the value of a tensor that changes from run to run")
        return func(*args, **(kwargs or {}))


def _tracked(tensor: Tensor, tracer: Any) -> bool:
    return proxy_tensor.has_proxy_slot(tensor, tracer)


# --- passes -----------------------------------------------------------------------------------------------------------


def _flat_signature(module: fx.GraphModule) -> fx.GraphModule:
    """The graph without Python structure around it: a list of tensors in, a list out."""
    module.graph.set_codegen(fx.graph.CodeGen())
    module.recompile()
    return module


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _functional(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph without operations in place."""
    examples = [_example(node) for node in module.graph.nodes if node.op == "placeholder"]

    def run(leaves: list[Tensor]) -> Any:
        return module(*leaves)

    with torch.no_grad():
        return _flat_signature(_trace(torch.func.functionalize(run), examples))


def _example(node: fx.Node) -> Tensor:
    value = node.meta["val"]
    return torch.zeros(value.shape, dtype=value.dtype, device=value.device)


def _lift(module: fx.GraphModule) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    """Makes the tensors that a graph holds its last inputs, each once."""
    graph = module.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    placed: dict[int, fx.Node] = {}
    constants: list[Tensor] = []
    for node in list(graph.nodes):
        if node.op != "get_attr":
            continue
        value = getattr(module, str(node.target)).detach()
        key = id(getattr(module, str(node.target)))
        if key not in placed:
            with graph.inserting_after(last):
                last = placed[key] = graph.placeholder(f"constant_{len(constants)}")
            last.meta["val"] = torch.empty_like(value, device="meta")
            constants.append(value)
        node.replace_all_uses_with(placed[key])
        graph.erase_node(node)
    graph.lint()
    return fx.GraphModule({}, graph), tuple(constants)


_BASE = {"randn.default": "normal", "randn_like.default": "normal", "rand.default": "uniform", "rand_like.default": "uniform"}


def with_noise(captured: Captured) -> Captured:
    """The same function with its normal and uniform random numbers as inputs.

    What draws from a distribution with parameters of its own (a Gamma, say) stays a node of the graph.
    """
    module = _copy(captured.module)
    graph = module.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    noise: list[Noise] = []
    last = placeholders[captured.inputs - 1] if captured.inputs else None
    for node in list(graph.nodes):
        kind = _BASE.get(operation(node)) if node.op == "call_function" else None
        if kind is None:
            continue
        value = node.meta["val"]
        with graph.inserting_after(last) if last is not None else graph.inserting_before(next(iter(graph.nodes))):
            last = graph.placeholder(f"noise_{len(noise)}")
        last.meta["val"] = value
        noise.append(Noise(kind, tuple(value.shape), value.dtype, value.device))
        node.replace_all_uses_with(last)
        graph.erase_node(node)
    graph.lint()
    module.recompile()
    return replace(captured, module=module, noise=tuple(noise))


def _copy(module: fx.GraphModule) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    return fx.GraphModule({}, graph)
