"""Pictures of a check: features among their replicates, and distributions of data sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyrolvm._base.errors import unknown_name
from pyrolvm._check.discrepancy.checked import Checked
from pyrolvm._check.discrepancy.judging import EXTREME
from pyrolvm._check.discrepancy.statistics import Sample
from pyrolvm._report.style import BAD, FAINT, INK, PALETTE, REFERENCE, density, plain, sheet, tidy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CAPTIONS", "drawn"]

MOST = 40
"""Features that one picture shows."""
FEW = 30
"""Rows below which the share of values up to each one is drawn in place of a density."""
LINES = 30
"""Replicated data sets that one picture shows."""
ROOM, HIGHEST = 3.0, 4.0
"""Ranges of the data that a picture shows on each side of them, and heights of their density: priors may make data far beyond both."""

CAPTIONS = {
    "statistics": "Each feature of the data (dot) among those of replicated data sets: their mean and central 90%, in their sds.",
    "data": "The distribution of the data (dots, or the thick line) among those of replicated data sets.",
}


def drawn(check: Checked, kind: str) -> Figure:
    """A picture of a check.

    Raises:
        UnknownNameError: if there is no such kind.
    """
    if kind not in KINDS:
        raise unknown_name("kind of plot", kind, KINDS)
    return KINDS[kind](check)


def _statistics(check: Checked) -> Figure:
    tables = {kind: table.head(MOST) for kind, table in check.tables.items() if len(table)}
    rows = max(len(table) for table in tables.values())
    figure = sheet(5.2 * len(tables) + 0.6, 0.24 * rows + 1.1)
    for axes, (kind, table) in zip(np.atleast_1d(figure.subplots(1, len(tables))), tables.items(), strict=True):
        _intervals(axes, table)
        axes.set_title(kind.replace("_", " "), fontsize=10, color=INK)
    return figure


def _intervals(axes: Axes, table: pd.DataFrame) -> None:
    names = []
    for place, ((site, group, statistic), row) in enumerate(table.iterrows()):
        scale = row["sd"] if row["sd"] > 0 else max(abs(row["mean"]), 1.0)
        bad = min(row["p"], 1 - row["p"]) < EXTREME
        axes.plot(
            [(row[end] - row["mean"]) / scale for end in ("q5", "q95")],
            [place] * 2,
            color=REFERENCE,
            linewidth=5,
            zorder=1,
        )
        at = float(np.clip((row["observed"] - row["mean"]) / scale, -6, 6))
        axes.plot(
            [at],
            [place],
            "o" if abs(at) < 6 else ("<" if at < 0 else ">"),
            color=BAD if bad else PALETTE[0],
            markersize=5,
        )
        names.append(plain(" ".join(filter(None, (site, group, statistic))), 34))
    axes.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(-6.4, 6.4)
    axes.set_xlabel("from the mean of replicates, in their sds", fontsize=8.5, color=INK)
    tidy(axes, grid=True)


def _data(check: Checked) -> Figure:
    cells = [(kind, sample) for kind, samples in check.samples.items() for sample in samples.values()]
    columns = min(3, len(cells))
    rows = math.ceil(len(cells) / columns)
    figure = sheet(3.6 * columns + 0.3, 2.4 * rows + 0.3)
    places = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
    for axes in places[len(cells) :]:
        axes.set_axis_off()
    for axes, (kind, sample) in zip(places, cells, strict=False):
        _shapes(axes, sample)
        axes.set_title(plain(f"{sample.name}, {kind.replace('_', ' ')}", 40), fontsize=9, color=INK)
        tidy(axes, left=False)
    return figure


def _shapes(axes: Axes, sample: Sample) -> None:
    seen = sample.seen.reshape(-1).astype(float)
    made = sample.replicated.reshape(len(sample.replicated), -1).astype(float)[:LINES]
    seen = seen[np.isfinite(seen)]
    finite = made[np.isfinite(made)]
    whole = bool(np.all(seen == np.floor(seen))) and bool(np.all(finite == np.floor(finite)))
    low, high = np.quantile(finite, [0.005, 0.995]) if finite.size else (0.0, 1.0)
    room = ROOM * float(np.ptp(seen)) or math.inf
    low, high = min(max(low, seen.min() - room), seen.min()), max(min(high, seen.max() + room), seen.max())
    if whole and high - low < 60:
        values = np.arange(math.floor(low), math.ceil(high) + 1)
        shares = np.array([[(one == value).mean() for value in values] for one in made])
        axes.vlines(values, *np.quantile(shares, [0.05, 0.95], axis=0), color=REFERENCE, linewidth=5)
        axes.plot(values, [(seen == value).mean() for value in values], "o", color=INK, markersize=4)
        if sample.labels is not None and len(sample.labels) <= 8:
            axes.set_xticks(range(len(sample.labels)), [plain(label, 12) for label in sample.labels])
        return
    margin = 0.05 * (high - low) or 1.0
    if seen.size < FEW:
        for one in made:
            axes.ecdf(one[np.isfinite(one)], color=PALETTE[5], linewidth=0.6, alpha=0.5)
        axes.ecdf(seen, color=INK, linewidth=1.8)
        axes.set_xlim(low - margin, high + margin)
        return
    for one in made:
        axes.plot(
            *density(one[np.isfinite(one)], low - margin, high + margin), color=PALETTE[5], linewidth=0.6, alpha=0.5
        )
    grid, height = density(seen, low - margin, high + margin)
    axes.plot(grid, height, color=INK, linewidth=1.8)
    if height.any():
        axes.set_ylim(0, min(axes.get_ylim()[1], HIGHEST * float(height.max())))


KINDS: dict[str, Callable[[Checked], Figure]] = {"statistics": _statistics, "data": _data}
"""Every kind of picture."""
