"""The picture of evidences: estimates and errors against the densities that they took."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyrolvm.comparison.style import FAINT, INK, colours, legend, sheet, tidy
from pyrolvm.errors import ArgumentError
from pyrolvm.posterior.evidence import NORMAL95, Evidence

__all__ = ["draw"]

ROOM = 1.15
"""How much of the range around the final estimates is shown."""


def draw(found: Mapping[str, Evidence], exact: float | Evidence | None, path: str | Path | None) -> Figure:
    """Estimates with 95% errors against the number of densities evaluated.

    Args:
        found: the evidences by name.
        exact: the true value, drawn as a line.
        path: where to write the picture as well.

    Raises:
        ArgumentError: if none of them has a course to show.
    """
    shown = {name: one for name, one in found.items() if one.trace is not None and len(one.trace)}
    if not shown:
        raise ArgumentError(
            f"{', '.join(found)}: an exact value has no course to show. Fix: plot an estimate, with exact=this value."
        )
    truth = exact.value if isinstance(exact, Evidence) else exact
    figure = sheet(6.4, 3.8)
    axes = figure.subplots()
    look = colours(list(shown))
    ends: list[float] = [] if truth is None else [truth]
    handles, names = [], []
    for name, one in shown.items():
        colour, style = look[name]
        trace = one.trace
        assert trace is not None
        places, values, errors = (trace[column].to_numpy(dtype=float) for column in ("evaluations", "value", "error"))
        known = np.isfinite(values)
        reach = np.where(np.isfinite(errors), NORMAL95 * errors, 0.0)
        axes.fill_between(
            places[known], (values - reach)[known], (values + reach)[known], color=colour, alpha=0.15, linewidth=0
        )
        if "lower" in trace:
            for side in ("lower", "upper"):
                axes.plot(places, trace[side], color=colour, linewidth=1.0, linestyle=(0, (2, 1)))
        axes.plot(places, values, color=colour, linestyle=style, linewidth=1.6, marker="o", markersize=3)
        middle = values[known][len(values[known]) // 2 :]
        ends += [float(value) for value in middle]
        handles.append(Line2D([], [], color=colour, linestyle=style))
        names.append(name if one.reliable else f"{name} (unreliable)")
    if truth is not None:
        axes.axhline(truth, color=INK, linewidth=1.0)
        handles.append(Line2D([], [], color=INK))
        names.append("exact")
    low, high = min(ends), max(ends)
    room = ROOM * max(high - low, 0.05)
    axes.set_ylim((low + high - room) / 2 - 0.3 * room, (low + high + room) / 2 + 0.3 * room)
    axes.set_xscale("log")
    axes.set_xlabel("densities evaluated", fontsize=9, color=INK)
    axes.set_ylabel("log p(data), nats", fontsize=9, color=INK)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(axis="y", color=FAINT, alpha=0.2, linewidth=0.6)
    tidy(axes)
    legend(figure, handles, names)
    if path is not None:
        figure.savefig(path, dpi=160)
    return figure
