"""The buffers of a fit's modules: what they hold at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyrolvm._base import randomness, runtime
from pyrolvm._methods.fit.engines.base import Work
from pyrolvm._program.problem import Problem

__all__ = ["buffers_of", "changed_buffers", "modules_of", "settle"]

PASSES = 50
"""Batches from which running averages are taken anew."""


def modules_of(problem: Problem, guide: Callable[..., object]) -> Mapping[str, torch.nn.Module]:
    """The modules of a model and its guide, by the names that a session fills their buffers by."""
    inner = getattr(guide, "guide", guide)
    return {**problem.modules, **({"guide": inner} if isinstance(inner, torch.nn.Module) else {})}


def buffers_of(problem: Problem, guide: Callable[..., object]) -> dict[str, Tensor]:
    """Copies of their buffers."""
    return runtime.buffers(modules_of(problem, guide))


def settle(work: Work) -> None:
    """Brings buffers, such as the running averages of batch normalisation, to where the parameters are.

    Compiled engines do not change buffers, and parameters that are gone back to have other ones. Where a run of guide and model
    changes them, guide and model run on some more batches.
    """
    before = buffers_of(work.problem, work.guide)
    if not before:
        return
    with randomness.random_state(work.seed, work.problem.device):
        _run(work)
        if changed_buffers(work, before):
            for _ in range(PASSES):
                _run(work)


def changed_buffers(work: Work, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The buffers that differ from ``before``, by the names of a session."""
    now = buffers_of(work.problem, work.guide)
    return {name: value for name, value in now.items() if name not in before or not torch.equal(value, before[name])}


def _run(work: Work) -> None:
    batch = work.aside()
    objective: Any = work.objective
    with torch.no_grad(), batch.active():
        objective.loss(work.problem.model, work.guide, *batch.args, **batch.kwargs)
