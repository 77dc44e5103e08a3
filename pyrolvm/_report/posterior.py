"""Pictures of one posterior: marginals, intervals, traces."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyrolvm._base.errors import unknown_name
from pyrolvm._base.numerics import Array
from pyrolvm._report.pictures import written
from pyrolvm._report.style import FAINT, INK, PALETTE, course, density, plain, sheet, tidy, within

__all__ = ["draw", "losses"]

Draws = Mapping[str, tuple[Array, bool]]

COLUMNS = 4
BARS = 40
"""How many bars of integers stand beside each other."""


def draw(kind: str, draws: Draws, share: float, path: str | Path | None, diverging: Array | None = None) -> Figure:
    """A picture of a posterior.

    Args:
        kind: one of :data:`KINDS`.
        draws: by label, each of shape ``(chain, draw)``, and whether they are integers.
        share: of the draws that the interval holds.
        path: where to write it as well.
        diverging: which draws diverged, shape ``(chain, draw)``, for ``"divergences"`` of two quantities.

    Raises:
        UnknownNameError: if there is no such kind.
    """
    if diverging is not None:
        return written(divergences(draws, diverging), path)
    if kind not in KINDS:
        raise unknown_name("kind of plot", kind, (*KINDS, "divergences"))
    figure = KINDS[kind](draws, share)
    return written(figure, path)


def _panels(count: int) -> tuple[Figure, Array]:
    """A figure with so many axes, and these."""
    columns = min(COLUMNS, max(count, 1))
    rows = math.ceil(max(count, 1) / columns)
    figure = sheet(2.4 * columns + 0.4, 1.75 * rows + 0.2)
    cells = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
    for axes in cells[count:]:
        axes.set_axis_off()
    return figure, cells


def marginals(draws: Draws, share: float) -> Figure:
    """A density for each quantity, bars for integers, with the mean and the central interval below."""
    figure, cells = _panels(len(draws))
    for axes, (name, (values, discrete)) in zip(cells, draws.items(), strict=False):
        flat = _finite(values)
        axes.set_title(plain(name), fontsize=9, color=INK)
        tidy(axes, left=False)
        if not flat.size:
            axes.text(0.5, 0.5, "no finite draw", ha="center", va="center", transform=axes.transAxes, fontsize=8)
            continue
        _shape(axes, flat, discrete, PALETTE[0])
        low, high = np.quantile(flat, [(1 - share) / 2, (1 + share) / 2])
        top = axes.get_ylim()[1]
        axes.set_ylim(-0.1 * top, top)
        axes.plot([low, high], [-0.05 * top] * 2, color=PALETTE[1], linewidth=3, solid_capstyle="round")
        axes.plot([flat.mean()], [-0.05 * top], "o", color="white", markeredgecolor=PALETTE[1], markersize=5)
    return figure


def _shape(axes: Axes, flat: Array, discrete: bool, colour: str) -> None:
    """The distribution of some draws, without the farthest of a heavy tail: bars of integers, else a density."""
    low, high = np.quantile(flat, [0.004, 0.996])
    if discrete and high > low:
        wide = max(1, round((high - low) / BARS))  # integers that share a bar
        edges = np.arange(math.floor(low), math.ceil(high) + wide + 1, wide) - 0.5
        shares = np.histogram(flat, edges)[0] / flat.size
        axes.bar(edges[:-1] + wide / 2, shares, width=(1 - 0.2 / wide) * wide, color=colour)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        return
    if high == low:
        axes.vlines([low], 0.0, 1.0, color=colour)
        return
    margin = 0.05 * (high - low)
    grid, height = density(flat, float(low - margin), float(high + margin))
    axes.fill_between(grid, height, color=colour, alpha=0.25, linewidth=0)
    axes.plot(grid, height, color=colour, linewidth=1.6)


def forest(draws: Draws, share: float) -> Figure:
    """Medians with the central half and the central interval, a line for each quantity."""
    figure = sheet(6.4, 0.24 * len(draws) + 0.9)
    axes = figure.subplots()
    ends = [(1 - share) / 2, 0.25, 0.5, 0.75, (1 + share) / 2]
    for row, (values, _) in enumerate(draws.values()):
        flat = _finite(values)
        if not flat.size:
            continue
        at = np.quantile(flat, ends)
        axes.plot(at[[0, 4]], [row, row], color=PALETTE[0], linewidth=1.2)
        axes.plot(at[[1, 3]], [row, row], color=PALETTE[0], linewidth=3.2, solid_capstyle="round")
        axes.plot(at[2], row, "o", color="white", markeredgecolor=PALETTE[0], markersize=4)
    axes.set_yticks(range(len(draws)), [plain(name) for name in draws])
    axes.set_ylim(len(draws) - 0.5, -0.5)
    axes.set_xlabel(f"median, central 50% and {share:.0%}", fontsize=8.5, color=INK)
    tidy(axes, grid=True)
    return figure


def traces(draws: Draws, share: float) -> Figure:
    """Each quantity draw by draw, a line for each chain."""
    figure = sheet(7.0, 1.1 * max(len(draws), 1) + 0.3)
    cells = np.atleast_1d(figure.subplots(max(len(draws), 1), 1, sharex=True)).reshape(-1)
    for axes, (name, (values, _)) in zip(cells, draws.items(), strict=False):
        for place, chain in enumerate(values):
            axes.plot(chain, color=PALETTE[place % len(PALETTE)], linewidth=0.6, alpha=0.8)
        axes.set_ylabel(plain(name, 14), fontsize=8, rotation=0, ha="right", va="center")
        tidy(axes)
    cells[-1].set_xlabel("draw", fontsize=8.5)
    return figure


def divergences(draws: Draws, diverging: Array) -> Figure:
    """Draws of two quantities on the unconstrained scale, those that diverged on top."""
    figure = sheet(4.6, 3.8)
    axes = figure.subplots()
    (one, (x, _)), (other, (y, _)) = draws.items()
    axes.plot(x[~diverging], y[~diverging], ".", color=PALETTE[0], markersize=2, alpha=0.35, rasterized=True)
    axes.plot(
        x[diverging], y[diverging], "o", color=PALETTE[1], markersize=4, label=f"{int(diverging.sum()):,} diverged"
    )
    axes.set_xlabel(f"{plain(one)}, unconstrained", fontsize=8.5, color=INK)
    axes.set_ylabel(f"{plain(other)}, unconstrained", fontsize=8.5, color=INK)
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return figure


BINS = 20


def ranks(draws: Draws, share: float) -> Figure:
    """How the ranks of each chain's draws among all draws are spread: level lines where chains agree."""
    figure, cells = _panels(len(draws))
    for axes, (name, (values, _)) in zip(cells, draws.items(), strict=False):
        order = np.argsort(np.argsort(values, axis=None, kind="stable"), kind="stable").reshape(values.shape)
        bins = max(2, min(BINS, values.shape[1] // 10))
        edges = np.linspace(0, values.size, bins + 1)
        for place, chain in enumerate(order):
            level = np.histogram(chain, edges)[0] * bins / values.shape[1]
            axes.stairs(level, edges, color=PALETTE[place % len(PALETTE)], linewidth=1.1, baseline=None)
        axes.axhline(1, color=FAINT, linewidth=0.7)
        axes.set_ylim(0, max(2.0, axes.get_ylim()[1]))
        axes.set_xticks([])
        axes.set_title(plain(name), fontsize=9, color=INK)
        tidy(axes)
    return figure


def losses(trace: Array) -> Figure:
    """The loss by step, without the fall at the beginning."""
    figure = sheet(7.0, 2.6)
    axes = figure.subplots()
    within(axes, [course(axes, trace, PALETTE[0])])
    axes.set_xlabel("step", fontsize=8.5, color=INK)
    axes.set_ylabel("loss, nats", fontsize=8.5, color=INK)
    axes.ticklabel_format(axis="y", useOffset=False)
    tidy(axes, grid=True)
    return figure


KINDS: dict[str, Callable[[Draws, float], Figure]] = {
    "marginals": marginals,
    "forest": forest,
    "ranks": ranks,
    "trace": traces,
}
"""What draws each kind of picture."""


def _finite(values: Array) -> Array:
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    return flat[np.isfinite(flat)]
