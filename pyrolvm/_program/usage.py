"""What a model does with the tensors that it is given: watched during its first run.

Some uses of data are seldom meant and never raise: an index of -1, the code of a missing category, is the last group; integers
beyond 2^24 lose digits where they meet floats of 32 bits; data that a model changes in place are others in the next run.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyrolvm._base.errors import DataError, ProblemError
from pyrolvm._base.explain import current_line
from pyrolvm._compat.torch import memory_key
from pyrolvm._program.data import leaves
from pyrolvm._program.rounding import loss

__all__ = ["Leaves", "NamedIndex", "Watch", "surroundings"]

_INDEXING = frozenset(
    ("index_select", "gather", "take", "take_along_dim", "index_add", "index_copy", "index_fill", "index_put", "scatter", "scatter_add",
     "scatter_reduce", "embedding", "embedding_bag", "one_hot", "bincount")
)  # fmt: skip
_INDEX_FIRST = frozenset(("embedding", "embedding_bag", "one_hot", "bincount"))
_READING = frozenset(("item", "tolist", "__int__", "__index__", "numpy", "__array__"))
_MAKING = frozenset(("tensor", "as_tensor", "from_numpy", "asarray"))
_IN_PLACE = frozenset(
    f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "div", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
) | {"__setitem__"}  # fmt: skip
_NOT_IN_PLACE = frozenset(("requires_grad_", "share_memory_", "rename_", "retain_grad_"))
_EXACT = 2**24
"""Integers up to here are themselves as floats of 32 bits."""


class NamedIndex(ProblemError):
    """A program asks a tensor for a column by name."""


class Leaves(TorchFunctionMode):
    """Watches one run of a program for tensors with a gradient of their own.

    Args:
        what: the program, for messages.

    Attributes:
        bystanders: leaf tensors with a gradient of their own that the run used, parameters among them.

    Raises:
        ProblemError: if it uses tensors that were made in inference mode.
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.bystanders: list[Tensor] = []
        self._named: dict[int, str] = {}

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        """Runs a function of torch, and looks at what goes in."""
        kwargs = kwargs or {}
        for tensor in (*_tensors(args), *_tensors(kwargs.values())):
            self._check_leaf(tensor)
        return func(*args, **kwargs)

    def _check_leaf(self, tensor: Tensor) -> None:
        if tensor.is_inference():
            name = self._named.get(memory_key(tensor), f"a tensor of shape {tuple(tensor.shape)}")
            raise ProblemError(
                f"{self.what} uses {name}, which was made in torch.inference_mode and can have no part in a gradient"
                f"{_at(current_line())}. Fix: make it outside, or take a copy outside, tensor.clone()."
            )
        if tensor.requires_grad and tensor.is_leaf and not any(tensor is held for held in self.bystanders):
            self.bystanders.append(tensor)


def _parts(value: object) -> Iterator[dict[object, object] | list[object]]:
    """The dictionaries and lists in a value, itself among them."""
    if isinstance(value, dict | list | tuple):
        if not isinstance(value, tuple):
            yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _parts(item)


def _held(part: dict[object, object] | list[object]) -> dict[object, object]:
    """What a dictionary or a list holds, by key or place."""
    return dict(part) if isinstance(part, dict) else dict(enumerate(part))


class Watch(Leaves):
    """Watches one run of a model.

    Args:
        what: the program, for messages.
        arguments: its data by name.
        surroundings: tensors of the scopes around it, by name.

    Attributes:
        lossy: what integers lost where they became floats of 32 bits, by argument.

    Raises:
        DataError: if the run takes a negative number of the data for an index.
        ProblemError: if it changes data in place, or uses tensors that were made in inference mode.
    """

    def __init__(self, what: str, arguments: Mapping[str, object], surroundings: Mapping[str, Tensor]) -> None:
        super().__init__(what)
        self.lossy: dict[str, str] = {}
        self._given = {n: [leaf for leaf in leaves(v) if isinstance(leaf, Tensor)] for n, v in arguments.items()}
        self._from: dict[int, tuple[weakref.ref[Tensor], str]] = {}
        self._memories: dict[int, str] = {}
        self._read: dict[int, str] = {}
        self._copies: list[tuple[str, Tensor, Tensor]] = []
        self._containers = [(name, part, _held(part)) for name, value in arguments.items() for part in _parts(value)]
        for name, tensor in surroundings.items():
            self._named[memory_key(tensor)] = f"tensor {name!r} of the scope around it"
        for name, tensors in self._given.items():
            for tensor in tensors:
                self._named[memory_key(tensor)] = f"argument {name!r}"
                self._memories[memory_key(tensor)] = name
                self._mark(tensor, name)

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        """Runs a function of torch, and looks at what goes in and comes out."""
        kwargs = kwargs or {}
        name = str(getattr(func, "__name__", ""))
        tensors = [*_tensors(args), *_tensors(kwargs.values())]
        for tensor in tensors:
            self._check_leaf(tensor)
        self._check_in_place(func, name, args, kwargs)
        self._check_index(name, args, kwargs)
        found = func(*args, **kwargs)
        if name != "__get__":
            found = self._follow(name, tensors, found)
        return found

    def finish(self) -> None:
        """Looks for changes that went past torch: through NumPy's view of a tensor, or of dictionaries and lists.

        Raises:
            ProblemError: if there are any.
        """
        for name, tensor, before in self._copies:
            if not torch.equal(tensor.nan_to_num() if tensor.is_floating_point() else tensor, before):
                raise self._changed(f"argument {name!r}", "through its NumPy view")
        for name, part, items in self._containers:
            after = _held(part)
            lost = [key for key, item in items.items() if after.get(key) is not item]
            if lost or (isinstance(part, list) and len(after) > len(items)):
                what = f"by taking out or replacing [{lost[0]!r}]" if lost else "by a longer list"
                raise self._changed(f"argument {name!r}", what)

    # --- what comes from where ----------------------------------------------------------------------------------------

    def _mark(self, tensor: Tensor, name: str) -> None:
        self._from[id(tensor)] = (weakref.ref(tensor), name)

    def _origin(self, value: Any) -> str | None:
        """The argument that a tensor comes from."""
        held = self._from.get(id(value))
        return held[1] if held is not None and held[0]() is value else None

    def _follow(self, name: str, tensors: Iterable[Tensor], found: Any) -> object:
        """Notes which argument the results of a function come from."""
        tensors = list(tensors)
        origins = [(tensor, origin) for tensor in tensors if (origin := self._origin(tensor)) is not None]
        if name in _MAKING and self._read and isinstance(found, Tensor) and _is_integer(found):
            negative = {int(i) for i in found[found < 0].reshape(-1).tolist()}
            if negative and negative <= self._read.keys():
                self._mark(found, self._read[next(iter(negative))])
        if not origins:
            return found
        if name == "__iter__":
            items = list(found)
            for item in items:
                self._mark(item, origins[0][1])
            return iter(items)
        if name in _READING:
            self._note_read(name, *origins[0], found)
            return found
        for result in _tensors([found]):
            if result.is_floating_point() and name not in _INDEXING and name != "__getitem__":
                for tensor, origin in origins:
                    self._check_digits(tensor, origin, result.dtype)
            self._mark(result, origins[0][1])
        return found

    def _note_read(self, name: str, tensor: Tensor, origin: str, found: object) -> None:
        """Remembers negative integers that the program takes out of its data, and what NumPy can write to."""
        if name in ("numpy", "__array__"):
            if memory_key(tensor) in self._named:
                self._copies.append(
                    (origin, tensor, tensor.nan_to_num() if tensor.is_floating_point() else tensor.clone())
                )
        if _is_integer(tensor):
            self._read |= {int(i): origin for i in np.unique(np.asarray(found)).tolist() if i < 0}

    # --- checks -------------------------------------------------------------------------------------------------------

    def _check_in_place(self, func: Any, name: str, args: Any, kwargs: Mapping[str, Any]) -> None:
        targets = [kwargs["out"]] if isinstance(kwargs.get("out"), Tensor) else []
        writes = name in _IN_PLACE or (name.endswith("_") and not name.endswith("__") and name not in _NOT_IN_PLACE)
        sets_data = name == "__set__" and getattr(getattr(func, "__self__", None), "__name__", "") == "data"
        if (writes or sets_data or kwargs.get("inplace") is True) and args and isinstance(args[0], Tensor):
            targets.append(args[0])
        for target in targets:
            if memory_key(target) in self._named:
                raise self._changed(
                    self._named[memory_key(target)], f"by {name.strip('_') if name != '__setitem__' else 'assignment'}"
                )

    def _changed(self, named: str, how: str) -> ProblemError:
        return ProblemError(
            f"{self.what} changes {named} in place, {how}{_at(current_line())}, so that its density is another one in every run. "
            "Fix: work on a copy, such as x = x.clone()."
        )

    def _check_index(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Refuses a negative index that comes from the data."""
        base = name.rstrip("_") if not name.startswith("__") else name
        if base == "__getitem__" and isinstance(args[-1], str):
            origin = self._origin(args[0])
            raise NamedIndex(
                f"{self.what} asks {'a tensor' if origin is None else f'argument {origin!r}, a tensor,'} for {args[-1]!r}"
                f"{_at(current_line())}. Fix: pass the columns by name, a dictionary or a data frame, or index by number."
            )
        if base in ("__getitem__", "__setitem__") and len(args) > 1:
            indices: list[Any] = list(args[1]) if isinstance(args[1], tuple) else [args[1]]
        elif base in _INDEXING:
            indices = [*(args if base in _INDEX_FIRST else args[1:]), *kwargs.values()]
        else:
            return
        for index in indices:
            if isinstance(index, Tensor):
                origin = self._origin(index) or (self._memories.get(memory_key(index)) if _is_integer(index) else None)
                if origin is not None and _is_integer(index) and bool((index < 0).any()):
                    raise self._negative(origin, index)
            elif (
                self._read
                and len(indices) == 1
                and isinstance(index, int | list | np.ndarray)
                and not isinstance(index, bool)
            ):
                values = np.asarray(index)
                taken = [int(i) for i in values.reshape(-1).tolist() if i < 0] if values.dtype.kind == "i" else []
                if taken and set(taken) <= self._read.keys() and self._origin(args[0]) is None:
                    raise self._negative(self._read[taken[0]], torch.as_tensor(values))

    def _negative(self, origin: str, index: Tensor) -> DataError:
        for given in self._given.get(origin, []):
            bad = given < 0 if not given.dtype == torch.bool else torch.zeros_like(given)
            count = int(bad.sum())
            if count:
                place = tuple(int(i) for i in bad.nonzero()[0])
                value = given[place].item()
                at = f", the first ({value:g}) at {list(place)}" if place else f" ({value:g})"
                found = f"argument {origin!r} has {count} negative value{'s' * (count > 1)}{at}, and the model takes it for an index"
                break
        else:
            bad = index < 0
            first = index[tuple(bad.nonzero()[0])] if index.dim() else index
            found = f"the model computes an index from argument {origin!r} that is negative ({int(first)}) {int(bad.sum())} times"
        return DataError(
            f"{found}{_at(current_line())}: -1 is the last row, and in pandas the code of a missing category. Fix: drop "
            "those rows, or give "
            "them a group of their own; where the model masks them, index by index.clamp(min=0)."
        )

    def _check_digits(self, tensor: Tensor, origin: str, dtype: torch.dtype) -> None:
        if dtype != torch.float32 or origin in self.lossy or tensor.dtype != torch.int64 or not tensor.numel():
            return
        if int(tensor.abs().max()) <= _EXACT:
            return
        lost = loss(tensor.detach().cpu().numpy())
        if lost:
            self.lossy[origin] = (
                f"the model takes integers of argument {origin!r} as float32{_at(current_line())}, where it {lost}"
            )


def _at(line: str | None) -> str:
    return f" at {line}" if line else ""


def _is_integer(value: Tensor) -> bool:
    return value.dtype in (torch.int64, torch.int32, torch.int16, torch.int8)


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def surroundings(function: Callable[..., object]) -> dict[str, Tensor]:
    """The tensors that a function finds in the scopes around it, by name."""
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    scope = getattr(function, "__globals__", {})
    held = {name: scope[name] for name in code.co_names if name in scope}
    for name, cell in zip(code.co_freevars, getattr(function, "__closure__", None) or (), strict=True):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # not bound yet
            continue
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}
