"""What a comparison of models found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrolvm._base.face import public
from pyrolvm._base.plain import jsonable
from pyrolvm._base.verdict import Verdict
from pyrolvm._compat.notebooks import html
from pyrolvm._report.webpage import in_notebook, table
from pyrolvm._results.elpd import LOO

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "ModelComparison"]

COLUMNS: dict[str, str] = {
    "elpd": "expected log predictive density by leave-one-out cross-validation, nats; the best model is first",
    "elpd_error": "its standard error, by the rows' differences",
    "elpd_diff": "the best model's elpd minus this one's",
    "diff_error": "its standard error, by the rows' differences of both models",
    "weight": "the share of the model in the mixture that would have predicted the rows best (stacking)",
    "p": "the effective number of parameters",
    "rows_above": "rows whose k-hat says that their estimate is off",
    "evidence": "log marginal likelihood, nats, where the posterior knows it",
    "evidence_error": "its standard error",
    "verdict": "the posterior's own verdict",
}
"""Every column of ``ModelComparison.table``."""


@dataclass(frozen=True, repr=False)
class ModelComparison:
    """Models of the same rows, ordered by how well they predict rows that they have not seen.

    When not to trust it: it is about rows like those at hand, given all others. It says nothing about new groups, later times or other
    covariates, where whole groups or times have to be left out; nor whether the best model is a good one.

    Attributes:
        table: a row for each model; columns in :data:`COLUMNS`.
        loo: each model's leave-one-out cross-validation.
        advice: what the differences come to, in plain words.
        verdict: whether the order can be believed, and why not.
    """

    table: pd.DataFrame
    loo: Mapping[str, LOO]
    advice: tuple[str, ...]
    verdict: Verdict = field(compare=False)

    @property
    def best(self) -> str:
        """The model with the highest elpd."""
        return str(self.table.index[0])

    def plot(self, path: str | Path | None = None) -> Figure:
        """Shows the differences of elpd from the best model, with two standard errors.

        Args:
            path: where to write the picture as well.

        Returns:
            A matplotlib Figure.
        """
        from pyrolvm._check.elpd.plots import draw  # it imports matplotlib

        return draw(self.table, path)

    def to_html(self, path: str | Path) -> Path:
        """Writes one page with figures and pictures, which opens anywhere and fetches nothing; see :func:`pyrolvm.report`."""
        written: Path = public("report")(self, path)
        return written

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON types."""
        return {
            "table": jsonable(self.table.reset_index().to_dict(orient="records")),
            "loo": {name: jsonable(one.as_dict()) for name, one in self.loo.items()},
            "advice": list(self.advice),
            "verdict": jsonable(self.verdict.as_dict()),
        }

    def __str__(self) -> str:
        rows = self.table.dropna(axis=1, how="all").to_string(float_format=lambda value: f"{value:.4g}", na_rep="-")
        return "\n".join([rows, *(f"- {line}" for line in self.advice), str(self.verdict)])

    def __repr__(self) -> str:
        ranked = ", ".join(
            f"{name} {row.elpd_diff:.1f} below" if row.elpd_diff else f"{name} {row.elpd:.1f}"
            for name, row in zip(self.table.index, self.table.itertuples(), strict=True)
        )
        return f"<ModelComparison by elpd: {ranked}; {self.verdict.status}>"

    def _repr_html_(self) -> str:
        advice = "".join(f"<li>{escape(line)}</li>" for line in self.advice)
        return in_notebook(
            f"{table(self.table.dropna(axis=1, how='all'))}<ul class=advice>{advice}</ul>{html(self.verdict)}"
        )
