"""Several estimates of one evidence, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.face import public
from pyrolvm._report.webpage import in_notebook, table
from pyrolvm._results.evidence import Evidence

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Evidences"]


@dataclass(frozen=True, repr=False)
class Evidences:
    """Estimates of the evidence of the same data by several methods.

    Attributes:
        found: the estimates by name.
        exact: the true value, where it is known.
    """

    found: Mapping[str, Evidence]
    exact: float | None = None

    def __post_init__(self) -> None:
        """Refuses what is not a mapping of evidences, and evidences of different data."""
        wrong = [name for name, value in self.found.items() if not isinstance(value, Evidence)]
        if wrong or not self.found:
            what = f"got {type(self.found[wrong[0]]).__name__} for {wrong[0]!r}" if wrong else "got none"
            raise ArgumentError(f"expected an Evidence for each name, {what}. Fix: pass what lvm.evidence returns.")
        if len({id(value.problem) for value in self.found.values()}) > 1:
            raise ArgumentError("the evidences are of different data. Fix: compare those of one problem.")

    def __repr__(self) -> str:
        return f"<Evidences: {'; '.join(f'{name} {one}' for name, one in self.found.items())}>"

    def __getitem__(self, name: str) -> Evidence:
        return self.found[name]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each method.

        ================== ======================================================================================
        column             meaning
        ================== ======================================================================================
        ``value, error``   log p(data) in nats, or the bound, and its standard error
        ``low, high``      where it lies with 95% probability
        ``off``            value minus the exact one
        ``inside``         whether the exact value is between ``low`` and ``high``
        ``evaluations``    densities evaluated
        ``seconds``        wall time
        ``status``         the verdict
        ================== ======================================================================================
        """
        import pandas as pd

        rows = {}
        for name, one in self.found.items():
            low, high = one.interval
            row: dict[str, object] = {"value": one.value, "error": one.error, "low": low, "high": high}
            if self.exact is not None:
                # Of an exact value the error is that of rounding, which may be none.
                slack = 1e-9 * (1 + abs(self.exact))
                row |= {"off": one.value - self.exact, "inside": bool(low - slack <= self.exact <= high + slack)}
            rows[name] = row | {
                "evaluations": one.evaluations, "seconds": one.seconds, "status": one.verdict.status
            }  # fmt: skip
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    def plot(self, path: str | Path | None = None) -> Figure:
        """Shows how each estimate comes about as more densities are evaluated, with the exact value where it is known.

        Args:
            path: where to write the picture as well.

        Returns:
            A matplotlib Figure.
        """
        from pyrolvm._report.evidence import draw  # it imports matplotlib

        return draw(self.found, self.exact, path)

    def to_html(self, path: str | Path) -> Path:
        """Writes one page with figures and pictures, which opens anywhere and fetches nothing; see :func:`pyrolvm.report`."""
        written: Path = public("report")(self, path)
        return written

    def as_dict(self) -> dict[str, object]:
        """All estimates as JSON types."""
        return {"exact": self.exact, "methods": {name: one.as_dict() for name, one in self.found.items()}}

    def __str__(self) -> str:
        lines = [
            self.table.to_string(float_format=lambda value: f"{value:.6g}" if math.isfinite(value) else str(value))
        ]
        for name, one in self.found.items():
            lines += [f"{name}: {reason}" for reason in one.verdict.reasons if reason.status != "trusted"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return in_notebook(table(self.table, digits={"value": 6, "low": 6, "high": 6}))
