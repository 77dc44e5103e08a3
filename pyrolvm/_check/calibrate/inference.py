"""``lvm.calibrate``: a method on data sets whose true latents are known."""

from __future__ import annotations

import signal
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from pyrolvm import _runs as runs
from pyrolvm._base.errors import ProblemError, PyrolvmWarning, checked_seed, positive_int
from pyrolvm._base.habits import verb
from pyrolvm._base.interrupts import SIGNALS
from pyrolvm._base.machine import available
from pyrolvm._base.progress import Progress
from pyrolvm._check.calibrate.job import Job, Record
from pyrolvm._check.calibrate.ledger import Ledger
from pyrolvm._check.calibrate.methods import Method
from pyrolvm._check.calibrate.result import Calibration
from pyrolvm._check.calibrate.storage import CODEC, COMMAND
from pyrolvm._check.calibrate.workers import Unfit, in_processes, in_turn, package
from pyrolvm._program.names import Dimensions
from pyrolvm._program.origin import origin_of
from pyrolvm._program.problem import Problem, check_problem

__all__ = ["calibrate"]


@verb
def calibrate(
    problem: Problem,
    method: Any = "auto",
    *,
    simulations: int = 200,
    draws: int = 127,
    quantities: Any = None,
    workers: int | str = "auto",
    seed: int = 0,
    progress: bool | Callable[[int, int, str], None] = True,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
    **options: Any,
) -> Calibration:
    """Simulation-based calibration: is a method right, on this model, where the truth is known.

        >>> found = lvm.calibrate(problem, "laplace", simulations=20, workers=1, seed=0)
        >>> found.verdict

    For each simulation latents are drawn from the prior and data from the model, the method gets the data, and each true value
    is ranked among draws of its posterior. If the method is exact, ranks are uniform, whatever the model. Ranked are the latents
    (or the identified ``quantities`` of the model), and always the log likelihood of the data and the log prior density, since a
    method that ignores the data has uniform ranks of every latent.

    The user does nothing for it: observed values are replaced where the model meets them, masks stay as they are.

    Args:
        problem: a model with its data, of which only shapes and covariates matter. Its priors must be proper.
        method: ``"auto"`` or ``"infer"`` for :func:`pyrolvm.infer`, ``"nuts"``, ``"exact"``, a guide for :func:`pyrolvm.fit` (name,
            recipe, function, AutoGuide); or a function whose first argument is called ``problem`` and which returns a posterior, an
            ArviZ DataTree, or draws by site, each of shape ``(draws, ...)``. It is given ``seed`` if it takes that.
        simulations: how many data sets. 100 show errors of a third of an sd, 1,000 of a tenth.
        draws: how many draws of each posterior the truth is ranked among, spread over chains so that they are nearly independent.
        quantities: what to rank instead: names of sites and quantities, or functions of a draw by name.
        workers: how many processes to use; ``"auto"`` takes one for each processor if that saves time. Each has one thread. Ranks
            do not depend on it.
        seed: makes it repeatable; a longer run begins with the simulations of a shorter one.
        progress: whether to show a bar; or a function of ``(done, total, text)``.
        out: a folder where each simulation is kept as soon as it is done, and the result at the end.
        resume: with ``out``: go on with the calibration that is there, if it is of the same inputs and versions, also to make more
            simulations than it has. ``"any-version"`` goes on under other versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this one is finished.
        **options: passed to the method, such as ``max_steps=2000``.

    Returns:
        The calibration. Fits that fail are counted in it. After an interrupt (Ctrl-C) it has the simulations that were done.

    Raises:
        ProblemError: if the problem cannot be simulated: a prior is improper, which is named, or a parameter has none.
        ArgumentError: if an argument is out of range, or the method keeps fewer draws than are ranked.
        UnknownNameError: if there is no such method, option or quantity.
        StoreError: if ``out`` holds something else, or a calibration and ``resume`` is false.

    References:
        Talts et al., Validating Bayesian inference algorithms with simulation-based calibration, https://arxiv.org/abs/1804.06788
        Yao et al., Yes, but did it work? (VSBC), https://arxiv.org/abs/1802.02538
        Modrak et al., Simulation-based calibration checking with data-dependent test quantities, https://arxiv.org/abs/2211.02383
        Sailynoja et al., Graphical test for discrete uniformity, https://arxiv.org/abs/2103.10522
    """
    check_problem(problem)
    simulations, draws = positive_int("simulations", simulations), positive_int("draws", draws, minimum=9)
    seed = checked_seed(seed)
    if not (isinstance(workers, str) and workers == "auto"):
        positive_int("workers", workers)
    asked = runs.order(out, resume, overwrite)
    problem = problem.to(dtype=options.pop("dtype", None))
    if not problem.latents:
        raise ProblemError(
            f"{problem.name} has no latent site, so there is no posterior to calibrate. Fix: give its unknowns priors."
        )
    chosen = Method.of(method, problem, options)
    job = Job.of(problem, chosen, quantities, draws, seed)
    about = _about(problem, job, simulations, quantities)

    def work(run: runs.Run | None) -> Calibration:
        with nullcontext() if run is None else Ledger(run, about) as ledger:
            return _done(problem, job, quantities, about, simulations, workers, progress, ledger)

    return runs.run(asked, COMMAND, about["identity"], CODEC, work, more=True)


def _done(
    problem: Problem,
    job: Job,
    quantities: Any,
    about: dict[str, Any],
    simulations: int,
    workers: int | str,
    progress: bool | Callable[[int, int, str], None],
    ledger: Ledger | None,
) -> Calibration:
    """The calibration, once what is missing of it has been simulated."""
    records = {} if ledger is None else {n: r for n, r in ledger.records.items() if n < simulations}
    waiting = deque(n for n in range(simulations) if n not in records)
    bar = Progress(f"{job.method.name} on {problem.name}", simulations, progress)
    with _Interrupts() as interrupts, bar:
        try:
            for record in _records(problem, job, quantities, waiting, workers, interrupts):
                records[record["simulation"]] = record
                if ledger is not None:
                    ledger.add(record)
                bar.update(len(records), lambda: _tally(records))
        except KeyboardInterrupt:
            if not records:
                raise
    return Calibration.of(about, records.values(), interrupted=len(records) < simulations)


def _about(problem: Problem, job: Job, simulations: int, asked: Any) -> dict[str, Any]:
    """What is calibrated, in JSON types; simulations of another ``identity`` cannot be added to."""
    dims = job.ranking.dims()
    used = {dim for names in dims.values() for dim in names}
    return {
        "identity": job.method.identity(
            problem, job.seed, {"ranked draws": job.draws, "quantities": asked, "ranked": list(job.ranking.shapes)}
        ),
        "problem": problem.name,
        "origin": origin_of(problem).stored(),
        "method": str(job.method),
        "draws": job.draws,
        "seed": job.seed,
        "simulations": simulations,
        "shapes": {name: list(shape) for name, shape in job.ranking.shapes.items()},
        "dims": dims,
        "coords": {dim: [_plain(v) for v in labels] for dim, labels in Dimensions(problem).coords().items() if dim in used},
        "notes": [f"Not ranked: {what}." for what in job.ranking.left_out],
    }  # fmt: skip


def _plain(label: Any) -> Any:
    return label if isinstance(label, str | int | float) else str(label)


def _records(
    problem: Problem, job: Job, quantities: Any, waiting: deque[int], workers: int | str, interrupts: _Interrupts
) -> Iterator[Record]:
    """The records of what is waiting, as they come."""
    count = min(available() if workers == "auto" else int(workers), max(len(waiting), 1))
    if workers == "auto":
        yield from _here(job, waiting, interrupts, bounded=count > 1)
    elif count == 1:
        yield from _here(job, waiting, interrupts, bounded=False)
    if not waiting:
        return
    try:
        for record in in_processes(package(problem, job, quantities), list(waiting), count):
            waiting.remove(record["simulation"])
            yield record
    except Unfit as error:
        warnings.warn(
            f"simulations run one after the other in this process: {error}. Fix: let model and method hold nothing that cannot be "
            "pickled, such as locks and open files, or pass workers=1.",
            PyrolvmWarning,
            stacklevel=4,
        )
        yield from _here(job, waiting, interrupts, bounded=False)


def _here(job: Job, waiting: deque[int], interrupts: _Interrupts, *, bounded: bool) -> Iterator[Record]:
    for record in in_turn(job, waiting, bounded=bounded):
        if interrupts.came:  # of which the method has made a result
            raise KeyboardInterrupt
        yield record


class _Interrupts:
    """Notes interrupts, of which a method may make a result of its own, as if it had ended."""

    def __init__(self) -> None:
        self.came = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():
            for kind in SIGNALS:
                before = signal.getsignal(kind)
                if callable(before):  # else it ends the process, which loses nothing either
                    self._before[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for kind, before in self._before.items():
            signal.signal(kind, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        self._before[number](number, frame)


def _tally(records: dict[int, Record]) -> str:
    """How the fits went so far."""
    counts = Counter(str(record["status"]) for record in records.values())
    return ", ".join(f"{n} {status}" for status, n in counts.most_common())
