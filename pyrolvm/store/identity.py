"""Which run a folder is of: its method, model, data, guide, options, seed and versions, and what differs between two."""

from __future__ import annotations

import functools
import json
import platform
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pyrolvm.errors import ArgumentError, PyrolvmWarning, StoreError
from pyrolvm.program.code import fingerprint
from pyrolvm.program.guide import Guide
from pyrolvm.program.problem import Problem

__all__ = ["ANY_VERSION", "check", "check_resume", "describe", "differences", "identity", "versions"]

ANY_VERSION = "any-version"
"""What ``resume`` may be besides true and false: to go on under other versions than the run began with."""

_PACKAGES = ("pyrolvm", "torch", "pyro-ppl", "numpy", "jax", "jaxlib", "numpyro", "nutpie")
_VERSIONS = "version of "


def versions() -> dict[str, str]:
    """The versions that numbers may depend on."""
    found = {"python": sys.version.split()[0], "machine": platform.machine()}
    for name in _PACKAGES:
        try:
            found[name] = _version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@functools.cache
def _version(name: str) -> str:
    return version(name)


def identity(
    method: str | None, problem: Problem, guide: Guide | None, seed: int, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Which run it is: what must be the same for another run to continue it, as JSON holds it.

    Args:
        method: the type of its result; ``None`` where which method and guide it ends with is the result's to say.
        problem: the problem, in the dtype that it runs in.
        guide: its guide, if it has one.
        seed: its seed.
        options: the arguments that its numbers depend on.
    """
    found: dict[str, Any] = {
        "method": method, "problem": problem.name, "model code": fingerprint(problem.program), "data": problem.fingerprint,
        "dtype": str(problem.dtype).removeprefix("torch."),
        "guide": str(guide) if guide else None, "guide code": fingerprint(guide.construct) if guide else None, "seed": seed,
    }  # fmt: skip
    if method is None:
        found = {what: value for what, value in found.items() if what not in ("method", "guide", "guide code")}
    found |= {name: describe(value) for name, value in (options or {}).items()}
    return found | {f"{_VERSIONS}{name}": value for name, value in versions().items()}


def describe(value: Any) -> Any:
    """An argument as JSON holds it: values as they are, functions by their code, objects by their type and settings."""
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
        from pyrolvm.program import data

        return data.fingerprint([value])
    if isinstance(value, Callable) and hasattr(value, "__code__"):  # type: ignore[arg-type]
        return fingerprint(value)
    settings = {
        name: describe(one)
        for name, one in sorted(getattr(value, "__dict__", {}).items())
        if isinstance(one, bool | int | float | str | type | Mapping | type(None))
    }
    return {"type": f"{type(value).__module__}.{type(value).__qualname__}", **settings}


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What is another in two runs, with both values; what one of them does not say is left out."""
    wanted = json.loads(json.dumps(wanted))
    return {
        what: (found[what], value)
        for what, value in wanted.items()
        if what in found and found[what] != value and not (what.endswith(" code") and _unlike(found[what], value))
    }


def _unlike(one: Any, other: Any) -> bool:
    """Whether two checksums of code are of different versions of Python, and say nothing about each other."""
    return None not in (one, other) and str(one).partition(":")[0] != str(other).partition(":")[0]


def check(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], resume: bool | str) -> None:
    """Refuses to continue a run that is another one, and says what differs.

    Raises:
        StoreError: with the differences.
    """
    other = differences(found, wanted)
    old = {what: values for what, values in other.items() if what.startswith(_VERSIONS)}
    if set(other) - set(old):
        raise StoreError(
            f"{folder} was made with another {_told(other)}. Fix: name another folder, or use the same inputs."
        )
    if not old:
        return
    if resume != ANY_VERSION:
        raise StoreError(
            f"{folder} was made with another {_told(old)}, and under it the rest of the run would have other numbers. "
            f'Fix: use the same versions, pass resume="{ANY_VERSION}" to go on all the same, or name another folder.'
        )
    warnings.warn(
        f"{folder} goes on with another {_told(old)}: its numbers are not those of an uninterrupted run. Fix: none is needed, as it "
        "was asked for.",
        PyrolvmWarning,
        stacklevel=4,
    )


def warn_of(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Warns of what differs between a result and the problem and guide that it is loaded with."""
    other = differences(found, wanted)
    if other:
        warnings.warn(
            f"{folder} was made with another {_told(other)}: what it holds is unchanged, fresh draws and densities are of the program "
            "as it is now. Fix: pass the model and guide that it was made with.",
            PyrolvmWarning,
            stacklevel=4,
        )


def check_resume(resume: object) -> None:
    """Refuses what is no way to resume.

    Raises:
        ArgumentError: if it is neither true nor false nor ``"any-version"``.
    """
    if not isinstance(resume, bool) and resume != ANY_VERSION:
        raise ArgumentError(f'resume must be True, False or "{ANY_VERSION}", got {resume!r}. Fix: pass resume=True.')


def _told(other: Mapping[str, tuple[Any, Any]]) -> str:
    return "; another ".join(f"{what}: {_short(was)}, now {_short(now)}" for what, (was, now) in other.items())


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:24]}..."
