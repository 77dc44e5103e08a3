"""What the numbers of a run depend on: its method, model, data, guide, options, seed and versions."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, MethodType
from typing import Any

import numpy as np
import torch

from pyrolvm._base.asking import counts
from pyrolvm._program import data
from pyrolvm._program.code import fingerprint
from pyrolvm._program.problem import Problem
from pyrolvm._runs.identity import VERSION, versions
from pyrolvm.family.guide import Guide

__all__ = ["counted", "describe", "identity"]

OWN = ("seed", "dtype")
"""What an identity has of its own: the seed, and the dtype that the problem runs in."""


def identity(
    method: str | None,
    problem: Problem | None,
    guide: Guide | None,
    seed: int,
    options: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Which run it is: what must be the same for another run to continue it, as JSON holds it.

    Args:
        method: the type of its result; ``None`` where which method and guide it ends with is the result's to say.
        problem: the problem, in the dtype that it runs in; ``None`` where the run is of a result that was loaded without its own.
        guide: its guide, if it has one.
        seed: its seed.
        options: the arguments that its numbers depend on.
    """
    found: dict[str, object] = {
        "method": method, **({} if problem is None else _problem(problem)),
        "guide": str(guide) if guide else None, "guide code": fingerprint(guide.construct) if guide else None, "seed": seed,
    }  # fmt: skip
    if method is None:
        found = {what: value for what, value in found.items() if what not in ("method", "guide", "guide code")}
    found |= {name: describe(value) for name, value in (options or {}).items()}
    return found | {f"{VERSION}{name}": value for name, value in versions().items()}


def _problem(problem: Problem) -> dict[str, object]:
    return {
        "problem": problem.name, "model code": fingerprint(problem.program), "data": problem.fingerprint,
        "dtype": str(problem.dtype).removeprefix("torch."),
    }  # fmt: skip


def counted(
    verb: Callable[..., Any], given: Mapping[str, Any], resolved: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The arguments of a call that its numbers depend on: the keywords of its signature but for those of :mod:`pyrolvm._base.asking`.

    Args:
        verb: the function that was called.
        given: its arguments by name.
        resolved: what some of them came to, where that is what counts; and what else counts.
    """
    keywords = (one for one in inspect.signature(verb).parameters.values() if one.kind is one.KEYWORD_ONLY)
    names = [one.name for one in keywords if counts(one.name) and one.name not in OWN]
    return {name: given[name] for name in names} | dict(resolved or {})


def describe(value: Any) -> Any:
    """An argument as JSON holds it: values as they are, functions by their code, objects by their type and settings."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.device | torch.dtype):
        return str(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Mapping):
        return {str(key): describe(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [describe(one) for one in value]
    if isinstance(value, torch.Tensor):
        return data.fingerprint([value])
    if isinstance(value, Problem):
        return {"problem": value.name, "code": fingerprint(value.program), "data": value.fingerprint}
    if isinstance(getattr(value, "data", None), _tree_type()):
        drawn = value.data["posterior"].to_dataset().data_vars.values()
        return {
            "result": value.name,
            "params": describe(value.params),
            "draws": [describe(one.values) for one in drawn],
        }
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        plain = array.dtype.kind in "biuf"
        return data.fingerprint([torch.from_numpy(np.array(array, order="C")) if plain else repr(array.tolist())])
    if isinstance(value, functools.partial):
        return {"partial of": describe(value.func), "args": describe(value.args), "keywords": describe(value.keywords)}
    if isinstance(value, MethodType):
        return {"method": fingerprint(value.__func__), "of": describe(value.__self__)}
    if isinstance(value, BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Callable) and hasattr(value, "__code__"):  # type: ignore[arg-type]
        return fingerprint(value)
    settings = {
        name: describe(one)
        for name, one in sorted(getattr(value, "__dict__", {}).items())
        if isinstance(one, bool | int | float | str | type | Mapping | type(None))
    }
    return {"type": f"{type(value).__module__}.{type(value).__qualname__}", **settings}


def _tree_type() -> type:
    import xarray as xr

    return xr.DataTree
