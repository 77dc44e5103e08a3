"""A run in a folder: begun, gone on with or found finished there, alone, and saved even where it is asked to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from pyrolvm import store
from pyrolvm.errors import StoreError
from pyrolvm.interrupts import held
from pyrolvm.posterior import Posterior
from pyrolvm.program.guide import Guide
from pyrolvm.program.problem import Problem

__all__ = ["durably"]

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
    out.mkdir(parents=True, exist_ok=True)
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
