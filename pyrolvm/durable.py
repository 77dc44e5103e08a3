"""A run in a folder: begun, gone on with or found finished there, alone, and saved even where it is asked to stop."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from pyrolvm import store
from pyrolvm.errors import ArgumentError, PyrolvmWarning, StoreError, positive_float
from pyrolvm.interrupts import held
from pyrolvm.posterior import Posterior
from pyrolvm.program.guide import Guide
from pyrolvm.program.problem import Problem

__all__ = ["Pace", "check_saving", "durably", "warn_of_disk"]

EVERY = 60.0
"""Seconds between checkpoints by default."""

SHARE = 0.01
"""The share of the time that checkpoints may take by default: where one takes long, they are further apart."""

Result = TypeVar("Result", bound=Posterior)


def durably(
    out: Path,
    method: str,
    problem: Problem,
    guide: Guide | None,
    seed: int,
    options: Mapping[str, Any],
    run: Callable[[store.Checkpoints], Result],
    *,
    resume: bool | str,
) -> Result:
    """The finished result that is in ``out``, or what ``run`` gives, saved there.

    Args:
        out: the folder.
        method: the type of the result.
        problem: the problem.
        guide: its guide, if there is one.
        seed: its seed.
        options: the arguments that its numbers depend on.
        run: makes the result, with the checkpoints that it goes on from and writes. A result that is partial keeps them.
        resume: whether what is there may be used.

    Raises:
        StoreError: if there is another run, if ``resume`` is false and there is any, if another process writes there, or if the disk
            does not take the result.
    """
    about = store.identity(method, problem, guide, seed, options)
    finished = store.claim(out, about, problem, guide, resume=resume)
    if finished is not None:
        return finished
    store.make_folder(out)
    with store.Lock(out):
        finished = store.claim(out, about, problem, guide, resume=resume)  # by the process that held the lock until now
        if finished is not None:
            return finished
        checkpoints = store.Checkpoints(out, about)
        result = run(checkpoints)
        partial = store.is_partial(result)
        # One request to stop is heard after the result is saved. After one that was heard already, the next one leaves at once.
        with nullcontext() if partial else held():
            try:
                store.save(result, out, overwrite=True, run=about, locked=True)
            except OSError as error:
                raise StoreError(
                    f"the result could not be saved in {out}: {error}. What was there is as it was. "
                    "Fix: make room on the disk, then call it again with resume=True: it goes on from the last checkpoint."
                ) from error
            if not partial:
                checkpoints.clear()
    return result


class Pace:
    """When the next checkpoint is due.

    Args:
        every: seconds between two; ``None`` for a minute, or longer where writing one takes more than a hundredth of that.
    """

    def __init__(self, every: float | None) -> None:
        self._every, self._fixed = (EVERY, False) if every is None else (every, True)
        self._last, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is."""
        wait = self._every if self._fixed else max(self._every, self._took / SHARE)
        return time.monotonic() - self._last >= wait

    def written(self, began: float) -> None:
        """Notes that one was written, or tried to be, from ``began`` on."""
        self._last = time.monotonic()
        self._took = self._last - began


def warn_of_disk(checkpoints: store.Checkpoints, error: OSError) -> None:
    """Says that a checkpoint could not be written."""
    warnings.warn(
        f"a checkpoint could not be written to {checkpoints.folder}: {error}. The run goes on, and the checkpoint before is as it was. "
        "Fix: make room on the disk; the next one is tried in a while.",
        PyrolvmWarning,
        stacklevel=3,
    )


def check_saving(out: Any, resume: bool | str, checkpoint_every: float | None) -> None:
    """Refuses arguments about a run's folder that say nothing.

    Raises:
        ArgumentError: if one is out of its range, or is given without the folder.
    """
    store.check_resume(resume)
    if checkpoint_every not in (None, 0):
        positive_float("checkpoint_every", checkpoint_every)
    for name, given in (("resume", resume), ("checkpoint_every", checkpoint_every is not None)):
        if given and out is None:
            raise ArgumentError(
                f'{name} is given without out, the folder to keep the run in. Fix: pass out="runs/a" too.'
            )
