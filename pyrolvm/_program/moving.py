"""Moves what a program holds besides its data to another device or dtype: modules, and tensors of its closure, defaults and globals."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyrolvm._compat.python import is_named_tuple
from pyrolvm._program.binding import is_filled
from pyrolvm._program.program import ModelInfo

__all__ = ["copy_program", "move_info", "move_program"]


def move_program(
    program: Callable[..., Any], *, dtype: torch.dtype | None, device: torch.device | None
) -> Callable[..., Any]:
    """The same program on a device and in a floating dtype; what it holds is copied, and shared parts stay shared.

    Followed are modules, bound methods, partial applications with Pyro's handlers among them, and functions: the variables of the
    function that they were defined in, their defaults, and the tensors and modules among the globals that they name. A program that
    holds nothing to be moved is itself.

    Args:
        program: a Pyro function, module, or callable object.
        dtype: the floating dtype; ``None`` to leave it.
        device: the device; ``None`` to leave it.
    """
    found: Callable[..., Any] = _Mover(dtype, device)(program)
    return found


def copy_program(program: Callable[..., Any]) -> Callable[..., Any]:
    """The same program with modules of its own, as they are now."""
    return move_program(program, dtype=None, device=None)


def move_info(info: ModelInfo, *, dtype: torch.dtype | None, device: torch.device | None) -> ModelInfo:
    """What a model says about itself, with quantities that compute where its draws will lie."""
    mover = _Mover(dtype, device)
    moved = {name: mover(quantity) for name, quantity in info.quantities.items()}
    return replace(info, quantities=moved) if any(moved[n] is not q for n, q in info.quantities.items()) else info


class _Mover:
    """Moves values, each once."""

    def __init__(self, dtype: torch.dtype | None, device: torch.device | None) -> None:
        self.dtype, self.device = dtype, device
        self._done: dict[int, tuple[Any, Any]] = {}  # with the original, whose identity nothing else may take

    def __call__(self, value: Any) -> Any:
        known = self._done.get(id(value))
        if known is None:
            self._done[id(value)] = (value, value)  # what holds itself ends here
            self._done[id(value)] = known = (value, self._moved(value))
        return known[1]

    def _moved(self, value: Any) -> Any:
        if isinstance(value, torch.nn.Module):
            return copy.deepcopy(value).to(device=self.device, dtype=self.dtype)
        if isinstance(value, Tensor):
            return value.to(device=self.device, dtype=self.dtype if value.is_floating_point() else None)
        if isinstance(value, functools.partial):
            parts = self._several((value.func, value.args, value.keywords))
            same = all(new is old for new, old in zip(parts, (value.func, value.args, value.keywords), strict=True))
            return value if same else functools.partial(parts[0], *parts[1], **parts[2])
        if isinstance(value, types.MethodType):
            owner = self._owner(value.__self__)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, tuple | list | dict):
            return self._collection(value)
        holder = callable(value) or is_dataclass(value) or isinstance(value, types.SimpleNamespace)
        return self._owner(value) if holder else value

    def _several(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(self, values))

    def _collection(self, value: Any) -> Any:
        if isinstance(value, dict):
            moved = {key: self(item) for key, item in value.items()}
            return moved if any(moved[key] is not item for key, item in value.items()) else value
        parts = self._several(tuple(value))
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if is_named_tuple(value) else type(value)(parts)

    def _owner(self, owner: Any) -> Any:
        """An object with what it holds moved: itself where there is nothing, else a shallow copy."""
        if isinstance(owner, torch.nn.Module):
            return self(owner)
        held = getattr(owner, "__dict__", None)
        if isinstance(owner, type | types.ModuleType) or not held:
            return owner
        moved = {name: self(item) for name, item in held.items()}
        if all(moved[name] is item for name, item in held.items()):
            return owner
        copied = copy.copy(owner)
        copied.__dict__.update(moved)
        return copied

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        """A function of the same code with what it refers to moved; itself where nothing is."""
        cells = function.__closure__ or ()
        contents = [cell.cell_contents if is_filled(cell) else None for cell in cells]
        closure = [self(item) for item in contents]
        defaults, keywords = self(function.__defaults__ or ()), self(function.__kwdefaults__ or {})
        named = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
        globals_ = {n: self(v) for n, v in named.items() if isinstance(v, Tensor | torch.nn.Module)}
        wrapped = function.__dict__.get("__wrapped__")
        changed = any(new is not old for new, old in zip(closure, contents, strict=True))
        changed |= any(globals_[name] is not named[name] for name in globals_)
        changed |= defaults is not (function.__defaults__ or defaults) or keywords is not (
            function.__kwdefaults__ or keywords
        )
        if not changed:
            return function
        filled = tuple(
            types.CellType(new) if is_filled(cell) else cell for new, cell in zip(closure, cells, strict=True)
        )
        moved = types.FunctionType(
            function.__code__, {**function.__globals__, **globals_} if globals_ else function.__globals__,
            function.__name__, defaults or None, filled or None,
        )  # fmt: skip
        moved.__kwdefaults__ = keywords or None
        moved.__qualname__, moved.__module__, moved.__doc__ = (
            function.__qualname__,
            function.__module__,
            function.__doc__,
        )
        moved.__dict__.update(function.__dict__)
        if wrapped is not None:
            moved.__dict__["__wrapped__"] = self(wrapped)
        return moved


def _names(code: types.CodeType) -> set[str]:
    """The names that a function, and those that are defined in it, read from outside."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))
