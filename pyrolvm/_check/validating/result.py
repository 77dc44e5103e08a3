"""What cross-validation by refits found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrolvm import _runs as runs
from pyrolvm._base.face import public
from pyrolvm._base.numerics import Array
from pyrolvm._base.plain import jsonable
from pyrolvm._base.verdict import Verdict
from pyrolvm._compat.notebooks import html
from pyrolvm._report.origin import Origin, stored_origin
from pyrolvm._report.webpage import in_notebook, table
from pyrolvm._results.nested import nested_parts, read_frame, read_nested, read_verdict, stored_frame, stored_verdict
from pyrolvm._runs.readers import parsing

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CODEC", "COLUMNS", "COMMAND", "CrossValidation", "load"]

KIND, COMMAND = "CrossValidation", "cross-validate"

COLUMNS: dict[str, str] = {
    "rows": "how many rows were held out",
    "elpd": "the sum of their log predictive densities, nats",
    "mc_error": "the Monte Carlo standard error of that",
    "crps": "the mean continuous ranked probability score of what was held out",
    "inside_50": "the share of it in the central half of its predictive distribution",
    "inside_90": "the share in the central 90%",
    "verdict": "that of the fit without these rows",
    "seconds": "that this fit took",
    "error": "why there is no fit",
}
"""Every column of ``CrossValidation.table``."""


@dataclass(frozen=True, repr=False)
class CrossValidation:
    """How well a method on a model predicts rows that were held out of the fit, in nats.

    Attributes:
        name: the method's name.
        problem: the problem's name.
        elpd: the expected log predictive density of as many new rows: the sum over all rows.
        error: its standard error, by the differences of rows, or of folds where rows of a fold have one density together.
        table: a row for each fold; columns in :data:`COLUMNS`.
        rows: the log predictive density of each row (``elpd``) with its fold; of each fold where it has one density.
        verdict: whether it can be believed, and why not.
        interrupted: whether it was stopped before all folds were fitted, a worker died or the disk did not take a fit.
        origin: what problem and data it is of.
    """

    name: str
    problem: str
    elpd: float
    error: float
    table: pd.DataFrame
    rows: pd.DataFrame
    verdict: Verdict = field(compare=False)
    interrupted: bool = False
    origin: Origin = field(default=Origin(), compare=False)

    # What ArviZ calls the same.

    @property
    def se(self) -> float:
        """The standard error, as ArviZ calls it."""
        return self.error

    @property
    def elpd_i(self) -> Array:
        """The log predictive density of each row, as ArviZ calls it."""
        found: Array = self.rows["elpd"].to_numpy()
        return found

    @property
    def n_data_points(self) -> int:
        """How many rows were predicted."""
        return int(self.table["rows"].sum())

    def summary(self) -> pd.DataFrame:
        """The table of folds with a line for all of them."""
        import pandas as pd

        numbers = (
            self.table[["crps", "inside_50", "inside_90"]].mul(self.table["rows"], axis=0).sum() / self.n_data_points
        )
        whole = {
            "rows": self.n_data_points, "elpd": self.elpd, "mc_error": float((self.table["mc_error"] ** 2).sum() ** 0.5),
            **numbers.to_dict(), "verdict": self.verdict.status, "seconds": float(self.table["seconds"].sum()), "error": "",
        }  # fmt: skip
        return pd.concat([self.table, pd.DataFrame([whole], index=pd.Index(["all"], name="fold"))])

    def to_html(self, path: str | Path) -> Path:
        """Writes one page with figures and pictures, which opens anywhere and fetches nothing; see :func:`pyrolvm.report`."""
        written: Path = public("report")(self, path)
        return written

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON types."""
        return {
            "name": self.name, "problem": self.problem, "elpd": jsonable(self.elpd), "error": jsonable(self.error),
            "folds": jsonable(self.table.reset_index().to_dict(orient="records")), "interrupted": self.interrupted,
            "verdict": jsonable(self.verdict.as_dict()),
        }  # fmt: skip

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes it to a folder, which :func:`pyrolvm.load` reads.

        Raises:
            StoreError: if the folder holds something already and ``overwrite`` is false.
        """
        return runs.save(CODEC, self, path, overwrite=overwrite)

    def __str__(self) -> str:
        told = f"elpd {self.elpd:.2f} +- {self.error:.2g} nats of {self.n_data_points} rows in {len(self.table)} folds"
        return f"{self.name} on {self.problem}: {told}"

    def __repr__(self) -> str:
        return f"<CrossValidation of {self}, {self.verdict.status}>"

    def _repr_html_(self) -> str:
        return in_notebook(f"<b>{escape(str(self))}</b> {html(self.verdict)}{table(self.summary())}")


def _parts(found: CrossValidation) -> Mapping[str, runs.Part]:
    return nested_parts(
        {
            "name": found.name, "problem": found.problem, "elpd": found.elpd, "error": found.error,
            "table": _texts(stored_frame(found.table)), "rows": _texts(stored_frame(found.rows)),
            "verdict": stored_verdict(found.verdict), "interrupted": found.interrupted, "origin": found.origin.stored(),
        }
    )  # fmt: skip


def _texts(stored: dict[str, Any] | None) -> dict[str, Any] | None:
    """A table whose columns of text are lists."""
    if stored is not None:
        stored["columns"] = [
            [name, values if values.dtype.kind in "biuf" else [str(one) for one in values]]
            for name, values in stored["columns"]
        ]
    return stored


def load(path: str | Path) -> CrossValidation:
    """Reads a cross-validation.

    Raises:
        StoreError: if there is none, or a file is damaged.
    """
    stored = read_nested(Path(path))
    with parsing(path):
        table, rows = read_frame(stored["table"]), read_frame(stored["rows"])
        if table is None or rows is None:
            raise ValueError("it has no table")
        table = table.rename(columns={"elpd_error": "mc_error"})  # as it was called once
        return CrossValidation(
            str(stored["name"]), str(stored["problem"]), float(stored["elpd"]), float(stored["error"]), table, rows,
            read_verdict(stored["verdict"]), bool(stored["interrupted"]), stored_origin(stored),
        )  # fmt: skip


CODEC: runs.Codec[CrossValidation] = runs.Codec(KIND, _parts, load, lambda found: found.interrupted)
