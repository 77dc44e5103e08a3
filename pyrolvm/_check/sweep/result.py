"""What a sweep gives: a table of every cell, what failed and why, and the posteriors on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm._base.errors import ArgumentError, StoreError, unknown_name
from pyrolvm._base.face import public
from pyrolvm._check.sweep.cells import kept_in, listed, read_cell, result_of
from pyrolvm._check.sweep.plan import Cell
from pyrolvm._check.sweep.worker import Record
from pyrolvm._methods.table import result_type
from pyrolvm._program.problem import Problem
from pyrolvm._report.webpage import in_notebook, table
from pyrolvm._results import Posterior, store
from pyrolvm._runs.readers import parsing

if TYPE_CHECKING:
    import pandas as pd

    from pyrolvm._check.calibrate.methods import Method
__all__ = ["COLUMNS", "Sweep"]

COLUMNS: dict[str, str] = {
    "problem": "label of the problem",
    "method": "label of the guide or method",
    "seed": "its seed",
    "status": "done; failed: it raised an error; died: its worker did, each time; unsaved: the disk did not take it; missing: not run",
    "verdict": "trusted, doubtful or failed, of the posterior by itself",
    "elbo": "evidence lower bound of a fit, in nats",
    "elbo_error": "its standard error",
    "khat": "Pareto k of a fit's importance weights",
    "rhat": "largest R-hat of chains",
    "ess": "smallest effective number of draws of chains",
    "divergences": "of chains, after warmup",
    "evidence": "log marginal likelihood, where the method gives it",
    "mean_diff": "largest difference of a mean from the reference's, in reference sds",
    "sd_ratio": "the sd over the reference's that is farthest from 1",
    "seconds": "wall time of the cell",
    "attempts": "how often it was begun",
    "engine": "what ran the model",
    "error": "why it is not done",
}
"""Every column of ``Sweep.table``."""

_REFERENCES = ("exact", "nuts")


@dataclass(eq=False, repr=False)
class Sweep:
    """Problems, guides and seeds: what became of each cell.

    Attributes:
        cells: every cell, in order.
        records: what is known of each, by key; a cell without one was not run.
        folder: where it is kept; ``None`` for a sweep that was not saved.
        interrupted: whether it was stopped before all cells were run.
        reference: the label of the method that accuracy is measured against; ``None``: for each problem ``exact``, or else ``nuts``,
            where the sweep has it.
    """

    cells: Sequence[Cell]
    records: Mapping[str, Record]
    folder: Path | None = None
    interrupted: bool = False
    reference: str | None = None
    problems: Mapping[str, Problem] = field(default_factory=dict)
    methods: Mapping[tuple[str, str], Method] = field(default_factory=dict)
    kept: Path | None = None

    @classmethod
    def load(cls, path: str | Path) -> Sweep:
        """Reads a sweep, also one that is still running or was cut: what is there so far.

        Raises:
            StoreError: if there is none, or it is damaged.
        """
        folder = Path(path)
        kept = kept_in(folder)
        cells = listed(kept)
        found = {cell.key: read_cell(kept, cell) for cell in cells}
        records = {key: record for key, record in found.items() if record is not None}
        made = cls(cells, records, folder, interrupted=len(records) < len(found), kept=kept)
        with parsing(kept):
            str(made)
        return made

    # --- tables -------------------------------------------------------------------------------------------------------

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each cell, with the columns of :data:`COLUMNS`; NaN where a figure does not exist."""
        import pandas as pd

        rows = [self._row(cell) for cell in self.cells]
        frame = pd.DataFrame(rows, columns=list(COLUMNS))
        text = ("problem", "method", "status", "verdict", "engine", "error")
        numbers = {name: "float64" for name in COLUMNS if name not in (*text, "seed", "attempts")}
        return frame.astype({"seed": "int64", "attempts": "int64", **numbers})

    def _row(self, cell: Cell) -> Record:
        record = {**self.records.get(cell.key, {"status": "missing"}), **cell.as_dict()}
        record.setdefault("attempts", 0)
        for name in ("verdict", "engine", "error"):
            record[name] = record.get(name) or ""
        record["error"] = record["error"].partition("\n")[0]
        record["mean_diff"], record["sd_ratio"] = self._accuracy(cell)
        return {name: record.get(name) for name in COLUMNS}

    @property
    def counts(self) -> dict[str, int]:
        """How many cells there are of each status."""
        found: dict[str, int] = {}
        for cell in self.cells:
            status = str(self.records.get(cell.key, {}).get("status", "missing"))
            found[status] = found.get(status, 0) + 1
        return found

    @property
    def complete(self) -> bool:
        """Whether every cell is done, or failed by itself."""
        return set(self.counts) <= {"done", "failed"}

    @property
    def failures(self) -> dict[str, int]:
        """Why cells are not done, the most frequent first, with how many there are of each."""
        rows = self.table[~self.table["status"].isin(["done", "missing"])]
        return {str(error): int(n) for error, n in rows["error"].value_counts().items()}

    @cached_property
    def summary(self) -> pd.DataFrame:
        """A row for each problem and method over its seeds.

        ``cells``, ``done``, ``trusted`` are numbers; ``elbo``, ``khat``, ``mean_diff`` and ``seconds`` medians; ``elbo_spread`` the
        distance of the best ELBO from the worst; ``sd_ratio`` the one farthest from 1.
        """
        import pandas as pd

        rows = []
        for (problem, method), part in self.table.groupby(["problem", "method"], sort=False):
            done = part[part["status"] == "done"]
            ratio = done["sd_ratio"].dropna()
            rows.append(
                {
                    "problem": problem, "method": method, "cells": len(part), "done": len(done),
                    "trusted": int((done["verdict"] == "trusted").sum()),
                    "elbo": done["elbo"].median(), "elbo_spread": done["elbo"].max() - done["elbo"].min(),
                    "khat": done["khat"].median(), "mean_diff": done["mean_diff"].median(),
                    "sd_ratio": _farthest(ratio.to_numpy()), "seconds": done["seconds"].median(),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    # --- accuracy -----------------------------------------------------------------------------------------------------

    @cached_property
    def _reference_cells(self) -> dict[str, Cell]:
        """The first cell of the reference that is done, by problem."""
        labels = {cell.method for cell in self.cells}
        if self.reference is not None and self.reference not in labels:
            raise unknown_name("method of this sweep", self.reference, labels)
        found: dict[str, Cell] = {}
        for wanted in (self.reference,) if self.reference is not None else _REFERENCES:
            for cell in self.cells:
                record = self.records.get(cell.key, {})
                name = cell.method if self.reference is not None else record.get("kind")
                if name == wanted and record.get("status") == "done" and cell.problem not in found:
                    found[cell.problem] = cell
        return found

    def _accuracy(self, cell: Cell) -> tuple[float, float]:
        reference = self._reference_cells.get(cell.problem)
        record = self.records.get(cell.key, {})
        if reference is None or reference.key == cell.key or "moments" not in record:
            return np.nan, np.nan
        theirs, ours = self.records[reference.key]["moments"], record["moments"]
        known = {
            label: (mean, sd)
            for label, mean, sd in zip(theirs["quantity"], theirs["mean"], theirs["sd"], strict=True)
            if mean is not None and sd
        }
        both = [
            (mean, sd, *known[label])
            for label, mean, sd in zip(ours["quantity"], ours["mean"], ours["sd"], strict=True)
            if label in known and mean is not None and sd is not None
        ]
        if not both:
            return np.nan, np.nan
        mean, sd, ref_mean, ref_sd = np.array(both, dtype=float).T
        return float(np.max(np.abs(mean - ref_mean) / ref_sd)), _farthest(sd / ref_sd)

    # --- single cells ---------------------------------------------------------------------------------------------------

    def cell(self, problem: str | None = None, method: str | None = None, seed: int | None = None) -> Cell:
        """The one cell of these labels; what is left out may be anything.

        Raises:
            ArgumentError: if several cells are meant.
            UnknownNameError: if none is.
        """
        for what, value in (("problem", problem), ("method", method), ("seed", seed)):
            known = {getattr(cell, what) for cell in self.cells}
            if value is not None and value not in known:
                raise unknown_name(f"{what} of this sweep", value, map(str, known))
        found = [
            cell
            for cell in self.cells
            if problem in (None, cell.problem) and method in (None, cell.method) and seed in (None, cell.seed)
        ]
        if len(found) != 1:
            raise ArgumentError(
                f"{len(found)} cells are meant: {'; '.join(map(str, found[:3]))}{'; ...' if len(found) > 3 else ''}. "
                "Fix: name problem, method and seed."
            )
        return found[0]

    def traceback(self, problem: str | None = None, method: str | None = None, seed: int | None = None) -> str:
        """Where the error of a cell came from; empty for a cell that is done."""
        return str(self.records.get(self.cell(problem, method, seed).key, {}).get("traceback", ""))

    def posterior(self, problem: str | None = None, method: str | None = None, seed: int | None = None) -> Posterior:
        """The posterior of a cell, read from disk.

        Raises:
            StoreError: if the sweep was not saved, or the cell has no posterior.
        """
        cell = self.cell(problem, method, seed)
        if self.kept is None:
            raise StoreError("this sweep was not saved, so its posteriors are gone. Fix: run it with out='runs/s'.")
        path = result_of(self.kept, cell)
        if not path.is_dir():
            record = self.records.get(cell.key, {"status": "missing"})
            raise StoreError(
                f"{cell} has no posterior: it is {record['status']}. Fix: see sweep.table, or run the sweep again with resume=True "
                "and keep=True."
            )
        known = self.methods.get((cell.problem, cell.method))
        guide = known.subject if known is not None and known.kind == "fit" else None
        return store.read(path, self.problems.get(cell.problem), guide, result_type)

    # --- how it shows itself --------------------------------------------------------------------------------------------

    def to_html(self, path: str | Path) -> Path:
        """Writes one page with figures and pictures, which opens anywhere and fetches nothing; see :func:`pyrolvm.report`."""
        written: Path = public("report")(self, path)
        return written

    def as_dict(self) -> dict[str, object]:
        """The sweep as JSON types."""
        frame = self.table.astype(object).where(self.table.notna(), None)
        return {
            "cells": len(self.cells), "counts": self.counts, "interrupted": self.interrupted, "failures": self.failures,
            "table": frame.to_dict(orient="records"),
        }  # fmt: skip

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {status}" for status, n in self.counts.items())
        problems, methods = ({getattr(cell, name) for cell in self.cells} for name in ("problem", "method"))
        return f"Sweep of {len(self.cells)} cells ({len(problems)} problems, {len(methods)} methods): {counts}"

    def __repr__(self) -> str:
        return f"<{self}>"

    def _repr_html_(self) -> str:
        return in_notebook(f"<b>{escape(str(self))}</b>{table(self.summary)}")


def _farthest(ratios: Any) -> float:
    """The ratio that is farthest from 1, up or down."""
    if not len(ratios):
        return float("nan")
    with np.errstate(divide="ignore"):
        return float(ratios[np.argmax(np.abs(np.log(ratios)))])
