"""Where a problem comes from, in words, for those who read a result later."""

from __future__ import annotations

import inspect
import math
from typing import Any

from torch import Tensor, nn

from pyrolvm._program.program import Program
from pyrolvm._report.origin import ORIGIN, Origin
from pyrolvm._runs.identity import versions

__all__ = ["SOURCE", "origin_of", "with_origin"]

SOURCE = "__pyrolvm_source__"
"""The attribute of a program that was made of a text."""
HASHED = 2**25
"""Bytes of data up to which their checksum is taken for this alone; of a run that is kept it is taken anyway."""
LONGEST = 12_000
"""Letters of a program that are kept, since attributes of netCDF hold no more than 64 kB."""


def origin_of(problem: Program) -> Origin:
    """What a problem is: its program's name and text, the shapes of its data, their checksum, and the versions of packages."""
    function = inspect.unwrap(problem.function)
    named = function if hasattr(function, "__qualname__") else type(function)
    return Origin(
        problem.name, f"{named.__module__}.{named.__qualname__}", _shapes(problem), _digest(problem), _source(named),
        ", ".join(f"{name} {number}" for name, number in versions().items()),
    )  # fmt: skip


def with_origin(attributes: dict[str, Any], problem: Program) -> dict[str, Any]:
    """Attributes of a tree, and where its problem comes from."""
    return {**attributes, ORIGIN: origin_of(problem).stored()}


def _shapes(problem: Program) -> str:
    return ", ".join(f"{name} ({_shape(value)})" for name, value in problem.arguments.items())


def _shape(value: object) -> str:
    if isinstance(value, Tensor):
        sizes = " x ".join(map(str, value.shape)) or "one number"
        return f"{sizes}, {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, dict | list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return repr(value) if isinstance(value, bool | int | float | str | None) else type(value).__name__


def _digest(problem: Program) -> str:
    """The checksum of the data, where it is known or takes a moment.

    Not of modules among them: this is asked within a fit, while they hold what it has found.
    """
    if "fingerprint" in problem.__dict__:
        return problem.fingerprint
    if problem.stream is not None or any(_has_module(value) for value in problem.arguments.values()):
        return ""
    if _bytes(list(problem.arguments.values())) > HASHED:
        return ""
    return problem.fingerprint


def _has_module(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_module, value.values()))
    return isinstance(value, nn.Module) or (isinstance(value, list | tuple) and any(map(_has_module, value)))


def _bytes(value: object) -> int:
    """About how many bytes data have."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, nn.Module):
        return sum(_bytes(one) for one in value.state_dict().values())
    if isinstance(value, dict):
        return sum(_bytes(one) for one in value.values())
    if isinstance(value, list | tuple):
        return sum(_bytes(one) for one in value[:1000]) * math.ceil(len(value) / 1000)
    return 0


def _source(function: Any) -> str:
    """The text of a program; empty where it was typed at a prompt or is compiled."""
    text = getattr(function, SOURCE, None)
    try:
        text = text or inspect.getsource(function)
    except (OSError, TypeError):
        return ""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n... ({len(text) - LONGEST:,} letters more)"
