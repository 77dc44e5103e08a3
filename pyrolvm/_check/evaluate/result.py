"""What :func:`pyrolvm.evaluate` gives: a table of figures, a row for each data point, pictures, a verdict."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from pyrolvm import _runs as runs
from pyrolvm._base.writing import write_file
from pyrolvm._check.evaluate.evaluated import Evaluated
from pyrolvm._check.evaluate.saving import FORM
from pyrolvm._report.pictures import written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Evaluation"]


class Evaluation(Evaluated):
    """What a fitted model is worth on data; its attributes are those of :class:`~pyrolvm._check.evaluate.evaluated.Evaluated`."""

    def plot(self, path: str | Path | None = None) -> Figure:
        """Shows densities of rows, the bound against the number of draws, units and scores.

        Args:
            path: where to write the picture as well.

        Returns:
            A matplotlib Figure.
        """
        figure: Figure = _paper().draw(self)
        return written(figure, path)

    def pictures(self, folder: str | Path) -> list[Path]:
        """Writes every picture to a folder as PNG: figures, reconstructions, samples, interpolations, traversals.

        Returns:
            The files.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        files = []
        for name, figure in self.drawn().items():
            files.append(target / name)
            written(figure, files[-1])
        return files

    def drawn(self) -> dict[str, Figure]:
        """Its pictures, by the names of their files."""
        return {f"{_file_name(name)}.png": figure for name, figure in _paper().drawn(self).items()}

    def to_html(self, path: str | Path) -> Path:
        """Writes one page with all figures and pictures, which opens anywhere and fetches nothing."""
        return write_file(path, lambda file: file.write(_paper().page(self).encode()))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes it to a folder, which :func:`pyrolvm.load` reads.

        Raises:
            StoreError: if the folder holds something already and ``overwrite`` is false.
        """
        return runs.save(FORM, self, path, overwrite=overwrite)

    def __str__(self) -> str:
        count = int(self.data["rows"].sizes["row"])
        width = max(len(str(name)) for name in self.table.index)
        lines = [f"{self.name} on {self.problem}: {count:,} rows; {self.how}; {self.engine}; {self.seconds:.1f} s"]
        for name, row in self.table.iterrows():
            error = "" if not math.isfinite(row["error"]) or row["error"] == 0 else f" +- {row['error']:.2g}"
            rows = "" if not math.isfinite(row["row_error"]) else f" (rows +- {row['row_error']:.2g})"
            train = "" if not math.isfinite(row["train"]) else f"; training rows {row['train']:.4g}"
            value = f"{row['value']:.0f}" if "active units" in str(name) else f"{row['value']:.4f}"
            lines.append(f"{name!s:<{width}} {value:>10}{error} {row['unit']}{rows}{train}")
        if self.auroc is not None:
            lines += ["AUROC of scores for outliers:", self.auroc.round(3).to_string()]
        lines += [f"left out: {name}: {why}" for name, why in self.left_out.items()]
        return "\n".join([*lines, str(self.verdict)])

    def _repr_html_(self) -> str:
        return str(_paper().fragment(self))


def _paper() -> ModuleType:
    """What draws and writes it, imported when it is asked for, since it brings matplotlib."""
    from pyrolvm._check.evaluate import html

    return html


def _file_name(name: str) -> str:
    return (
        "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)[:80].lstrip(".") or "picture"
    )
