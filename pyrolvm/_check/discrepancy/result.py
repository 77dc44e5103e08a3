"""What a check found: tables, a verdict, pictures, a page."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pyrolvm import _runs as runs
from pyrolvm._base.plain import jsonable
from pyrolvm._base.writing import write_file
from pyrolvm._check.discrepancy.checked import Checked
from pyrolvm._check.discrepancy.saving import FORM, read
from pyrolvm._report.pictures import written

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["CODEC", "COMMAND", "Check", "load"]

COMMAND = "check"


class Check(Checked):
    """Data that a model makes beside those that there are; attributes of :class:`~pyrolvm._check.discrepancy.checked.Checked`."""

    @property
    def table(self) -> pd.DataFrame:
        """The comparison after inference; of a problem, the one before."""
        return next(iter(self.tables.values()))

    def plot(self, kind: str = "statistics", *, path: str | Path | None = None) -> Figure:
        """Shows data among replicated ones.

        Args:
            kind: ``"statistics"`` (each feature among its replicates) or ``"data"`` (distributions).
            path: where to write the picture as well.

        Returns:
            A matplotlib Figure.

        Raises:
            UnknownNameError: if there is no such kind.
        """
        figure: Figure = _paper().draw(self, kind)
        return written(figure, path)

    def to_html(self, path: str | Path) -> Path:
        """Writes one page with all figures and pictures, which opens anywhere and fetches nothing."""
        return write_file(path, lambda file: file.write(_paper().page(self).encode()))

    def as_dict(self) -> dict[str, Any]:
        """The check as JSON types."""
        return {
            "name": self.name,
            "problem": self.problem,
            **{kind: jsonable(table.reset_index().to_dict(orient="records")) for kind, table in self.tables.items()},
            "sensitivity": None
            if self.sensitivity is None
            else jsonable(self.sensitivity.reset_index().to_dict(orient="records")),
            "verdict": jsonable(self.verdict.as_dict()),
        }

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes it to a folder, which :func:`pyrolvm.load` reads.

        Raises:
            StoreError: if the folder holds something already and ``overwrite`` is false.
        """
        return runs.save(FORM, self, path, overwrite=overwrite)

    def __str__(self) -> str:
        shown = [f"{kind.replace('_', ' ')}\n{table.round(4).to_string()}" for kind, table in self.tables.items()]
        return "\n".join([*shown, str(self.verdict)])

    def __repr__(self) -> str:
        kinds = ", ".join(f"{len(table)} features {kind.replace('_', ' ')}" for kind, table in self.tables.items())
        return f"<Check of {self.name} on {self.problem}: {kinds}, {self.verdict.status}>"

    def _repr_html_(self) -> str:
        return str(_paper().fragment(self))


def load(path: str | Path) -> Check:
    """Reads a check.

    Raises:
        StoreError: if there is none, or a file is damaged.
    """
    return Check(**read(path))


CODEC: runs.Codec[Check] = runs.Codec(FORM.kind, FORM.parts, load)


def _paper() -> ModuleType:
    """What draws and writes it, imported when it is asked for, since it brings matplotlib."""
    from pyrolvm._check.discrepancy import html

    return html
