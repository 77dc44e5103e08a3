"""The picture of evidences: estimates and errors against the densities that they took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.numerics import NORMAL95
from pyrolvm._report.pictures import written
from pyrolvm._report.style import FAINT, INK, colours, legend, sheet, tidy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Course", "draw"]

MARGIN = 0.2
"""The share of the range of values that is left above and below."""


class Course(Protocol):
    """What is drawn of an estimate: how it came about, and whether it can be believed."""

    @property
    def trace(self) -> pd.DataFrame | None:
        """A row for each amount of computation; ``None`` where there is no course to show."""

    @property
    def reliable(self) -> bool:
        """Whether value and error can be believed."""


def draw(found: Mapping[str, Course], exact: float | None, path: str | Path | None) -> Figure:
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
    truth = exact
    near = [name for name, one in shown.items() if one.reliable]
    closer = bool(near) and len(near) < len(shown)  # what cannot be believed would flatten all else
    figure = sheet(9.4 if closer else 6.4, 3.8)
    panels = list(figure.subplots(1, 2 if closer else 1, squeeze=False).flat)
    look = colours(list(shown))
    for place, axes in enumerate(panels):
        names = near if place else list(shown)
        for name in names:
            _course(axes, shown[name], *look[name])
        if truth is not None:
            axes.axhline(truth, color=INK, linewidth=1.0)
        axes.set_ylim(*_reach([shown[name] for name in names], truth, last=place == 1))
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 50 * low else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("densities evaluated", fontsize=9, color=INK)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(axis="y", color=FAINT, alpha=0.2, linewidth=0.6)
        tidy(axes)
    panels[0].set_ylabel("log p(data), nats", fontsize=9, color=INK)
    if closer:
        panels[1].set_title("those that can be believed, closer", fontsize=9.5, color=INK, loc="left", pad=4)
    handles = [Line2D([], [], color=look[name][0], linestyle=look[name][1]) for name in shown]
    labels = [name if one.reliable else f"{name} (unreliable)" for name, one in shown.items()]
    if truth is not None:
        handles, labels = [*handles, Line2D([], [], color=INK)], [*labels, "exact"]
    legend(figure, handles, labels)
    return written(figure, path)


def _course(axes: Axes, one: Course, colour: str, style: object) -> None:
    """One estimate with the band of its errors, and its bounds where it has both."""
    trace = one.trace
    assert trace is not None
    places, values, errors = (trace[column].to_numpy(dtype=float) for column in ("evaluations", "value", "error"))
    known = np.isfinite(values)
    reach = np.where(np.isfinite(errors), NORMAL95 * errors, 0.0)
    band = (places[known], (values - reach)[known], (values + reach)[known])
    axes.fill_between(*band, color=colour, alpha=0.15, linewidth=0)
    if "lower" in trace:
        for side in ("lower", "upper"):
            axes.plot(places, trace[side], color=colour, linewidth=1.0, linestyle=(0, (2, 1)))
    axes.plot(places, values, color=colour, linestyle=style, linewidth=1.6, marker="o", markersize=3)


def _reach(shown: Sequence[Course], truth: float | None, *, last: bool) -> tuple[float, float]:
    """The range of values to show: of the later halves of all courses, or of their ends and errors alone."""
    ends = [] if truth is None else [truth]
    for one in shown:
        assert one.trace is not None
        values, errors = (one.trace[column].to_numpy(dtype=float) for column in ("value", "error"))
        half = len(values) - 1 if last else len(values) // 2
        values, errors = values[half:], np.nan_to_num(errors[half:], posinf=0.0)
        known = np.isfinite(values)
        ends += [*(values - 2 * errors)[known], *(values + 2 * errors)[known]]
    low, high = (min(ends), max(ends)) if ends else (-1.0, 1.0)
    room = MARGIN * max(high - low, 1e-3)
    return low - room, high + room
