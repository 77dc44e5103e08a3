"""Simulations in this process, or shared out over several, which are fresh interpreters with one thread each."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing

import torch

from pyrolvm._base.errors import PyrolvmError
from pyrolvm._check.calibrate.job import Job, Record, failed
from pyrolvm._program.problem import Problem
from pyrolvm._workers import Local, Lost, Unfit, packed, run, unpacked
from pyrolvm._workers.package import Content

__all__ = ["Unfit", "in_processes", "in_turn", "package"]

WORTH = 20.0
"""Seconds of work left from which on further processes are worth their start."""


def in_turn(job: Job, numbers: deque[int], *, bounded: bool) -> Iterator[Record]:
    """Runs simulations here, and takes their numbers away; where ``bounded``, until more processes would be worth it."""
    taken, started = 0, 0.0
    while numbers:
        if taken == 1:
            started = time.perf_counter()  # the first takes imports and compilations with it
        yield job.run(numbers.popleft())
        taken += 1
        if bounded and taken > 3 and (time.perf_counter() - started) / (taken - 1) * len(numbers) > WORTH:
            return


def package(problem: Problem, job: Job, quantities: object) -> bytes:
    """A job for another process.

    Raises:
        Unfit: if its model or method cannot be pickled.
    """
    default = str(torch.get_default_dtype()).removeprefix("torch.")
    parts = (
        default, problem.program, problem.args, dict(problem.kwargs), problem.info, problem.name, job.method, quantities, job.draws,
        job.seed,
    )  # fmt: skip
    subject = job.method.subject
    named = quantities.values() if isinstance(quantities, dict) else ()
    try:
        return packed(
            parts,
            code=(
                problem.program,
                subject,
                getattr(subject, "construct", None),
                *problem.info.quantities.values(),
                *named,
            ),
        )
    except Unfit as error:
        raise Unfit(f"the model or the method cannot be pickled: {error}") from None


def in_processes(package: bytes, numbers: Iterable[int], count: int) -> Iterator[Record]:
    """Runs simulations in ``count`` processes and yields records as they come.

    A process that dies takes its simulation with it once; the second time the death is what is recorded.

    Raises:
        Unfit: if the job cannot be read by another process.
        PyrolvmError: what the job raises.
    """
    with closing(Local(count)) as pool:
        for number, answer, _ in run(pool, ((n, _work, (package, n)) for n in numbers), retries=1):
            if isinstance(answer, Lost):
                assert isinstance(number, int)
                yield failed(number, f"its process died, twice ({answer.why})")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                yield answer


def _work(package: bytes, number: int) -> Record:
    """What another process does with a number."""
    torch.set_num_threads(1)
    return _job(Content.of(package)).run(number)


@functools.lru_cache(maxsize=1)
def _job(content: Content) -> Job:
    """The job, read once in each process."""
    default, model, args, kwargs, info, name, method, quantities, draws, seed = unpacked(content.content)
    torch.set_default_dtype(getattr(torch, default))
    try:
        problem = Problem(model, *args, **kwargs).replace(name=name, info=info)
        return Job.of(problem, method, quantities, draws, seed)
    except PyrolvmError:
        raise
    except Exception as error:
        raise Unfit(f"another process cannot load the model or the method: {type(error).__name__}: {error}") from None
