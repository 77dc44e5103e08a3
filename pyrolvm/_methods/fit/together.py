"""A fit that several processes make together: what they need, and who writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from pyrolvm._base.errors import ArgumentError, StoreError
from pyrolvm._base.team import Team, local_rank
from pyrolvm._program.batching import Minibatches
from pyrolvm._program.problem import Problem
from pyrolvm._program.streamed import Streamed
from pyrolvm._results import Fit, store
from pyrolvm._runs import Order, Run
from pyrolvm.family.guide import Guide

__all__ = ["check_shares", "check_together", "kept_together", "own_device"]

ENGINES = ("auto", "torch")
"""Engines whose steps can be shared."""

BEGUN, REFUSED = b"", b"?"
"""What the first process says to the others in place of the folder in which the fit is finished."""


def check_together(distributed: object, engine: str, validation: object) -> None:
    """Refuses what processes do not share.

    Raises:
        ArgumentError: if it is asked for, or ``distributed`` is no truth value.
    """
    if distributed is not True:
        raise ArgumentError(f"distributed must be True or False, got {distributed!r}. Fix: pass distributed=True.")
    if engine not in ENGINES:
        raise ArgumentError(
            f"engine={engine!r} takes no steps that processes share. Fix: leave engine out, or pass engine='torch'."
        )
    if validation is not None:
        raise ArgumentError(
            "validation is given with distributed=True, and held-out data are not shared. Fix: leave it out, and score the result by "
            "lvm.evaluate."
        )


def check_shares(problem: Problem, minibatches: Minibatches | Streamed | None, team: Team) -> None:
    """Makes sure that the rows of a step can be shared.

    Raises:
        ArgumentError: if each step takes all rows, or the batch has no equal shares.
    """
    if minibatches is None:
        raise ArgumentError(
            f"distributed=True shares rows, and steps of {problem.name!r} take all of them. Fix: pass batch_size, a multiple of "
            f"{team.size}, or leave distributed out."
        )
    if minibatches.size % team.size:
        near = max(minibatches.size // team.size, 1) * team.size
        raise ArgumentError(
            f"a batch of {minibatches.size} rows has no {team.size} equal shares, one a process. Fix: take for example {near} rows."
        )


def kept_together(
    team: Team,
    asked: Order,
    about: Mapping[str, object],
    keep: Callable[[Callable[[Run | None], Fit]], Fit],
    work: Callable[[Run | None], Fit],
    problem: Problem,
    guide: Guide,
) -> Fit:
    """The fit of all processes, kept by the first one.

    Args:
        team: the processes.
        asked: where it is kept.
        about: which run it is.
        keep: makes and keeps it, or finds it kept.
        work: makes it.
        problem: the problem.
        guide: its guide.

    Raises:
        ArgumentError: if another process was asked for something else.
        StoreError: if the first process cannot keep it, or another one cannot read what is kept.
    """
    team.agree({name: value for name, value in about.items() if name != "device"})
    if team.leads:
        return _led(team, asked, keep, work)
    word = team.told()
    if word == BEGUN:
        return work(None)
    if word == REFUSED:
        raise StoreError("process 0 cannot keep the fit. Fix: see what it says.")
    found = store.read(Path(word.decode()), problem, guide)
    assert isinstance(found, Fit)
    return found


def _led(
    team: Team, asked: Order, keep: Callable[[Callable[[Run | None], Fit]], Fit], work: Callable[[Run | None], Fit]
) -> Fit:
    """The fit of the first process, which tells the others whether it is made, or there already."""
    told = False

    def announced(run: Run | None) -> Fit:
        nonlocal told
        told = True
        team.told(BEGUN)
        return work(run)

    try:
        found = keep(announced)
    except BaseException:
        if not told:
            team.told(REFUSED)
        raise
    if not told:
        assert asked.out is not None  # or it would not have been found
        team.told(str(asked.out.absolute()).encode())
    return found


def own_device(device: str | torch.device) -> str | torch.device:
    """The GPU of this process, where GPUs are asked for without a number."""
    if str(device) == "cuda" and torch.cuda.is_available():
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    return device
