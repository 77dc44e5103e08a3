"""What a program is, as a checksum: two runs of the same one can be told from two of different ones."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._program import data

__all__ = ["fingerprint"]


def fingerprint(program: object) -> str:
    """A sha256 of a function's or module's code and of what the code refers to.

    Taken are its instructions and constants, not comments, docstrings or layout; default values; and what it finds in the scopes
    around it: numbers, text, arrays, and the functions and classes of the same top-level package or file, likewise.
    Of an ``nn.Module`` the structure counts, and not the values of its parameters, which a fit changes. It begins with the version
    of Python, on which instructions depend.
    """
    digest = hashlib.sha256()
    for part in _parts(program, _root(program), set()):
        digest.update(part.encode() + b"\0")
    return f"py{sys.version_info[0]}.{sys.version_info[1]}:{digest.hexdigest()}"


def _root(program: object) -> str:
    """The top-level package of a program."""
    while isinstance(program, functools.partial):
        program = program.func
    module = getattr(program, "__module__", None) or type(program).__module__
    return str(module).partition(".")[0]


def _parts(value: object, root: str, seen: set[int]) -> Iterator[str]:
    """What a value is made of, in words."""
    if isinstance(value, functools.partial):
        yield "partial"
        yield from _all([value.func, *value.args, *sorted(value.keywords.items())], root, seen)
    elif isinstance(value, MethodType):
        yield from _all([value.__func__, value.__self__], root, seen)
    elif isinstance(value, FunctionType):
        yield from _function(value, root, seen)
    elif isinstance(value, type):
        yield from _class(value, root, seen)
    elif isinstance(value, Tensor | np.ndarray):
        yield data.fingerprint([torch.as_tensor(value)] if not _is_text(value) else [str(value.tolist())])
    elif isinstance(value, torch.nn.Module):
        yield repr(value)
        for part in {type(module): None for module in value.modules()}:
            yield from _parts(part, root, seen)
    elif isinstance(value, bool | int | float | complex | str | bytes | type(None)):
        yield f"{type(value).__name__} {value!r}"
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__} of {len(value)}"
        yield from _all(value, root, seen)
    elif isinstance(value, Mapping):
        yield f"mapping of {len(value)}"
        yield from _all([item for pair in value.items() for item in pair], root, seen)
    elif callable(value) and _root(value) == root:
        yield from _class(type(value), root, seen)
    else:
        yield f"a {type(value).__qualname__}"


def _is_text(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind not in "biufc"


def _all(values: Any, root: str, seen: set[int]) -> Iterator[str]:
    for value in values:
        yield from _parts(value, root, seen)


def _function(function: FunctionType, root: str, seen: set[int]) -> Iterator[str]:
    inner = inspect.unwrap(function)
    yield function.__qualname__.rpartition(".")[2]
    if id(function) in seen or _root(inner) != root:
        return
    seen.add(id(function))
    yield from _code(function.__code__)
    yield from _all([function.__defaults__, function.__kwdefaults__], root, seen)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name
        try:
            yield from _parts(cell.cell_contents, root, seen)
        except ValueError:  # not bound yet
            yield "nothing"
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            yield name
            yield from _global(function.__globals__[name], root, seen)


def _global(value: object, root: str, seen: set[int]) -> Iterator[str]:
    if isinstance(value, Callable | type) and not isinstance(value, torch.nn.Module) and _root(value) != root:  # type: ignore[arg-type]
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    else:
        yield from _parts(value, root, seen)


def _class(kind: type, root: str, seen: set[int]) -> Iterator[str]:
    yield f"{kind.__module__}.{kind.__qualname__}"
    if id(kind) in seen or _root(kind) != root:
        return
    seen.add(id(kind))
    for name, value in sorted(vars(kind).items()):
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if isinstance(value, property):
            value = value.fget
        if isinstance(value, FunctionType | int | float | str) and name not in (
            "__doc__",
            "__module__",
            "__firstlineno__",
        ):
            yield name
            yield from _parts(value, root, seen)
    yield from _all(kind.__bases__, root, seen)


def _code(code: CodeType) -> Iterator[str]:
    """Instructions and constants, without line numbers and docstrings."""
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))
    for i, constant in enumerate(code.co_consts):
        if isinstance(constant, CodeType):
            yield from _code(constant)
        elif not (
            i == 0 and isinstance(constant, str)
        ):  # a docstring comes first; a text that is used does as well, but also later
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)


def _names(code: CodeType) -> set[str]:
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*(_names(one) for one in inner))
