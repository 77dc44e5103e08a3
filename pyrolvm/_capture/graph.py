"""A tensor program as one pure graph of ATen operations.

:func:`capture` runs a function once under a tracer and records what it did to its inputs. Whatever the function
computes from other tensors alone (data, closures) is computed there and then: it is constant. The result is a pure
function of *inputs*, *noise* and *constants*, which nothing in Python can influence any more.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from pyrolvm._base import runtime
from pyrolvm._base.errors import CaptureError, PyrolvmError
from pyrolvm._base.explain import model_line, reason
from pyrolvm._capture.functions import own_gradients
from pyrolvm._capture.products import joined
from pyrolvm._capture.recorder import Reading, operation, record
from pyrolvm._capture.vmap import VmapFriendly
from pyrolvm._compat.torch import TO_COPY, is_operation, pytree, writes

__all__ = [
    "Captured",
    "Noise",
    "Path",
    "attempt",
    "operations",
    "widened",
    "with_noise",
    "with_slices",
    "with_slots",
    "with_step",
]

aten = torch.ops.aten

RECORDINGS = 5
"""How often a program is recorded before random numbers drawn meanwhile are held to be its own, where there are other threads."""


@dataclass(frozen=True)
class Noise:
    """Numbers that a graph takes as an input and that are new in each step.

    ``kind`` is ``"normal"`` or ``"uniform"``, for independent standard normal numbers or such on [0, 1); or ``"step"``, for the
    number of the step.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def draw(self, step: int = 0) -> Tensor:
        """Fresh numbers from torch's generator."""
        if self.kind == "step":
            return torch.full(self.shape, step, dtype=self.dtype, device=self.device)
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

    @property
    def numbers(self) -> int:
        """How many numbers its operations compute."""
        return sum(_elements(node.meta.get("val")) for node in self.module.graph.nodes if node.op == "call_function")


def operations(captured: Captured) -> set[str]:
    """The names of the operations in a graph, such as ``"add.Tensor"``."""
    return {operation(node) for node in captured.module.graph.nodes if node.op == "call_function"} - {"getitem"}


def is_random(node: fx.Node) -> bool:
    """Whether a node draws random numbers."""
    return is_operation(node.target) and torch.Tag.nondeterministic_seeded in node.target.tags


# --- capturing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Path:
    """A graph of the way that a program takes from some of its inputs.

    Attributes:
        graph: gives the program's result and a list of what it read.
        reads: what it read when it was recorded; the graph is right for all inputs from which the same is read.
    """

    graph: Captured
    reads: tuple[Tensor, ...]


def attempt(
    function: Callable[..., Any], *inputs: Tensor, what: str = "the program", reads: list[Tensor] | None = None
) -> Captured:
    """As :func:`capture`, without a word about this installation."""
    started = time.perf_counter()
    structure: pytree.TreeSpec | None = None

    def flat(leaves: list[Tensor]) -> list[Tensor]:
        nonlocal structure
        with VmapFriendly(), runtime.batchable_enumeration(), own_gradients():
            result = function(*leaves)
        values, structure = pytree.tree_flatten(result)
        return values

    def recorded() -> fx.GraphModule:
        if reads is not None:
            reads.clear()
        with torch.random.fork_rng(devices=_cuda(inputs)):
            return joined(_folded(_functional(record(flat, inputs, reads), inputs)))

    try:
        module = _without_other_randomness(recorded)
    except PyrolvmError:
        raise
    except Exception as error:
        line = model_line(error)
        raise CaptureError(f"{what} cannot be captured{f' at {line}' if line else ''}: {_plain(error)}") from error
    lifted, constants = _lift(module)
    lifted.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or is_random(node))
    lifted.recompile()
    if structure is None:
        raise CaptureError(f"{what} cannot be captured: it was not run.")
    return Captured(lifted, len(inputs), (), constants, structure, time.perf_counter() - started)


def _generators() -> tuple[Any, ...]:
    """The state of Python's generator and of NumPy's."""
    numpy: Any = np.random.get_state(legacy=False)
    return random.getstate(), numpy["state"]["pos"], numpy["state"]["key"].tobytes()


def _without_other_randomness(recorded: Callable[[], fx.GraphModule]) -> fx.GraphModule:
    """Refuses a recording that draws random numbers where the recorder does not see them.

    Generators are those of the whole process: another thread, such as the event loop of a Dask worker, may have moved them. A program
    that draws from them does so each time.

    Raises:
        Reading: if the state of Python's or NumPy's generator has moved in each of several recordings.
    """
    for _ in range(RECORDINGS if threading.active_count() > 1 else 1):
        before = _generators()
        module = recorded()
        if _generators() == before:
            return module
    raise Reading("it draws random numbers by Python or NumPy, which differ from run to run")


def _plain(error: Exception) -> str:
    """What the message means, where it comes from a library that stumbles over a read."""
    text = reason(error)
    if "vmap: It looks like you're" in text or "Cannot access data pointer" in text:
        return "it reads the value of a tensor that changes from run to run."
    return text


def _cuda(tensors: Sequence[Tensor]) -> list[int]:
    return sorted({tensor.device.index or 0 for tensor in tensors if tensor.is_cuda})


# --- passes -----------------------------------------------------------------------------------------------------------


def _functional(module: fx.GraphModule, inputs: Sequence[Tensor]) -> fx.GraphModule:
    """The same graph without operations in place, as JAX and compilers want it."""
    if not any(is_operation(node.target) and writes(node.target) for node in module.graph.nodes):
        return module
    lifted, constants = _lift(module)
    leaves = [*(tensor.detach() for tensor in inputs), *constants]
    with torch.no_grad():
        pure = record(torch.func.functionalize(lambda leaves: lifted(*leaves)), leaves)
    placeholders = [node for node in pure.graph.nodes if node.op == "placeholder"]
    for i, (node, constant) in enumerate(zip(placeholders[len(inputs) :], constants, strict=True)):
        setattr(pure, f"kept_{i}", constant)
        with pure.graph.inserting_after(placeholders[-1]):
            held = pure.graph.create_node("get_attr", f"kept_{i}")
        held.meta.update(node.meta)
        node.replace_all_uses_with(held)
        pure.graph.erase_node(node)
    return _counted_bounds(_without_copies(pure))


def _counted_bounds(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph with the bounds of ``slice_scatter`` counted from the front: ``vmap`` takes no others."""
    for node in module.graph.find_nodes(op="call_function", target=aten.slice_scatter.default):
        given: tuple[Any, ...] = (*node.args, *(0, None, None, 1)[len(node.args) - 2 :])
        x, part, dim, start, end, step = given
        first, last, by = slice(start, end, step).indices(node.meta["val"].shape[dim])
        node.args = (x, part, dim, first, last, by)
    module.recompile()
    return module


def _without_copies(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph without ``copy``, what a write of a whole tensor becomes: torch has no derivative for it."""
    for node in module.graph.find_nodes(op="call_function", target=aten.copy.default):
        source, val = node.args[1], node.meta["val"]
        with module.graph.inserting_before(node):
            if source.meta["val"].dtype != val.dtype or source.meta["device"] != node.meta["device"]:
                shape, how = source.meta["val"].shape, {"dtype": val.dtype, "device": node.meta["device"]}
                source = module.graph.call_function(TO_COPY, (source,), how)
                source.meta.update(val=torch.empty(shape, dtype=val.dtype, device="meta"), device=node.meta["device"])
            whole = module.graph.call_function(aten.expand.default, (source, list(val.shape)))
        whole.meta.update(node.meta)
        node.replace_all_uses_with(whole)
        module.graph.erase_node(node)
    module.recompile()
    return module


_KEPT = {
    "full",
    "zeros",
    "ones",
    "arange",
    "eye",
    "scalar_tensor",
    "expand",
    "view",
    "unsqueeze",
    "full_like",
    "zeros_like",
    "ones_like",
}
"""Operations that are cheaper to repeat than their results are to keep."""
_LARGEST = 1_000_000
"""The most elements that a folded result may have, unless it is no larger than what it came from."""


def _folded(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph with everything that follows from constants alone computed."""
    known: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(module, str(node.target))
        elif (
            node.op == "call_function"
            and not is_random(node)
            and all(source in known for source in node.all_input_nodes)
        ):
            if _elements(node.meta["val"]) <= max(
                _LARGEST, *(_elements(n.meta["val"]) for n in node.all_input_nodes), 0
            ):
                args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), known.__getitem__)
                with torch.no_grad():
                    known[node] = node.target(*args, **kwargs)
    for node in reversed(list(module.graph.nodes)):
        value = known.get(node)
        if node.op != "call_function" or not isinstance(value, Tensor) or operation(node).split(".")[0] in _KEPT:
            continue
        if any(
            user not in known or operation(user).split(".")[0] in _KEPT for user in node.users if user.op != "output"
        ):
            name = f"folded_{node.name}"
            setattr(module, name, value)
            with module.graph.inserting_before(node):
                constant = module.graph.create_node("get_attr", name)
            constant.meta.update(node.meta)
            node.replace_all_uses_with(constant)
            known[constant] = value
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or is_random(node))
    return module


def _elements(value: Any) -> int:
    return sum(part.numel() for part in pytree.tree_leaves(value) if isinstance(part, Tensor))


def _lift(module: fx.GraphModule) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    """Makes the tensors that a graph holds its last inputs, each once."""
    graph = module.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    last = inputs[-1] if inputs else None
    placed: dict[int, fx.Node] = {}
    constants: list[Tensor] = []
    for node in list(graph.nodes):
        if node.op != "get_attr":
            continue
        value = getattr(module, str(node.target)).detach()
        key = id(getattr(module, str(node.target)))
        if key not in placed:
            with _after(graph, last):
                last = placed[key] = graph.placeholder(f"constant_{len(constants)}")
            last.meta.update(node.meta)
            constants.append(value)
        node.replace_all_uses_with(placed[key])
        graph.erase_node(node)
    graph.lint()
    return fx.GraphModule({}, graph), tuple(constants)


_BASE = {
    "randn.default": "normal",
    "randn_like.default": "normal",
    "rand.default": "uniform",
    "rand_like.default": "uniform",
}


def with_noise(captured: Captured) -> Captured:
    """The same function with its normal and uniform random numbers as inputs.

    What draws from a distribution with parameters of its own (a Gamma, say) stays a node of the graph. Draws that nothing depends on
    are left out: without a generator whose state they move, they are nothing.
    """

    def numbers(node: fx.Node) -> tuple[Noise, ...] | None:
        kind = _BASE.get(operation(node))
        if kind is None:
            return None
        value = node.meta["val"]
        return (Noise(kind, tuple(value.shape), value.dtype, node.meta["device"]),)

    changed, slots = with_slots(captured, numbers)
    graph = changed.module.graph
    for node, (number,) in slots.items():
        node.replace_all_uses_with(number)
        graph.erase_node(node)
    graph.lint()
    changed.module.recompile()
    return changed


def with_slots(
    captured: Captured, numbers: Callable[[fx.Node], tuple[Noise, ...] | None]
) -> tuple[Captured, dict[fx.Node, list[fx.Node]]]:
    """The same program, and further inputs of noise for some of its nodes, which do not use them yet.

    Args:
        captured: the program; what nothing depends on is left out.
        numbers: the noise that a node of an operation wants, or ``None``.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(captured.module.graph, {}))
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    noise = list(captured.noise)
    before = captured.inputs + len(noise)
    last = placeholders[before - 1] if before else None
    slots: dict[fx.Node, list[fx.Node]] = {}
    for node in [node for node in graph.nodes if node.op == "call_function"]:
        wanted = numbers(node)
        if wanted is None:
            continue
        slots[node] = []
        for one in wanted:
            with _after(graph, last):
                last = graph.placeholder(f"noise_{len(noise)}")
            last.meta["val"] = torch.empty(one.shape, dtype=one.dtype, device="meta")
            last.meta["device"] = one.device
            noise.append(one)
            slots[node].append(last)
    return replace(captured, module=fx.GraphModule({}, graph), noise=tuple(noise)), slots


def widened(captured: Captured) -> Captured:
    """The same program in double precision: its data as they are, and every number after them without rounding to less."""
    narrow = (torch.float32, torch.float16, torch.bfloat16)

    def wide(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return torch.float64 if value in narrow else value
        return value.to(torch.float64) if isinstance(value, Tensor) and value.dtype in narrow else value

    return _changed(captured, wide)


def with_slices(captured: Captured) -> Captured:
    """The same program with every write of one place along a dimension as one of a slice of length one.

    Through ``vmap``, the gradient that torch 2.13 to 2.15 have of the former is that of all lanes together.
    """
    changed = _changed(captured, lambda value: value)
    graph = changed.module.graph
    for node in graph.find_nodes(op="call_function", target=aten.select_scatter.default):
        base, value, dim, index = node.args
        place = index % base.meta["val"].shape[dim]
        with graph.inserting_before(node):
            row = graph.call_function(aten.unsqueeze.default, (value, dim))
            new = graph.call_function(aten.slice_scatter.default, (base, row, dim, place, place + 1, 1))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    changed.module.recompile()
    return changed


def on_processor(captured: Captured) -> Captured:
    """The same program on the processor, with copies of the data that it had on a device."""
    here = torch.device("cpu")

    def moved(value: Any) -> Any:
        if isinstance(value, torch.device):
            return here
        return value.to(here) if isinstance(value, Tensor) and not value.is_meta else value

    return _changed(captured, moved)


def _changed(captured: Captured, change: Callable[[Any], Any]) -> Captured:
    """A copy whose constants, arguments and notes on results went through ``change``."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(captured.module.graph, {}))
    for node in graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate((node.args, dict(node.kwargs)), change)
        for note in node.meta.keys() & {"val", "device"}:
            node.meta[note] = pytree.tree_map(change, node.meta[note])
    module = fx.GraphModule({}, graph)
    return replace(captured, module=module, constants=tuple(change(value) for value in captured.constants))


def with_step(captured: Captured) -> Captured:
    """The same function with its last input, the number of the step, as what it takes new in each step."""
    node = [node for node in captured.module.graph.nodes if node.op == "placeholder"][captured.inputs - 1]
    value = node.meta["val"]
    clock = Noise("step", tuple(value.shape), value.dtype, node.meta["device"])
    return replace(captured, inputs=captured.inputs - 1, noise=(clock, *captured.noise))


def _after(graph: fx.Graph, node: fx.Node | None) -> Any:
    """Where the next placeholder goes: after ``node``, or first."""
    return graph.inserting_before(next(iter(graph.nodes))) if node is None else graph.inserting_after(node)
