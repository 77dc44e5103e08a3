"""``lvm.cross_validate``: a method without some rows, for all rows in turn."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import NDArray

from pyrolvm import _runs as runs
from pyrolvm._base.errors import ArgumentError, checked_seed, positive_int
from pyrolvm._base.habits import verb
from pyrolvm._base.numerics import Array
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._check.predict import predict
from pyrolvm._check.sweep import Sweep, sweep
from pyrolvm._check.validating.folds import Fold, folds_of, held_arguments, row_count, without
from pyrolvm._check.validating.result import CODEC, COLUMNS, COMMAND, CrossValidation
from pyrolvm._program.origin import origin_of
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm._program.rows import has_latents, plate_of_rows
from pyrolvm._results import Posterior, store

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["cross_validate"]

FOLDS = 10
"""Folds by default."""

Terms = dict[int, float]
"""Log predictive densities, by row; of all rows of a fold under its first."""


@verb
def cross_validate(
    problem: Problem,
    method: Any = "auto",
    *,
    folds: int | None = None,
    groups: str | Sequence[object] | None = None,
    rows: Sequence[int] | None = None,
    plate: str | None = None,
    draws: int = 1_000,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    backend: Any = "local",
    jobs: int | str = "auto",
    progress: bool | Callable[[int, int, str], None] = True,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
) -> CrossValidation:
    r"""Predicts rows, or whole groups, from fits that have not seen them: K-fold and leave-one-group-out cross-validation.

        >>> lvm.cross_validate(problem, "full_rank", folds=10).elpd
        >>> lvm.cross_validate(problem, "nuts", groups="school").summary()

    For each fold the problem without its rows is fitted, as a cell of :func:`pyrolvm.sweep`, and the rows are scored by
    :func:`pyrolvm.predict`. The density of row :math:`i` is :math:`\log \frac1S \sum_s p(y_i \mid \theta_s)` over draws of the
    fit without its fold. Where a group is held out, its own latents are those of a new member.

    When not to trust it: the verdict says how many fits can be trusted. Draws of a guide are taken as they are: it is about what this
    method predicts, and :meth:`pyrolvm.Posterior.loo` about what the posterior does.

    Args:
        problem: the problem.
        method: a guide as :func:`pyrolvm.fit` takes it, ``"nuts"``, ``"exact"``, ``"smc"``, ``"infer"``, or a function whose first
            argument is called ``problem``.
        folds: how many parts rows, or groups, are dealt to at random; by default 10, or one for each group.
        groups: a plate, whose members are held out with all rows that belong to them, or a label for each row.
        rows: hold out these rows alone, one by one.
        plate: the plate of the rows, where several could be meant.
        draws: draws of each fit that predict.
        options: options of the method, such as ``{"max_steps": 2000}``.
        seed: makes it repeatable.
        backend: where fits run, as for :func:`pyrolvm.sweep`.
        jobs: how many at once.
        progress: whether to show a bar; or a function of ``(done, total, text)``.
        out: a folder to keep fits in while it runs, and the result.
        resume: with ``out``: go on with the same cross-validation, or return it if it is finished. ``"any-version"`` under other
            versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this one is finished.

    Returns:
        The sum with its error, a table of folds, the figures of each row, and a verdict.

    Raises:
        ArgumentError: if an argument is out of range, or nothing says which rows belong to a group.
        ProblemError: if nothing says what a row is.
        StoreError: if ``out`` holds something else.

    References:
        Vehtari, Gelman and Gabry (2017), https://arxiv.org/abs/1507.04544; Roberts et al. (2017), "Cross-validation strategies for data
        with temporal, spatial, hierarchical, or phylogenetic structure", https://doi.org/10.1111/ecog.02881
    """
    given = dict(locals())
    check_problem(problem)
    seed = checked_seed(seed)
    draws = positive_int("draws", draws, minimum=2)
    if folds is not None:
        positive_int("folds", folds, minimum=2)
    count = row_count(problem, plate)
    parts = _parts(problem, count, folds, groups, rows, seed)
    if any(len(part.rows) == count for part in parts):
        raise ArgumentError(
            "one group holds all rows, so that nothing is left to fit. Fix: pass groups of which there are several."
        )
    asked = runs.order(out, resume, overwrite)
    words = {
        name: value for name, value in store.counted(cross_validate, given).items() if name not in ("backend", "jobs")
    }
    about = {} if out is None else store.identity(None, problem, None, seed, {**words, "by": method})

    def work(run: runs.Run | None) -> CrossValidation:
        left = {part.label: without(problem, count, part.rows) for part in parts}
        name = method if isinstance(method, str) else str(getattr(method, "__name__", method))
        with tempfile.TemporaryDirectory() as scratch:
            kept = runs.Order(Path(scratch) / "folds") if run is None else run.stage("folds")
            fitted = sweep(
                left, {name: method}, [seed], settings={name: dict(options or {})}, backend=backend, jobs=jobs,
                out=kept.out, resume=kept.resume, progress=progress,
            )  # fmt: skip
            return _validated(problem, count, parts, fitted, name, plate, draws, seed)

    return runs.run(asked, COMMAND, about, CODEC, work)


def _parts(
    problem: Problem,
    count: int,
    folds: int | None,
    groups: str | Sequence[object] | None,
    rows: Sequence[int] | None,
    seed: int,
) -> list[Fold]:
    if rows is None:
        some = folds if folds is not None or groups is not None else min(FOLDS, count)
        return folds_of(problem, count, some, groups, seed)
    if folds is not None or groups is not None:
        raise ArgumentError("rows= is given beside folds= or groups=. Fix: pass one of them.")
    if not len(rows) or not all(0 <= row < count for row in rows):
        raise ArgumentError(
            f"rows must be numbers from 0 to {count - 1}, got {list(rows)!r}. Fix: pass for example rows=[0, 3]."
        )
    return [Fold(f"row {row}", np.array([row])) for row in dict.fromkeys(rows)]


def _validated(
    problem: Problem,
    count: int,
    parts: Sequence[Fold],
    fitted: Sweep,
    name: str,
    plate: str | None,
    draws: int,
    seed: int,
) -> CrossValidation:
    import pandas as pd

    lines, terms = [], []
    for part, record in zip(parts, fitted.table.itertuples(), strict=True):
        line: dict[str, object] = {
            "rows": len(part.rows),
            "verdict": record.verdict,
            "seconds": record.seconds,
            "error": record.error,
        }
        if record.status == "done":
            posterior = fitted.posterior(part.label)
            found, figures = _scored(problem, posterior, count, part, plate, draws, seed)
            line |= figures
            terms += [(part.label, row, value) for row, value in found.items()]
        else:
            line["error"] = record.error or record.status
        lines.append(line)
    table = pd.DataFrame(lines, index=pd.Index([part.label for part in parts], name="fold"), columns=list(COLUMNS))
    numbers = ["elpd", "mc_error", "crps", "inside_50", "inside_90", "seconds"]
    table[numbers] = table[numbers].astype(float)
    rows = pd.DataFrame(
        {"fold": [one[0] for one in terms], "elpd": np.array([one[2] for one in terms], dtype=float)},
        index=pd.Index(np.array([one[1] for one in terms], dtype=int), name="row"),
    ).sort_index()
    values = rows["elpd"].to_numpy()
    whole = len(terms) > 0 and not bool((table["error"] != "").any())
    return CrossValidation(
        name, problem.name, float(values.sum()) if whole else math.nan,
        float(math.sqrt(len(values)) * values.std(ddof=1)) if whole and len(values) > 1 else math.nan,
        table, rows, Verdict.of(list(_reasons(table)), list(_steps(table, fitted.complete))), not fitted.complete,
        origin_of(problem),
    )  # fmt: skip


def _scored(
    problem: Problem, posterior: Posterior, count: int, part: Fold, plate: str | None, draws: int, seed: int
) -> tuple[Terms, dict[str, float]]:
    """Log predictive densities of the rows of a fold, and its figures."""
    args, named = held_arguments(problem, count, part.rows)
    kwargs: dict[str, Any] = dict(named)
    rows = plate_of_rows(problem, plate)
    same = rows is not None and 2 * len(part.rows) == count and has_latents(problem, rows.name)
    members = {rows.name: "new"} if rows is not None and same else None
    found = predict(posterior, *args, members=members, draws=draws, seed=seed, **kwargs)
    data = found["log_score"].to_dataset()
    by_row = _together([np.asarray(one.values) for one in data.data_vars.values()], len(part.rows))
    size = by_row.shape[0]
    density = scipy.special.logsumexp(by_row, axis=0) - math.log(size)
    share = np.exp(by_row - density)
    error = share.std(axis=0) / math.sqrt(size)
    scores = found["scores"].to_dataset() if "scores" in found.children else None
    seen = _seen(scores, len(part.rows)) if len(density) == len(part.rows) else np.ones(len(density), dtype=bool)
    density, error = density[seen], error[seen]
    figures = {"elpd": float(density.sum()), "mc_error": float(np.sqrt((error**2).sum())), "rows": int(seen.sum())}
    told = {} if scores is None else scores.attrs
    for what in ("crps", "inside_50", "inside_90"):
        each = [float(value) for name, value in told.items() if str(name).endswith(f"_{what}")]
        figures[what] = float(np.mean(each)) if each else math.nan
    numbers = part.rows[seen].tolist() if len(seen) == len(part.rows) else part.rows.tolist()[:1]
    return dict(zip(numbers, density.tolist(), strict=True)), figures


def _seen(scores: xr.Dataset | None, rows: int) -> NDArray[np.bool_]:
    """Which rows have a score of any site: those that are missing or masked out have none."""
    each = [
        ~np.isnan(np.asarray(one.values)).reshape(rows, -1)
        for name, one in ({} if scores is None else scores.data_vars).items()
        if str(name).endswith("lpd") and one.ndim and one.shape[0] == rows
    ]
    return np.asarray(np.concatenate(each, axis=1).any(axis=1)) if each else np.ones(rows, dtype=bool)


def _together(terms: Sequence[Array], rows: int) -> Array:
    """The log densities of all observed sites by draw and row; by draw alone where sites do not belong to rows."""
    flat = [one.reshape(one.shape[0] * one.shape[1], *one.shape[2:]).astype(np.float64) for one in terms]
    if all(one.ndim > 1 and one.shape[1] == rows for one in flat):
        return np.sum([one.reshape(len(one), rows, -1).sum(-1) for one in flat], axis=0)
    whole = np.sum([one.reshape(len(one), -1).sum(-1) for one in flat], axis=0)
    return np.asarray(whole)[:, None]


def _reasons(table: pd.DataFrame) -> Iterator[Reason]:
    lost = table[table["error"] != ""]
    if len(lost):
        first = f"{lost.index[0]}: {lost['error'].iloc[0]}"
        text = f"{len(lost)} of {len(table)} folds have no fit, so there is no sum ({first})."
        yield Reason("failed", text, {"folds": float(len(lost))})
    doubted = table[table["verdict"].isin(["doubtful", "failed"])]
    if len(doubted):
        text = f"The fits of {len(doubted)} of {len(table)} folds cannot be trusted, {doubted.index[0]} first."
        yield Reason("doubtful", text, {"folds": float(len(doubted))})
    elif not len(lost):
        yield Reason("trusted", f"The fits of all {len(table)} folds can be trusted.", {"folds": float(len(table))})


def _steps(table: pd.DataFrame, complete: bool) -> Iterator[str]:
    if not complete:
        yield "call it again with out= and resume=True: folds that are fitted are not fitted again"
    elif (table["error"] != "").any():
        yield "mend what the model or the method fails at without those rows, or pass options= of the method"
    if table["verdict"].isin(["doubtful", "failed"]).any():
        yield "take a method whose fits can be trusted, such as method='infer' or 'nuts'"
