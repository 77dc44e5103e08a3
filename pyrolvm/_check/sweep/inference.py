"""``lvm.sweep``: problems, guides and seeds, over processes or a cluster."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pyrolvm import _runs as runs
from pyrolvm._base.errors import ArgumentError, PyrolvmWarning, positive_int
from pyrolvm._base.habits import verb
from pyrolvm._base.progress import Progress
from pyrolvm._check.sweep.cells import COMMAND, KIND, Cells
from pyrolvm._check.sweep.plan import Cell, Plan, plan
from pyrolvm._check.sweep.result import Sweep
from pyrolvm._check.sweep.worker import Record, Reply, execute, failed, pack_method, pack_problem, work
from pyrolvm._workers import Lost, Unfit, open_pool, run
from pyrolvm._workers.pools import Here

__all__ = ["sweep"]


@verb
def sweep(
    problems: Any,
    guides: Any = "auto",
    seeds: int | Iterable[int] = 1,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    backend: Any = "local",
    jobs: int | str = "auto",
    retries: int = 1,
    keep: bool = True,
    reference: str | None = None,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
    retry_failed: bool = False,
    progress: bool | Callable[[int, int, str], None] = True,
    **options: Any,
) -> Sweep:
    """Runs every guide or method on every problem with every seed, each by itself.

        >>> lvm.sweep(["eight_schools_noncentered"], ["mean_field", "full_rank"], seeds=2, jobs=2).table

    A cell is one problem, one method, one seed. It runs in a process of its own with one thread, and gives what the same call of
    :func:`pyrolvm.fit` gives. With ``out`` it is on disk as a whole as soon as it is done, under a checksum of all that goes into it:
    data, code of model and guide, options, seed, versions. A cell that fails keeps its error and traceback; a process that dies costs
    the cell that it was at, which is begun again; a full disk costs the cell that did not fit. Ctrl-C keeps what is done.

    Args:
        problems: problems or registered names: one, a list, or a dict by label.
        guides: guides as :func:`pyrolvm.fit` takes them, ``"nuts"``, ``"infer"``, ``"exact"``, or functions whose first argument is
            called ``problem``: one, a list, or a dict by label.
        seeds: how many, from 0, or which.
        settings: options by the label of a method, such as ``{"nuts": {"draws": 500}}``.
        backend: ``"local"``: processes of this machine, by joblib's loky. ``"dask"`` or ``"ray"``: a cluster on this machine. A Dask
            ``Client``, the address of a Dask scheduler (``"tcp://host:8786"``) or of a Ray cluster (``"ray://host:10001"``): that
            cluster. ``"here"``: this process, for a debugger.
        jobs: how many processes; ``"auto"`` for one a processor, or all places of a cluster that is there.
        retries: how often a cell whose process died is begun again. A Dask scheduler has a setting of its own for it.
        keep: whether posteriors are saved in ``out``, or only what the table says of them.
        reference: the label of the method that ``mean_diff`` and ``sd_ratio`` compare with; by default ``"exact"``, or else ``"nuts"``.
        out: a folder to keep cells in.
        resume: with ``out``: go on with the sweep that is there. What is done is not run again; new cells are added.
        overwrite: with ``out``: replace what is there, which stays in force until this sweep is finished: until each of its cells is
            done or has failed by itself.
        retry_failed: with ``resume``: run cells again that raised an error. Those whose process died are run again in any case.
        progress: whether to show a bar; or a function of ``(done, total, text)``.
        **options: for each method that takes them, such as ``max_steps=2000``.

    Returns:
        The sweep: ``table``, ``summary``, ``failures``, ``posterior(problem, method, seed)``.

    Raises:
        ArgumentError: if an argument is out of range, or a backend is not there.
        UnknownNameError: if there is no such problem, guide or option.
        StoreError: if ``out`` holds something else, or a sweep and ``resume`` is false.
    """
    retries = positive_int("retries", retries, minimum=0)
    asked = runs.order(out, resume, overwrite)
    if retry_failed and not resume:
        raise ArgumentError(
            "retry_failed says what resume=True runs again. Fix: pass out='runs/s' and resume=True too."
        )
    planned = plan(problems, guides, seeds, settings, options)
    if reference is not None and reference not in {cell.method for cell in planned.cells}:
        raise ArgumentError(
            f"reference={reference!r} is no method of this sweep ({', '.join(dict.fromkeys(c.method for c in planned.cells))}). "
            "Fix: add it to guides, or leave reference out."
        )

    def work(run: runs.Run | None) -> Sweep:
        cells = None if run is None else Cells(run, planned.cells)
        again = {"died"} | ({"failed"} if retry_failed else set())
        done = {} if cells is None else {key: one for key, one in cells.records.items() if one["status"] not in again}
        waiting = list({cell.key: cell for cell in planned.cells if cell.key not in done}.values())
        answers = _answers(planned, waiting, backend, jobs, retries, keep and out is not None)
        records, interrupted = _collected(answers, done, cells, len({cell.key for cell in planned.cells}), progress)
        where = (None, None) if cells is None or out is None else (Path(out), cells.folder)
        return Sweep(
            planned.cells, records, where[0], interrupted, reference, planned.problems, planned.methods, where[1]
        )

    codec: runs.Codec[Sweep] = runs.Codec(KIND, lambda _: {}, Sweep.load, lambda found: not found.complete)
    return runs.run(asked, COMMAND, {}, codec, work, more=True)


def _collected(
    answers: Generator[Reply, None, None],
    records: dict[str, Record],
    cells: Cells | None,
    total: int,
    progress: bool | Callable[[int, int, str], None],
) -> tuple[dict[str, Record], bool]:
    """What became of every cell, and whether it was stopped before."""
    with Progress("sweep", total, progress) as bar, closing(answers):
        try:
            for record, files in answers:
                records[record["key"]] = record if cells is None else _written(cells, record, files)
                bar.update(len(records), lambda: _tally(records))
        except KeyboardInterrupt:
            if not records:
                raise
            return records, True
    return records, False


def _answers(
    planned: Plan, waiting: list[Cell], backend: Any, jobs: int | str, retries: int, keep: bool
) -> Generator[Reply, None, None]:
    """The records and files of what is waiting, as they come."""
    if backend == "here":
        open_pool(backend, jobs, len(waiting))
        yield from _here(planned, waiting, keep)
        return
    if not waiting:
        return
    unfit: list[Cell] = []
    reasons: dict[str, str] = {}
    pool = open_pool(backend, jobs, len(waiting))
    with closing(pool):
        calls = list(_calls(planned, waiting, pool, keep, reasons))
        unfit += [cell for cell in waiting if f"{cell.problem}\n{cell.method}" in reasons]
        for cell, answer, times in run(pool, calls, retries=retries):
            assert isinstance(cell, Cell)
            if isinstance(answer, str):  # of a worker that cannot load it
                unfit.append(cell)
                reasons[f"{cell.problem}\n{cell.method}"] = answer
            elif isinstance(answer, Lost):
                yield {**failed(cell.as_dict(), str(answer), status="died"), "attempts": answer.times}, {}
            elif isinstance(answer, BaseException):
                yield (
                    {
                        **failed(cell.as_dict(), f"{type(answer).__name__}: {answer}", status="died"),
                        "attempts": times + 1,
                    },
                    {},
                )
            else:
                record, files = answer
                yield {**record, "attempts": times + 1}, files
    if unfit:
        warnings.warn(
            f"{len(unfit)} cells run one after the other in this process: {next(iter(reasons.values()))}. "
            'Fix: let model and guide hold nothing that cannot be pickled, such as locks and open files, or pass backend="here".',
            PyrolvmWarning,
            stacklevel=5,
        )
        yield from _here(planned, unfit, keep)


def _calls(planned: Plan, waiting: list[Cell], pool: Any, keep: bool, reasons: dict[str, str]) -> Iterator[Any]:
    """The calls of cells that other processes can run; why not, of the others."""
    problems: dict[str, Any] = {}
    methods: dict[tuple[str, str], bytes] = {}
    for cell in waiting:
        pair = (cell.problem, cell.method)
        if "\n".join(pair) in reasons:
            continue
        try:
            if cell.problem not in problems:
                problems[cell.problem] = pool.share(pack_problem(planned.problems[cell.problem]))
            if pair not in methods:
                methods[pair] = pack_method(planned.methods[pair])
        except Unfit as error:
            reasons["\n".join(pair)] = f"the model or the method cannot be pickled: {error}"
            continue
        yield cell, work, (problems[cell.problem], methods[pair], cell.as_dict(), keep)


def _here(planned: Plan, cells: list[Cell], keep: bool) -> Iterator[Reply]:
    for cell, answer, _ in run(Here(), ((c, _alone, (planned, c, keep)) for c in cells), retries=0):
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(cell, Cell)
        record, files = answer
        yield {**record, "attempts": 1}, files


def _alone(planned: Plan, cell: Cell, keep: bool) -> Reply:
    return execute(planned.problems[cell.problem], planned.methods[cell.problem, cell.method], cell.as_dict(), keep)


def _written(cells: Cells, record: Record, files: Mapping[str, bytes]) -> Record:
    """The record, once it is on disk; if the disk does not take it, that is what the table says."""
    try:
        cells.add(record, files)
    except OSError as error:
        return {**record, "status": "unsaved", "error": f"{type(error).__name__}: {error}"}
    return record


def _tally(records: Mapping[str, Record]) -> str:
    """How cells went so far."""
    counts = Counter(str(record["status"]) for record in records.values())
    return ", ".join(f"{n} {status}" for status, n in counts.most_common())
