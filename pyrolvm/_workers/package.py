"""Functions and data for another process, in memory; what comes from a file is never read this way."""

from __future__ import annotations

import functools
import hashlib
import inspect
import pickle
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyrolvm._base.pickling import dumps

_OWN = ("pyrolvm", "pyro", "torch", "numpy")
"""Packages that every worker has, wherever they are installed."""

__all__ = ["Content", "Unfit", "packed", "unpacked"]


class Unfit(Exception):
    """Something cannot be handed to another process."""


@dataclass(frozen=True)
class Content:
    """Bytes that a cache knows by their checksum."""

    content: bytes = field(compare=False, repr=False)
    digest: str

    @classmethod
    def of(cls, content: bytes) -> Content:
        """The content with its checksum."""
        return cls(content, hashlib.sha256(content).hexdigest())


def packed(value: object, *, code: Iterable[object] = ()) -> bytes:
    """``value`` for another process; functions of scripts, notebooks and modules that are not installed go along by value.

    Args:
        value: what to send.
        code: the functions and objects in it that a user wrote, whose modules the other process may not find.

    Raises:
        Unfit: if it holds what cannot be pickled, such as a lock or an open file.
    """
    import cloudpickle

    by_value = []
    for name in {module for part in code for module in _modules(part)}:
        module = sys.modules.get(name)
        if (
            module is None
            or is_installed(name)
            or name == "__main__"
            or name in cloudpickle.list_registry_pickle_by_value()
        ):
            continue
        cloudpickle.register_pickle_by_value(module)
        by_value.append(module)
    try:
        return dumps(value)
    except Exception as error:  # whatever an object says about itself when it is pickled
        raise Unfit(f"{type(error).__name__}: {error}") from None
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)


def unpacked(content: bytes) -> Any:
    """What :func:`packed` packed, in the process that it was sent to.

    Raises:
        Unfit: if it cannot be put together again here.
    """
    try:
        return pickle.loads(content)  # from our own parent, through memory
    except Exception as error:
        raise Unfit(f"{type(error).__name__}: {error}") from None


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


def _modules(part: object) -> set[str]:
    """The modules of a function or object, and those of the functions that its own names."""
    found: set[str] = set()
    waiting, seen = [part], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, functools.partial):
            waiting += [part.func, *part.args]
            continue
        waiting += [cell.cell_contents for cell in getattr(part, "__closure__", None) or () if _full(cell)]
        name = getattr(part, "__module__", None) or type(part).__module__
        if not isinstance(name, str) or is_installed(name):
            continue
        found.add(name)
        used, code = getattr(part, "__globals__", None), getattr(part, "__code__", None)
        if used is not None and code is not None:
            named = (used[name] for name in code.co_names if name in used)
            waiting += [value for value in named if inspect.isroutine(value) or inspect.isclass(value)]
    return found


def _full(cell: Any) -> bool:
    try:
        return callable(cell.cell_contents)
    except ValueError:
        return False
