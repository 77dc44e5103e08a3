"""Records what a function does to tensors, operation by operation.

Everything is recorded. Beside it the recorder keeps, for each storage, whether what it holds may change from run to run:
because it follows from an input or from a random number. Reading a value that cannot change (``int(group.max()) + 1`` for
given groups) is an ordinary read; reading one that can is refused, since the program might then go another way.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from pyrolvm._compat.torch import (
    INDEX_PUT_IMPL,
    ITEM,
    DispatchMode,
    argument_names,
    pytree,
    storage_key,
    writes,
    written_arguments,
)

__all__ = ["Reading", "operation", "record"]

aten = torch.ops.aten

_BLIND = {
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.empty_like,
    aten.new_zeros,
    aten.new_ones,
    aten.new_full,
    aten.new_empty,
}
"""Operations that look at a tensor's shape alone."""
_INDEXING = {aten.index, aten.index_put, aten.index_put_, INDEX_PUT_IMPL}
_PUTTING = _INDEXING - {aten.index}
_READS = {ITEM, aten.equal.default}
_NOTED = {*_READS, aten.nonzero.default, aten.masked_select.default}
_NUMPY = {torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__}

_REFUSAL = "it reads the value of a tensor that changes from run to run"


class Reading(RuntimeError):
    """A program reads a recorded value."""


def record(
    function: Callable[[list[Tensor]], Sequence[Tensor]], inputs: Sequence[Tensor], reads: list[Tensor] | None = None
) -> fx.GraphModule:
    """Runs ``function(inputs)`` once and returns what it did as a graph from ``inputs`` to the tensors it returned.

    Inputs are known by identity. Constants are attributes of the module. Every node has, in ``meta["val"]``, tensors on the
    meta device that tell shape and dtype, and in ``meta["device"]`` where they lay.

    Args:
        function: what to record.
        inputs: what it is run on.
        reads: where given, whole numbers and truth values that follow from the inputs may be read. What was read is added to
            the list, recorded as well, and the graph is that of all inputs from which the same is read.

    Raises:
        Reading: if the function reads another value that follows from an input, or one that follows from a random number.
    """
    recorder = _Recorder(inputs, reads)
    with _NoNumpy(recorder), recorder:
        outputs = function(list(inputs))
    recorder.graph.output([recorder.node(tensor) for tensor in outputs])
    return fx.GraphModule(recorder.constants, recorder.graph)


def operation(node: fx.Node) -> str:
    """The name of a node's operation: ``"add.Tensor"`` for ``aten.add.Tensor``, with the library's name for any other."""
    if node.target is operator.getitem:
        return "getitem"
    return str(node.target).removeprefix("aten.")


class _Recorder(DispatchMode):
    """The mode that sees every ATen operation, below autograd and ``vmap``, and writes it down."""

    def __init__(self, inputs: Sequence[Tensor], reads: list[Tensor] | None = None) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self._reads = reads
        self._random: set[int] = set()
        self._differentiates = torch.is_grad_enabled()
        self.constants: dict[str, Tensor] = {}
        # Tensors are kept with their nodes, so that no later tensor can take the identity of an earlier one.
        self._nodes: dict[int, tuple[Tensor, fx.Node]] = {}
        self._changing: set[int] = set()
        # What a detached tensor was detached from, and how a view was made: writing into them is not writing into the rest.
        self._sources: dict[int, Tensor] = {}
        self._views: dict[int, tuple[Any, Tensor, tuple[Any, ...], dict[str, Any]]] = {}
        for i, tensor in enumerate(inputs):
            self._remember(tensor, self.graph.placeholder(f"input_{i}"))
            self._changing.add(storage_key(tensor))

    def changes(self, tensor: Tensor) -> bool:
        """Whether the value of a tensor may differ from run to run."""
        return storage_key(tensor) in self._changing

    def node(self, tensor: Tensor) -> fx.Node:
        """The node of a tensor; one that was there before the program gets it when it is first used."""
        known = self._nodes.get(id(tensor))
        if known is not None:
            return known[1]
        if self.changes(tensor):
            raise Reading("it takes a changing tensor's memory by a way that cannot be followed")
        name = f"held_{len(self.constants)}"
        self.constants[name] = tensor.detach().clone() if tensor.numel() <= 1 else tensor.detach()
        return self._remember(tensor, self.graph.create_node("get_attr", name))

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func.overloadpacket in _INDEXING:
            if func.overloadpacket in _PUTTING and self._fills(*args[1:]):
                with self:
                    return _fill(func, *args[:3])
            args = (args[0], self._positions(args[1]), *args[2:])
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        changing = torch.Tag.nondeterministic_seeded in func.tags or any(map(self.changes, tensors))
        if func in _READS or (torch.Tag.dynamic_output_shape in func.tags and func.overloadpacket not in _INDEXING):
            if not changing:
                return func(*args, **kwargs)
            return self._read(func, args)
        if func is aten.detach.default and not changing:
            # torch detaches what it has just made; a program that fills it in place must find the gradient of what it put in.
            func = aten.alias.default
        written = _written(func, args, kwargs)
        for tensor in written:
            self._own(tensor)
        source = self._shadowed(written[0]) if len(written) == 1 else None
        before = self._split_off(source, written[0]) if source is not None else None
        result = func(*args, **kwargs)
        if result is None and not written:
            return None  # a check
        ungraded = changing and self._differentiates and not torch.is_grad_enabled() and not written
        self._write(func, args, kwargs, result, constant=ungraded)
        if source is not None and before is not None:
            self._join(source, *before)
        elif isinstance(result, Tensor) and not written:
            self._derive(func, args, kwargs, result)
        if changing and func.overloadpacket not in _BLIND:
            made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
            self._changing.update(storage_key(tensor) for tensor in (*made, *written))
            if torch.Tag.nondeterministic_seeded in func.tags or any(storage_key(t) in self._random for t in tensors):
                self._random.update(storage_key(tensor) for tensor in (*made, *written))
        return result

    def _read(self, func: Any, args: Any) -> Any:
        """The result of an operation that reads values, noted where reads may be noted.

        Raises:
            Reading: where they may not, or the value is one that hardly two runs have in common.
        """
        if self._reads is None or func not in _NOTED:
            raise Reading(_REFUSAL)
        if func is ITEM:
            self._note(args[0])
            return func(*args)
        if func is aten.equal.default:
            with self:
                self._note((args[0] == args[1]).all())
            return func(*args)
        if func is aten.masked_select.default:
            with self:
                x, mask = torch.broadcast_tensors(*args)
                return aten.index(x, [mask])
        with self:
            self._note(args[0] != 0)
        return func(*args)

    def _note(self, tensor: Tensor) -> None:
        if tensor.is_floating_point() or tensor.is_complex() or storage_key(tensor) in self._random:
            raise Reading(_REFUSAL)
        assert self._reads is not None
        with self:
            self._reads.append(tensor.clone())  # as it is now: it may be written into afterwards

    def _positions(self, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Indices with masks replaced by the positions they are true at, so that every shape is known beforehand."""
        found: list[Tensor | None] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                found.append(index)
            elif self.changes(index):
                if self._reads is None:
                    raise Reading(_REFUSAL)
                self._note(index)
                found.extend(aten.nonzero(index).unbind(1))
            else:
                found.extend(index.nonzero(as_tuple=True))
        return found

    def _write(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any, constant: bool) -> None:
        """Writes an operation down; ``constant`` tells that its result is one to every gradient."""
        if isinstance(result, Tensor):  # torch's default dtype and device of the moment are made explicit
            kwargs = kwargs | {
                name: getattr(result, name) for name in ("dtype", "device") if name in argument_names(func)
            }
        shown = pytree.tree_map(lambda leaf: self.node(leaf) if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        node = self.graph.call_function(func, *shown)
        if isinstance(result, Tensor):
            self._made(result, node, constant)
        elif isinstance(result, tuple | list):
            node.meta["val"] = [_shape(part) for part in result]
            for i, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._made(part, self.graph.call_function(operator.getitem, (node, i)), constant)

    # --- writing through a detached name ------------------------------------------------------------------------------
    #
    # `x.detach().clamp_(min=0)` changes the value of x and leaves its gradient as it was. In a graph without writes that is
    # a new x: the value written, plus x, minus x without its gradient.

    def _derive(self, func: Any, args: Any, kwargs: dict[str, Any], result: Tensor) -> None:
        """Notes what a result shares its memory with."""
        base = args[0] if args and isinstance(args[0], Tensor) else None
        if base is None or base is result or storage_key(base) != storage_key(result):
            return
        if func is aten.detach.default:
            self._sources[id(result)] = self._sources.get(id(base), base)
        else:
            self._views[id(result)] = (func, base, tuple(args[1:]), kwargs)

    def _shadowed(self, tensor: Tensor) -> Tensor | None:
        """The tensor that a detached one, or a view of it, was detached from."""
        while id(tensor) in self._views:
            tensor = self._views[id(tensor)][1]
        return self._sources.get(id(tensor))

    def _split_off(self, source: Tensor, tensor: Tensor) -> tuple[fx.Node, fx.Node]:
        """Gives the detached names of ``source`` memory of their own in the graph; ``tensor`` is the one to be written into.

        Raises:
            Reading: if there are other views of that memory, which would have to follow.
        """
        path = [tensor]
        while id(path[-1]) in self._views:
            path.append(self._views[id(path[-1])][1])
        names = [t for t, _ in self._nodes.values() if self._sources.get(id(t)) is source]
        known = {id(source), *map(id, path), *map(id, names)}
        if any(storage_key(t) == storage_key(source) and id(t) not in known for t, _ in self._nodes.values()):
            raise Reading("it writes through a detached name into a tensor that has other views")
        fixed = self.graph.call_function(aten.detach.default, (self.node(source),))
        copy = self.graph.call_function(aten.clone.default, (fixed,))
        for node in (fixed, copy):
            node.meta.update(self.node(source).meta)
        for name in names:
            self._remember(name, copy)
        for view in reversed(path[:-1]):
            func, base, rest, kwargs = self._views[id(view)]
            self._remember(view, self.graph.call_function(func, (self.node(base), *rest), kwargs))
        return fixed, copy

    def _join(self, source: Tensor, fixed: fx.Node, written: fx.Node) -> None:
        """Gives ``source`` the value that was written, and the gradient that it had."""
        if not source.is_floating_point():
            self._remember(source, written)
            return
        call, old = self.graph.call_function, self.node(source)
        same = call(aten.eq.Tensor, (written, fixed))
        step = call(aten.sub.Tensor, (old, fixed))
        step = call(aten.nan_to_num.default, (step, 0.0))  # of infinities
        self._remember(source, call(aten.where.self, (same, old, call(aten.add.Tensor, (written, step)))))

    def _fills(self, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False, *_: Any) -> bool:
        """Whether one value is put where a changing mask is true."""
        one = len(indices) == 1 and indices[0] is not None and indices[0].dtype == torch.bool
        return one and not accumulate and values.numel() == 1 and self.changes(indices[0])  # type: ignore[arg-type]

    def _made(self, tensor: Tensor, node: fx.Node, constant: bool) -> None:
        self._remember(tensor, node)
        if constant:
            self._remember(tensor, self.graph.call_function(aten.detach.default, (node,)))

    def _remember(self, tensor: Tensor, node: fx.Node) -> fx.Node:
        node.meta["val"], node.meta["device"] = _shape(tensor), tensor.device
        self._nodes[id(tensor)] = (tensor, node)
        return node

    def _own(self, tensor: Tensor) -> None:
        """Lets the graph write into a copy of what was there before the program, as if it were the thing itself.

        Raises:
            Reading: if the program has already looked at a part of it, which would not follow.
        """
        known = self._nodes.get(id(tensor))
        if known is None:
            self._remember(tensor, self.graph.call_function(aten.clone.default, (self.node(tensor),)))
        if known is not None and known[1].op == "get_attr":
            raise Reading("it writes into a tensor that was there before it ran")


class _NoNumpy(TorchFunctionMode):
    """Refuses to hand recorded values to NumPy, where nobody could see what becomes of them."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        if func in _NUMPY and self.recorder.changes(args[0]):
            raise Reading(_REFUSAL)
        return func(*args, **(kwargs or {}))


def _fill(func: Any, x: Tensor, indices: Sequence[Tensor], value: Tensor) -> Tensor:
    mask = indices[0].reshape(*indices[0].shape, *(1,) * (x.ndim - indices[0].ndim))
    fill = aten.masked_fill_.Tensor if writes(func) else aten.masked_fill.Tensor
    return fill(x, mask, value.reshape(()))


def _written(func: Any, args: Any, kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an operation writes into."""
    if not writes(func):
        return []
    given = dict(zip(argument_names(func), args, strict=False)) | dict(kwargs)
    return [given[name] for name in written_arguments(func) if isinstance(given.get(name), Tensor)]


def _shape(value: object) -> object:
    return torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, Tensor) else value
