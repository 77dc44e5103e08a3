"""Trained modules out of a fit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch

from pyrolvm._base.errors import ArgumentError, unknown_name
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import plate_of_rows
from pyrolvm._results.draws import rebuild
from pyrolvm.family.guide import NO_LATENTS, Guide

__all__ = ["trained"]


def trained(problem: Problem, fitted: Guide | None, name: str | None) -> torch.nn.Module:
    """A copy of a module with the parameters and buffers of a fit, inside its session; see :meth:`pyrolvm.Fit.module`."""
    plate = plate_of_rows(problem)
    batch = problem.whole if plate is None else problem.batch(torch.arange(1), plate=plate.name)
    with _registrations() as found, torch.no_grad():
        batch.trace(problem)
        if fitted is not None and fitted.name != NO_LATENTS:
            guide: object = rebuild(problem, fitted)
            inner = getattr(guide, "guide", guide)
            if isinstance(inner, torch.nn.Module):
                found.setdefault(fitted.name, inner)
        for key, module in problem.modules.items():
            found.setdefault(key, module)
        if not found:
            raise ArgumentError(f"{problem.name} has no module. Fix: its parameters are in fit.params, by name.")
        if name is None and len({id(module) for module in found.values()}) > 1:
            raise ArgumentError(f"{problem.name} has several modules. Fix: name one of {', '.join(map(repr, found))}.")
        if name is not None and name not in found:
            raise unknown_name(f"module of {problem.name}", name, found)
        module = found[name] if name is not None else next(iter(found.values()))
        return copy.deepcopy(module).eval().requires_grad_(False)


@contextmanager
def _registrations() -> Iterator[dict[str, torch.nn.Module]]:
    """Yields a dictionary that fills with the modules that programs register by ``pyro.module``, by their names."""
    inner, found = pyro.module, {}

    def module(name: str, nn_module: Any, *args: Any, **kwargs: Any) -> Any:
        found[name] = nn_module
        return inner(name, nn_module, *args, **kwargs)

    pyro.module = pyro.primitives.module = module
    try:
        yield found
    finally:
        pyro.module = pyro.primitives.module = inner
