"""What a fit looks at before it begins: the device, the rows of a step, whether there is something to train and a place to start."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from pyrolvm._base import runtime
from pyrolvm._base.errors import ArgumentError, FitError, GuideError
from pyrolvm._methods.fit.loop import blame
from pyrolvm._program.agreement import guide_sites
from pyrolvm._program.batching import Batch, Minibatches, check_minibatches
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import minibatch_plate
from pyrolvm._program.streamed import Streamed
from pyrolvm.family.guide import Guide

__all__ = ["check_start", "check_trainable", "choose_device", "draws_nothing", "minibatches_of"]


def choose_device(device: str | torch.device, problem: Problem) -> str | torch.device:
    """The device to run on: as asked, or a GPU for models with learnable networks where there is one."""
    if str(device) != "auto":
        return device
    return "cuda" if problem.parameters and torch.cuda.is_available() else problem.device


def minibatches_of(problem: Problem, batch_size: int | None, plate: str | None) -> Minibatches | Streamed | None:
    """Shuffled minibatches, as asked for or as the model itself subsamples, or a stream's; ``None`` for all rows each step."""
    if problem.stream is not None:
        if batch_size is not None:
            raise ArgumentError(
                f"batch_size={batch_size} is given, but the data of {problem.name!r} are a stream, whose batches have "
                f"{problem.stream.stream.batch_size} rows. Fix: give it to lvm.stream."
            )
        return Streamed.of(problem, plate)
    if batch_size is None:
        own = next((plate for plate in problem.plates.values() if plate.subsampled), None)
        return None if own is None else Minibatches(problem, own, own.rows)
    chosen = minibatch_plate(problem, plate)
    if batch_size > chosen.size:
        raise ArgumentError(
            f"batch_size={batch_size} is larger than plate {chosen.name!r}, which has {chosen.size} rows. "
            f"Fix: use at most {chosen.size}, or leave batch_size out."
        )
    check_minibatches(problem, chosen, batch_size)
    return Minibatches(problem, chosen, batch_size)


def draws_nothing(problem: Problem, guide: Callable[..., object]) -> bool:
    """Whether a guide leaves all latents to be summed out, so that the ELBO is log p(data) itself."""
    if problem.continuous:
        return False
    with problem.whole.active(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        return not guide_sites(poutine.trace(guide).get_trace(*problem.args, **problem.kwargs))


def check_trainable(problem: Problem, recipe: Guide) -> None:
    if problem.continuous and not runtime.parameters():
        raise GuideError(
            f"guide {recipe.name!r} has no learnable parameters, so there is nothing to fit. "
            "Fix: declare them by pyro.param(name, initial value), or use a registered guide."
        )


def check_start(problem: Problem, guide: Callable[..., Any], elbo: ELBO, batch: Batch, tried: Tensor | None) -> None:
    """A start that is nowhere finite is an error of model and data, with the table that shows where.

    Args:
        problem: the problem.
        guide: its guide.
        elbo: the objective.
        batch: the rows to try.
        tried: estimates by a run that there has been.

    Raises:
        FitError: if the loss is not finite in ten runs.
    """
    if tried is not None and math.isfinite(float(tried.mean())):
        return
    trial: Any = elbo  # Pyro's base class does not declare the methods that all its ELBOs have
    for _ in range(10 if tried is None else 9):
        try:
            with batch.active(), torch.no_grad():
                loss = float(trial.loss(problem.model, guide, *batch.args, **batch.kwargs))
        except LinAlgError:  # no density there; the table below says where
            continue
        if math.isfinite(loss):
            return
    raise FitError(
        f"the density of {problem.name!r} is not finite at any of 10 starts. {blame(problem, guide, batch)} "
        "Fix: check the data against the likelihood's support and scale, or the prior's bounds."
    )
