"""Which data are which arguments of a model, and the function that its author wrote."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from pyrolvm._base.errors import ProblemError

__all__ = ["Wrapped", "bind", "called_of", "function_of", "is_filled", "written"]


class Wrapped:
    """A program around another one, of the same arguments."""

    inner: Callable[..., object]


def written(model: Callable[..., object]) -> Callable[..., object]:
    """A program without what was put around it here."""
    return written(model.inner) if isinstance(model, Wrapped) else model


def _without_handlers(model: Callable[..., object]) -> Callable[..., object]:
    """The model under Pyro's handlers, as in ``poutine.reparam(model, config)``, which take the same arguments."""
    while True:
        if isinstance(model, functools.partial) and _is_handler(model.func):
            model = model.args[-1]
        elif _is_handler(type(model)) and hasattr(model, "fn"):
            model = model.fn
        elif isinstance(model, Wrapped):
            model = model.inner
        else:
            return model


def _is_handler(kind: object) -> bool:
    return str(getattr(kind, "__module__", "")).startswith("pyro.poutine")


def function_of(model: Callable[..., object]) -> Callable[..., object]:
    """The function that the user wrote, which has a name and what it says about itself."""
    model = _without_handlers(model)
    return function_of(model.func) if isinstance(model, functools.partial) else model


def called_of(model: Callable[..., object]) -> Callable[..., object]:
    """What takes the arguments of a model, under handlers and inside of a module."""
    called = _without_handlers(model)
    return called.forward if isinstance(called, torch.nn.Module) else called


def bind(
    model: Callable[..., object], name: str, args: Sequence[object], kwargs: Mapping[str, object]
) -> dict[str, object]:
    """Maps the model's arguments to their names.

    Raises:
        ProblemError: if the model cannot be called with them.
    """
    try:
        signature = inspect.signature(called_of(model))
    except (TypeError, ValueError):
        return {**{f"arg{i}": value for i, value in enumerate(args)}, **kwargs}
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        wanted = [p.name for p in signature.parameters.values() if p.default is p.empty and p.name not in kwargs]
        hint = next((text for text in (_table_hint(value, wanted) for value in args) if text), "")
        plain = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
        shown = signature.replace(parameters=plain, return_annotation=signature.empty)
        raise ProblemError(
            f"{name}{shown} cannot be called with the given data: {error}. "
            f"Fix: lvm.Problem({name}, ...) takes exactly the arguments of the model.{hint}"
        ) from None
    return {**dict(zip(_positional_names(signature, len(args)), args, strict=True)), **kwargs}


def _table_hint(value: object, wanted: Sequence[str]) -> str:
    """What to do with a value that holds several arguments."""
    if isinstance(value, DataLoader | Dataset):
        return " The batches of a loader are the columns of a stream: lvm.Problem(model, *lvm.stream(loader))."
    columns = getattr(value, "columns", None)
    if columns is None or callable(columns):
        return ""
    listed = list(columns)
    lacking = [name for name in wanted if name not in listed]
    shown = ", ".join(map(repr, listed[:8])) + (", ..." if len(listed) > 8 else "")
    return (
        f" A {type(value).__name__} is taken apart by name where it has a column for each argument; it has none called "
        f"{' or '.join(map(repr, lacking))} (it has {shown}): rename them, or give what is no column by name, "
        f"lvm.Problem(model, data, {lacking[0] if lacking else 'n'}=...)."
    )


def _positional_names(signature: inspect.Signature, count: int) -> Iterable[str]:
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}{i}" for i in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return names[:count]


def is_filled(cell: types.CellType) -> bool:
    """Whether a variable of an enclosing function has a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
