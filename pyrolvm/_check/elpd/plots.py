"""Pictures of a comparison of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from pyrolvm._report.pictures import written
from pyrolvm._report.style import FAINT, INK, PALETTE, plain, sheet, tidy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["draw"]


def draw(table: pd.DataFrame, path: str | Path | None) -> Figure:
    """Differences of elpd from the best model, with two standard errors; stacking weights at the right."""
    figure = sheet(6.8, 0.36 * len(table) + 1.0)
    axes = figure.subplots()
    for row, (_, line) in enumerate(table.iterrows()):
        axes.errorbar(
            -line["elpd_diff"], row, xerr=2 * line["diff_error"], fmt="o", color=PALETTE[0], markersize=5, linewidth=1.6
        )
        axes.annotate(
            f"weight {line['weight']:.2f}",
            (1.01, row),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            va="center",
            color=INK,
        )
    axes.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(table)), [plain(str(name)) for name in table.index])
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel("elpd beside the best model's, nats, with two standard errors", fontsize=8.5, color=INK)
    tidy(axes, grid=True)
    return written(figure, path)
