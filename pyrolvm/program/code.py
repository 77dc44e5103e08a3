"""A fingerprint of code: whether a model, a guide or a method is still the one that it was."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["code_fingerprint", "is_installed"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), torch.dtype, torch.device, torch.Size)
_OWN = ("pyrolvm", "pyro", "torch", "numpy")


def code_fingerprint(*values: Any) -> str:
    """A sha256 of what functions, modules and options would do, as far as that can be read.

    Of functions it takes the compiled code with its constants, defaults and what it closes over, and the functions and plain
    values among the globals that it names, and theirs. What comes with installed packages counts by its name alone: versions
    are another matter. Comments and line numbers count for nothing; another version of Python compiles to other code.

    Args:
        *values: functions, classes, modules of networks, tensors, arrays, numbers, text, and containers of them.
    """
    reader = _Reader()
    for value in values:
        reader.read(value, 0)
    return reader.digest.hexdigest()


def is_installed(module: str | None) -> bool:
    """Whether a module comes with Python or an installed package, so that another process finds the same one by its name."""
    if module is None or module in ("builtins", "__main__"):
        return module == "builtins"
    if module.partition(".")[0] in (*sys.stdlib_module_names, *_OWN):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and any(part in _site() for part in Path(file).parents)


@functools.cache
def _site() -> frozenset[Path]:
    return frozenset(Path(sysconfig.get_paths()[name]) for name in ("purelib", "platlib"))


class _Reader:
    """Reads values into a digest, each object once."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._held: list[Any] = []

    def read(self, value: Any, depth: int) -> None:
        if isinstance(value, _PLAIN):
            self._say(f"{type(value).__name__}:{value!r}")
            return
        if id(value) in self._seen:
            self._say(f"again:{self._seen[id(value)]}")
            return
        self._seen[id(value)] = len(self._seen)
        self._held.append(value)  # an id is that of one object only while the object lives
        if isinstance(value, Tensor | np.ndarray | np.generic):
            array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
            self._say(f"array:{array.dtype}{array.shape}")
            self.digest.update(np.ascontiguousarray(array).tobytes() if array.dtype != object else repr(array).encode())
        elif isinstance(value, Mapping):
            self._say(f"mapping:{len(value)}")
            for key, item in value.items():
                self.read(key, depth + 1)
                self.read(item, depth + 1)
        elif isinstance(value, list | tuple):
            self._say(f"{type(value).__name__}:{len(value)}")
            for item in value:
                self.read(item, depth + 1)
        elif isinstance(value, set | frozenset):
            self._say(f"set:{sorted(map(repr, value))}")
        elif isinstance(value, functools.partial):
            self._say("partial")
            for part in (value.func, value.args, value.keywords):
                self.read(part, depth + 1)
        elif isinstance(value, CodeType):
            self._code(value, depth)
        elif isinstance(value, MethodType):
            self._say("method")
            self.read(value.__func__, depth + 1)
            self.read(value.__self__, depth + 1)
        elif isinstance(value, FunctionType):
            self._function(value, depth)
        elif isinstance(value, ModuleType):
            self._say(f"module:{value.__name__}")
        elif inspect.isclass(value):
            self._class(value, depth)
        elif isinstance(value, torch.nn.Module):
            self._say(f"network:{value!r}")
            self.read(type(value), depth + 1)
            self.read(dict(value.state_dict()), depth + 1)
        else:
            self._object(value, depth)

    def _say(self, text: str) -> None:
        self.digest.update(f"{len(text)}:{text}".encode())

    def _function(self, function: FunctionType, depth: int) -> None:
        self._say(f"function:{function.__qualname__}")
        if depth and is_installed(function.__module__):
            self._say(str(function.__module__))
            return
        self._code(function.__code__, depth)
        self.read(function.__defaults__, depth + 1)
        self.read(function.__kwdefaults__, depth + 1)
        for cell in function.__closure__ or ():
            try:
                self.read(cell.cell_contents, depth + 1)
            except ValueError:
                self._say("empty cell")
        for name in sorted(_names(function.__code__)):
            if name in function.__globals__:
                self._say(f"global:{name}")
                self.read(function.__globals__[name], depth + 1)

    def _code(self, code: CodeType, depth: int) -> None:
        self._say(
            f"code:{code.co_argcount}:{code.co_kwonlyargcount}:{code.co_flags}:{code.co_names}:{code.co_varnames}"
        )
        self.digest.update(code.co_code)
        consts = code.co_consts
        if (
            consts and isinstance(consts[0], str) and code.co_flags & 0x2
        ):  # of a function the first is its docstring, if any
            consts = consts[1:]
        for constant in consts:
            self.read(constant, depth + 1)

    def _class(self, kind: type, depth: int) -> None:
        self._say(f"class:{kind.__module__}.{kind.__qualname__}")
        if is_installed(kind.__module__):
            return
        for name, item in sorted(vars(kind).items()):
            if isinstance(item, staticmethod | classmethod):
                item = item.__func__
            if isinstance(item, (FunctionType, property, *_PLAIN)) and not name.startswith("__doc"):
                self._say(name)
                self.read(item.fget if isinstance(item, property) else item, depth + 1)
        for base in kind.__bases__:
            self.read(base, depth + 1)

    def _object(self, value: Any, depth: int) -> None:
        self._say(f"object:{type(value).__module__}.{type(value).__qualname__}")
        self.read(type(value), depth + 1)
        held = getattr(value, "__dict__", None)
        if isinstance(held, dict) and not is_installed(type(value).__module__):
            self.read(dict(sorted(held.items())), depth + 1)


def _names(code: CodeType) -> set[str]:
    """The names of globals that code and the functions inside it may read."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))
