"""The picture of gaps: what refinement recovers, and what each unit is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyrolvm._report.pictures import written
from pyrolvm._report.style import FAINT, INK, PALETTE, REFERENCE, legend, sheet, tidy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["draw"]


def draw(figures: Mapping[str, float], course: pd.Series, units: pd.DataFrame, path: str | Path | None) -> Figure:
    """Draws evidence, ELBOs and refinement on the left, the divergence of each unit on the right.

    Args:
        figures: ``evidence``, ``best`` and ``elbo``, nats a row.
        course: the mean ELBO after each step of refinement.
        units: ``kl`` and ``active`` of each unit.
        path: where to write the picture as well.
    """
    figure = sheet(8.4, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    left.plot(course.index, course.to_numpy(), color=PALETTE[0], linewidth=1.4)
    shown = (("evidence", INK, "-"), ("best", PALETTE[2], "--"), ("elbo", PALETTE[1], "-"))
    for key, colour, style in shown:
        left.axhline(figures[key], color=colour, linestyle=style, linewidth=1.2)
    low, high = figures["elbo"], figures["evidence"]
    room = max(high - low, 0.02)
    left.set_ylim(low - 0.35 * room, high + 0.25 * room)
    left.set_xlabel("steps of refinement", fontsize=9, color=INK)
    left.set_ylabel("nats a row", fontsize=9, color=INK)
    left.ticklabel_format(axis="y", useOffset=False)
    table = units.sort_values("kl", ascending=False, kind="stable")
    colours = np.where(table["active"].to_numpy(), PALETTE[0], REFERENCE)
    right.bar(np.arange(len(table)), table["kl"].to_numpy(), color=list(colours))
    right.set_xlabel("units, by their divergence", fontsize=9, color=INK)
    right.set_ylabel("KL from the prior, nats", fontsize=9, color=INK)
    right.set_title(f"{int(units['active'].sum())} of {len(units)} active", fontsize=9.5, color=INK, loc="left", pad=4)
    for axes in (left, right):
        axes.grid(axis="y", color=FAINT, alpha=0.2, linewidth=0.6)
        tidy(axes)
    handles = [Line2D([], [], color=colour, linestyle=style) for _, colour, style in shown]
    handles.append(Line2D([], [], color=PALETTE[0]))
    legend(figure, handles, ["log evidence", "best of the family", "ELBO", "refinement"])
    return written(figure, path)
