"""Trained modules out of a fit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyro
import torch

from pyrolvm.errors import ArgumentError, unknown_name
from pyrolvm.posterior.draws import rebuild
from pyrolvm.posterior.likelihood import row_plate
from pyrolvm.program.guide import NO_LATENTS

if TYPE_CHECKING:
    from pyrolvm.posterior.base import Fit

__all__ = ["trained"]


def trained(fit: Fit, name: str | None) -> torch.nn.Module:
    """A copy of a module with the parameters and buffers of a fit; see :meth:`pyrolvm.Fit.module`.

    Must be called inside a session with them.
    """
    problem = fit.attached
    plate = row_plate(problem)
    batch = problem.whole if plate is None else problem.batch(torch.arange(1), plate=plate.name)
    with _registrations() as found, torch.no_grad():
        batch.trace(problem)
        if fit.guide is not None and fit.guide.name != NO_LATENTS:
            guide: Any = rebuild(problem, fit.guide)
            inner = getattr(guide, "guide", guide)
            if isinstance(inner, torch.nn.Module):
                found.setdefault(fit.guide.name, inner)
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
