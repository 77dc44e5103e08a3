"""Plots of a calibration. Each function takes the Calibration and returns a matplotlib Figure; none keeps state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pyrolvm._base.errors import ArgumentError, unknown_name
from pyrolvm._check.calibrate.ranks import Ranks
from pyrolvm._check.calibrate.statistics import scalars
from pyrolvm._check.calibrate.uniformity import ecdf_differences, envelope
from pyrolvm._report.style import FAINT, INK, PALETTE, REFERENCE, STATUS, legend, plain, sheet, tidy

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KINDS", "ecdf", "histogram"]

_Drawing = Callable[[Axes, "NDArray[np.int64]", str], None]


def _cells(
    calibration: Ranks, quantities: Iterable[str] | None, limit: int, draw: _Drawing, down: str
) -> tuple[Figure, list[Axes]]:
    """A grid with a cell for each quantity asked for, else for the worst ones in their own order."""
    if not calibration.successes:
        raise ArgumentError(
            "no simulation gave a posterior, so there are no ranks to draw. Fix: read calibration.failures."
        )
    table = calibration.statistics
    labels, ranks = scalars(calibration.data, "ranks")
    if quantities is None:
        worst = set(table.sort_values("p", kind="stable").index[:limit])
        names = [label for label in labels if label in worst]
    else:
        names = [quantities] if isinstance(quantities, str) else list(quantities)
        for name in names:
            if name not in labels:
                raise unknown_name("quantity", name, labels)
    across = min(4, len(names))
    rows = math.ceil(len(names) / across)
    figure = sheet(2.6 * across + 0.3, 1.9 * rows + 0.7)
    grid = list(figure.subplots(rows, across, squeeze=False, sharex=True, sharey=True).flat)
    for place, (axes, name) in enumerate(zip(grid, names, strict=False)):
        own = ranks[:, labels.index(name)].astype(np.int64)
        status = str(table.loc[name, "status"])
        draw(axes, own[own >= 0], PALETTE[0] if status == "trusted" else STATUS[status])
        axes.set_title(plain(name), fontsize=9.5, color=INK, loc="left", pad=4)
        if place % across == 0:
            axes.set_ylabel(down, fontsize=8.5, color=INK)
        if place + across >= len(names):
            axes.set_xlabel("rank of the truth", fontsize=8.5, color=INK)
            axes.tick_params(labelbottom=True)
        tidy(axes)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    return figure, grid[: len(names)]


def ecdf(calibration: Ranks, quantities: Iterable[str] | None = None, limit: int = 12) -> Figure:
    """Shows how far the ranks' ECDF is from uniform, in the region that 95% of exact methods stay in altogether.

    Above the region at the left and below at the right: too narrow. The other way round: too wide. Below throughout: the
    posterior is too low. Above throughout: too high.
    """
    draws = calibration.draws
    places = np.arange(1, draws + 1) / (draws + 1)

    def draw(axes: Axes, ranks: NDArray[np.int64], colour: str) -> None:
        low, high = envelope(len(ranks), draws)
        axes.fill_between(places, low, high, step="mid", color=REFERENCE, alpha=0.7, linewidth=0)
        axes.axhline(0, color=FAINT, linewidth=0.7)
        axes.step(places, ecdf_differences(ranks[:, None], draws)[:, 0], where="mid", color=colour, linewidth=1.4)
        axes.set_xlim(0, 1)

    figure, _ = _cells(calibration, quantities, limit, draw, "ECDF - uniform")
    _legend(figure, "95% of exact methods stay inside")
    return figure


def histogram(calibration: Ranks, quantities: Iterable[str] | None = None, limit: int = 12, bins: int = 16) -> Figure:
    """Shows how many ranks fall in each part of their range, and what 95% of exact methods have in a part."""
    from scipy.stats import binom

    size = calibration.draws + 1
    edges = np.round(np.linspace(0, size, min(bins, size) + 1)).astype(int)
    shares = np.diff(edges) / size

    def draw(axes: Axes, ranks: NDArray[np.int64], colour: str) -> None:
        counts = np.histogram(ranks, bins=edges)[0] / shares / len(ranks)
        low, high = (binom.ppf(q, len(ranks), shares) / shares / len(ranks) for q in (0.025, 0.975))
        axes.stairs(high, edges / size, baseline=low, fill=True, color=REFERENCE, alpha=0.7)
        axes.stairs(counts, edges / size, color=colour, linewidth=1.4)
        axes.axhline(1, color=FAINT, linewidth=0.7)
        axes.set_xlim(0, 1)

    figure, cells = _cells(calibration, quantities, limit, draw, "density")
    cells[0].set_ylim(bottom=0)
    _legend(figure, "95% of exact methods, by part")
    return figure


def _legend(figure: Figure, text: str) -> None:
    handles = [
        Patch(color=REFERENCE, alpha=0.7),
        Line2D([], [], color=PALETTE[0]),
        Line2D([], [], color=STATUS["failed"]),
    ]
    legend(figure, handles, [text, "uniform as far as it shows", "off"])


KINDS: dict[str, Callable[..., Figure]] = {"ecdf": ecdf, "histogram": histogram}
"""Every kind of plot, by the name that ``Calibration.plot`` takes."""
