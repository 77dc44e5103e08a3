"""Simulations in this process, or shared out over several.

Workers are fresh interpreters, each with one thread, that read numbers of simulations from a pipe and write records to another. They
import neither the script nor the notebook that started them, so that neither needs a guard. A worker that dies takes its
simulation with it once; the second time the death is what is recorded.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

from pyrolvm import errors
from pyrolvm.calibration.job import Job, Record, failed
from pyrolvm.errors import PyrolvmError
from pyrolvm.program.problem import Problem

__all__ = ["Unfit", "in_processes", "in_turn", "main", "package"]

WORTH = 20.0
"""Seconds of work left from which on further processes are worth their start."""

_START = "import sys; sys.path[:] = {path!r}; from pyrolvm.calibration.workers import main; main()"
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Unfit(Exception):
    """A job cannot be run by another process."""


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


def package(problem: Problem, job: Job, quantities: Any) -> bytes:
    """A job for another process.

    Raises:
        Unfit: if its model or method cannot be pickled.
    """
    import cloudpickle

    head = {"default": str(torch.get_default_dtype()).removeprefix("torch."), "modules": _modules(problem, job)}
    parts = (
        problem.model, problem.args, dict(problem.kwargs), problem.info, problem.name, job.method, quantities, job.draws, job.seed,
    )  # fmt: skip
    try:
        body = cloudpickle.dumps(parts)
    except Exception as error:  # whatever an object says about itself when it is pickled
        raise Unfit(f"the model or the method cannot be pickled: {type(error).__name__}: {error}") from None
    return _framed(json.dumps(head).encode()) + _framed(body)


def in_processes(package: bytes, numbers: Iterable[int], count: int) -> Iterator[Record]:
    """Runs simulations in ``count`` processes and yields records as they come.

    Raises:
        Unfit: if the job cannot be read by another process.
        PyrolvmError: what the job raises.
    """
    waiting, results = deque(numbers), queue.SimpleQueue[Any]()
    total, workers = len(waiting), [_Worker(package) for _ in range(count)]
    threads = [threading.Thread(target=_drive, args=(worker, waiting, results), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for _ in range(total):
            found = results.get()
            if isinstance(found, Exception):
                raise found
            yield found
    finally:
        waiting.clear()
        for worker in workers:
            worker.stop()


def _drive(worker: _Worker, waiting: deque[int], results: queue.SimpleQueue[Any]) -> None:
    """Feeds one worker with what is waiting."""
    try:
        while True:
            try:
                number = waiting.popleft()
            except IndexError:
                return
            results.put(worker.run(number))
    except Exception as error:
        results.put(error)


@dataclass
class _Worker:
    """A process that runs simulations."""

    package: bytes
    _process: subprocess.Popen[bytes] | None = None
    _stopped: bool = False
    _last: str = ""
    _fed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, number: int) -> Record:
        """The record of a simulation.

        Raises:
            Unfit: if the process cannot read the job.
            PyrolvmError: what the job raises.
        """
        for _ in range(2):
            reply = self._ask(number)
            if reply is not None:
                return _understood(reply)
        return failed(number, f"its process died, twice ({self._last})")

    def stop(self) -> None:
        """Ends the process."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                _close(self._process)

    def _ask(self, number: int) -> bytes | None:
        """What the process answers; nothing if it dies."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            if not self._fed:
                process.stdin.write(self.package)
                self._fed = True
            process.stdin.write(struct.pack("<q", number))
            process.stdin.flush()
            reply = _read(process.stdout)
        except (BrokenPipeError, ValueError):  # of a pipe that was closed
            reply = None
        if reply is None and not self._stopped:
            process.wait()
            self._last = f"exit code {process.returncode}"
            _close(process)
            self._process = None
        return reply

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise Unfit("it was stopped")
            if self._process is None:
                path = [part or os.getcwd() for part in sys.path]
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _START.format(path=path)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                    env={**os.environ, **_ONE_THREAD}, start_new_session=True,
                )  # fmt: skip
                self._fed = False
            return self._process


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                pass


def _understood(reply: bytes) -> Record:
    message: dict[str, Any] = json.loads(reply)
    if "unfit" in message:
        raise Unfit(message["unfit"])
    if "raised" in message:
        kind = getattr(errors, message["raised"], PyrolvmError)
        raise kind(message["text"])
    return message


def _framed(content: bytes) -> bytes:
    return struct.pack("<q", len(content)) + content


def _read(pipe: Any) -> bytes | None:
    """One framed message; nothing at the end of the pipe."""
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<q", head)
    content: bytes = pipe.read(size)
    return content if len(content) == size else None


def _modules(problem: Problem, job: Job) -> list[tuple[str, str]]:
    """The modules of the model and the method, with their files: some are not to be found by their names elsewhere."""
    found = {}
    for given in (problem.model, job.method.subject, getattr(job.method.subject, "construct", None)):
        part: Any = given
        while isinstance(part, functools.partial):  # of a handler of Pyro, the model is the last argument
            part = part.args[-1] if part.args and callable(part.args[-1]) else part.func
        name = getattr(part, "__module__", None) or type(part).__module__
        file = getattr(sys.modules.get(name), "__file__", None)
        if name != "__main__" and file and not name.startswith(("pyrolvm.", "pyro.")):
            found[name] = os.path.abspath(file)
    return list(found.items())


# --- the other side ---------------------------------------------------------------------------------------------------


def main() -> None:
    """What a worker does: reads the job, then a number at a time, until the pipe is closed."""
    answers, questions = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # whatever prints, prints elsewhere
    torch.set_num_threads(1)
    job: Job | None = None
    failure: dict[str, Any] = {}
    head, body = _read(questions), _read(questions)
    if head is None or body is None:
        return
    try:
        job = _unpacked(json.loads(head), body)
    except PyrolvmError as error:
        failure = {"raised": type(error).__name__, "text": str(error)}
    except Exception as error:
        failure = {"unfit": f"another process cannot load the model or the method: {type(error).__name__}: {error}"}
    while len(question := questions.read(8)) == 8:
        _answer(answers, _record(job, struct.unpack("<q", question)[0]) if job else failure)


def _record(job: Job, number: int) -> dict[str, Any]:
    try:
        return job.run(number)
    except PyrolvmError as error:
        return {"raised": type(error).__name__, "text": str(error)}


def _answer(pipe: BinaryIO, message: dict[str, Any]) -> None:
    pipe.write(_framed(json.dumps(message, allow_nan=False).encode()))
    pipe.flush()


def _unpacked(head: dict[str, Any], body: bytes) -> Job:
    torch.set_default_dtype(getattr(torch, head["default"]))
    for name, file in head["modules"]:
        _load(name, file)
    model, args, kwargs, info, name, method, quantities, draws, seed = pickle.loads(
        body
    )  # from the pipe of our own parent
    problem = Problem(model, *args, **kwargs)
    problem._set("info", info)
    return Job.of(problem.renamed(name), method, quantities, draws, seed)


def _load(name: str, file: str) -> None:
    """Imports a module by its name, or under its name from its file."""
    try:
        importlib.import_module(name)
        return
    except ImportError:
        pass
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, os.path.dirname(file))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(os.path.dirname(file))
