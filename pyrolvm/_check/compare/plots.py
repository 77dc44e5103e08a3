"""Plots of a comparison. Each function takes the Comparison and returns a matplotlib Figure; none keeps state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from pyrolvm._base.errors import ArgumentError, unknown_name
from pyrolvm._base.numerics import Array
from pyrolvm._check.compare.compared import Compared
from pyrolvm._check.compare.metrics import MEAN_BOUND, SD_BOUND
from pyrolvm._report.style import (
    FAINT,
    INK,
    MARK,
    REFERENCE,
    STATUS,
    colours,
    course,
    density,
    legend,
    plain,
    sheet,
    tidy,
    within,
)  # fmt: skip
from pyrolvm._results.reading import stat

__all__ = ["KINDS", "accuracy", "energy", "forest", "losses", "marginals", "overview", "pairs"]

Draws = dict[str, tuple[Array, bool]]


def _draws(comparison: Compared, quantity: str) -> Draws:
    """Returns flat finite draws of one quantity by posterior, the reference first, and whether they are integers."""
    found: Draws = {}
    for name, items in comparison.pairs.items():
        for item in items:
            if quantity not in item.labels:
                continue
            place = item.labels.index(quantity)
            for who, draws in ((comparison.reference, item.reference), (name, item.draws)):
                if who not in found:
                    flat = draws[:, :, place].reshape(-1).astype(np.float64)
                    found[who] = flat[np.isfinite(flat)], item.discrete
    return found


def _chosen(comparison: Compared, quantities: Iterable[str] | None, limit: int) -> list[str]:
    """Returns the quantities asked for, else the worst ones in their order of declaration."""
    table = comparison.table
    known = list(dict.fromkeys(table["quantity"]))
    if quantities is not None:
        wanted = [quantities] if isinstance(quantities, str) else list(quantities)
        for name in wanted:
            if name not in known:
                raise unknown_name("quantity", name, known)
        return wanted
    rank = table["status"].map({"differs": 2.0, "unclear": 1.0, "agrees": 0.0})
    size = table["mean_diff"].abs().fillna(0).clip(upper=20) + (table["sd_ratio"].clip(1e-3, 1e3).map(math.log)).abs()
    score = (10 * rank + size).groupby(table["quantity"]).max().to_dict()
    worst = set(sorted(known, key=lambda name: -score[name])[:limit])
    return [name for name in known if name in worst]


def _window(draws: Draws, reference: str) -> tuple[float, float]:
    """Returns a range that shows every posterior without letting a heavy tail squeeze the rest."""
    low, high = np.quantile(draws[reference][0], [0.004, 0.996])
    room = max(0.4 * (high - low), 1e-12)
    for values, _ in draws.values():
        left, right = np.quantile(values, [0.01, 0.99])
        low, high = min(low, max(left, low - room)), max(high, min(right, high + room))
    discrete = all(kind for _, kind in draws.values())
    margin = 0.6 if discrete else 0.03 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _marginal(axes: Axes, draws: Draws, reference: str, look: dict[str, Any]) -> None:
    low, high = _window(draws, reference)
    discrete = all(kind for _, kind in draws.values())
    if discrete and high - low < 40:
        values = np.arange(math.ceil(low), math.floor(high) + 1)
        width = 0.8 / max(len(draws) - 1, 1)
        for place, (name, (sample, _)) in enumerate(draws.items()):
            shares = [float((sample == value).mean()) for value in values]
            if name == reference:
                axes.bar(values, shares, width=0.9, color=REFERENCE, zorder=1)
            else:
                offset = (place - len(draws) / 2) * width
                axes.plot(values + offset, shares, "o", color=look[name][0], markersize=3.5, zorder=3)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    else:
        top = 0.0
        for name, (sample, _) in draws.items():
            grid, height = density(sample, low, high)
            if name == reference:
                axes.fill_between(grid, height, color=REFERENCE, linewidth=0, zorder=1)
                top = 2.2 * float(height.max(initial=0.0))
            else:
                axes.plot(grid, height, color=look[name][0], linestyle=look[name][1], linewidth=1.6, zorder=3)
        if top and axes.get_ylim()[1] > top:
            axes.set_ylim(0, top)  # a spike of a point-like posterior shall not flatten the reference
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlim(low, high)
    axes.set_ylim(bottom=0)
    tidy(axes, left=False)


def _handles(comparison: Compared, look: dict[str, Any]) -> tuple[list[Any], list[str]]:
    handles: list[Any] = [Patch(color=REFERENCE)]
    handles += [Line2D([], [], color=colour, linestyle=line, linewidth=2) for colour, line in look.values()]
    return handles, [f"{comparison.reference} (reference)", *look]


def marginals(
    comparison: Compared, quantities: Iterable[str] | None = None, limit: int = 12, columns: int | None = None
) -> Figure:
    """Overlays every method's marginals on the reference's, filled grey; the worst ones where there are many."""
    names = _chosen(comparison, quantities, limit)
    across = columns or min(4, len(names))
    down = math.ceil(len(names) / across)
    figure = sheet(2.7 * across, 1.75 * down + 0.5)
    grid = figure.subplots(down, across, squeeze=False)
    look = colours(list(comparison.pairs))
    _fill_marginals(comparison, names, list(grid.flat), look)
    legend(figure, *_handles(comparison, look))
    return figure


def _fill_marginals(comparison: Compared, names: list[str], cells: list[Axes], look: dict[str, Any]) -> None:
    for axes, name in zip(cells, names, strict=False):
        _marginal(axes, _draws(comparison, name), comparison.reference, look)
        axes.set_title(plain(name), fontsize=9.5, color=INK, loc="left", pad=4)
    for axes in cells[len(names) :]:
        axes.set_axis_off()


def overview(comparison: Compared, quantities: Iterable[str] | None = None, limit: int = 12) -> Figure:
    """Shows the marginals of the worst quantities, and for each method whether each of them agrees."""
    names = _chosen(comparison, quantities, limit)
    look = colours(list(comparison.pairs))
    across = min(4, max(2, math.ceil(math.sqrt(len(names)))))
    down = math.ceil(len(names) / across)
    room = 0.2 + 0.085 * min(20, max(len(name) for name in names))  # for the labels, in columns of 0.92 inches
    side = 0.92 * (len(look) + room)
    figure = sheet(2.45 * across + side, max(1.7 * down, 0.3 * len(names) + 1.2) + 0.6)
    left, right = figure.subfigures(1, 2, width_ratios=[2.45 * across, side], wspace=0.01)
    grid = left.subplots(down, across, squeeze=False)
    _fill_marginals(comparison, names, list(grid.flat), look)
    _status_grid(comparison, names, right.subplots(), look, room)
    legend(figure, *_handles(comparison, look))
    return figure


def _status_grid(comparison: Compared, names: list[str], axes: Axes, look: dict[str, Any], room: float) -> None:
    table = comparison.table.set_index(["method", "quantity"])
    for column, (method, (colour, _)) in enumerate(look.items()):
        for row, name in enumerate(names):
            if (method, name) not in table.index:
                axes.text(column, row, "\u2013", ha="center", va="center", color=FAINT)
                continue
            record = table.loc[(method, name)]
            shade = STATUS[record["status"]]
            box = Rectangle((column - 0.46, row - 0.42), 0.92, 0.84, facecolor=shade, alpha=0.14, linewidth=0)
            axes.add_patch(box)
            label = MARK[record["status"]] + "  " + _short(record)
            axes.text(column, row, label, ha="center", va="center", fontsize=7.5, color=shade)
        verdict = comparison.methods.loc[method, "verdict"]
        axes.text(column, -1.15, plain(method, 12), ha="center", va="center", fontsize=8.5, color=colour, weight="bold")
        axes.text(column, -0.75, str(verdict), ha="center", va="center", fontsize=7, color=STATUS[str(verdict)])
    for row, name in enumerate(names):
        axes.text(-0.58, row, plain(name, 20), ha="right", va="center", fontsize=8.5, color=INK)
    axes.set_xlim(-0.5 - room, len(look) - 0.5)
    axes.set_ylim(len(names) - 0.4, -1.45)
    axes.set_axis_off()
    axes.text(
        (len(look) - 1) / 2,
        len(names) - 0.35,
        "mean off in sd  |  sd ratio",
        ha="center",
        va="top",
        fontsize=7,
        color=FAINT,
        clip_on=False,
    )


def _short(record: Any) -> str:
    ratio = float(record["sd_ratio"])
    size = f"{ratio:.2f}" if ratio < 10 else f"{min(ratio, 999):.0f}"
    shift = round(float(np.clip(record["mean_diff"], -99, 99)), 2) + 0.0
    return f"{shift:+.2f} | {size}" if math.isfinite(shift) and math.isfinite(ratio) else "n/a"


def accuracy(comparison: Compared) -> Figure:
    """Shows every quantity of every method as a point: by how many sds its mean is off, and the ratio of its sds."""
    look = colours(list(comparison.pairs))
    figure = sheet(6.2, 4.6)
    axes = figure.subplots()
    axes.add_patch(
        Rectangle(
            (-MEAN_BOUND, 1 - SD_BOUND), 2 * MEAN_BOUND, 2 * SD_BOUND, facecolor=REFERENCE, alpha=0.6, linewidth=0
        )
    )
    for method, (colour, _) in look.items():
        rows = comparison.table[comparison.table["method"] == method].dropna(subset=["mean_diff", "sd_ratio"])
        rows = rows[(rows["kind"] != "constant") & np.isfinite(rows["sd_ratio"])]
        size = np.clip(rows["sd_ratio"], 1e-3, 1e3)
        axes.errorbar(
            rows["mean_diff"],
            size,
            xerr=rows["mean_diff_error"],
            yerr=np.minimum(rows["sd_ratio_error"], size * 0.95),
            fmt="o",
            color=colour,
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            elinewidth=0.7,
            alpha=0.85,
            zorder=3,
        )
    axes.axhline(1, color=FAINT, linewidth=0.7, zorder=0)
    axes.axvline(0, color=FAINT, linewidth=0.7, zorder=0)
    _ratio_scale(axes)
    span = max(0.4, *(abs(bound) for bound in axes.get_xlim()))
    axes.set_xlim(-span, span)
    axes.set_xlabel("mean: off by this many reference sds", fontsize=9, color=INK)
    axes.set_ylabel("sd / reference sd", fontsize=9, color=INK)
    tidy(axes)
    handles, names = _handles(comparison, look)
    legend(figure, [Patch(color=REFERENCE, alpha=0.6), *handles[1:]], ["close enough", *names[1:]])
    return figure


def _ratio_scale(axes: Axes) -> None:
    low, high = axes.get_ylim()
    low, high = max(min(low, 0.75), 1e-3), max(high, 1.33)
    axes.set_yscale("log")
    ticks = [
        tick
        for tick in (0.01, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, 1.1, 1.4, 2.0, 3.0, 5.0, 10.0, 100.0)
        if low <= tick <= high
    ]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(low, high)


def forest(comparison: Compared, quantities: Iterable[str] | None = None, limit: int = 20) -> Figure:
    """Shows medians with central 50% and 90% intervals, in reference sds from the reference's mean."""
    names = _chosen(comparison, quantities, limit)
    look = colours(list(comparison.pairs))
    figure = sheet(6.8, len(names) * (0.12 * (len(look) + 1) + 0.12) + 1.0)
    axes = figure.subplots()
    step = 0.8 / (len(look) + 1)
    scales = comparison.table.drop_duplicates("quantity").set_index("quantity")
    for row, name in enumerate(names):
        scale = float(scales.loc[name, "ref_sd"]) or 1.0
        for place, (who, (sample, _)) in enumerate(_draws(comparison, name).items()):
            levels = np.quantile(sample, [0.05, 0.25, 0.5, 0.75, 0.95])
            levels = (levels - float(scales.loc[name, "ref_mean"])) / scale
            height = row - 0.4 + (place + 0.5) * step
            colour = "#7C828B" if who == comparison.reference else look[who][0]
            axes.plot(levels[[0, 4]], [height, height], color=colour, linewidth=1.1, solid_capstyle="round")
            axes.plot(levels[[1, 3]], [height, height], color=colour, linewidth=3.0, solid_capstyle="round")
            axes.plot(levels[2], height, "o", color="white", markeredgecolor=colour, markersize=3.6)
        if row % 2:
            axes.axhspan(row - 0.5, row + 0.5, color="#F5F6F8", zorder=0)
    axes.axvline(0, color=FAINT, linewidth=0.7, zorder=0)
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -12), min(high, 12))
    axes.set_xlabel("reference sds from the reference mean: median, central 50% and 90%", fontsize=8.5, color=INK)
    tidy(axes)
    axes.tick_params(axis="y", length=0)
    handles, labels = _handles(comparison, look)
    legend(figure, [Line2D([], [], color="#7C828B", linewidth=3), *handles[1:]], labels)
    return figure


def pairs(comparison: Compared, quantities: Iterable[str] | None = None, limit: int = 4, draws: int = 500) -> Figure:
    """Shows quantities two by two: the reference's draws as dots, methods as outlines of 50% and 90% of theirs."""
    names = _chosen(comparison, quantities, limit)
    if len(names) < 2:
        raise ArgumentError(f"pairs need two quantities, there is {len(names)}. Fix: use plot('marginals') instead.")
    look = colours(list(comparison.pairs))
    sample = {name: _draws(comparison, name) for name in names}
    size = len(names)
    figure = sheet(2.0 * size + 0.3, 2.0 * size + 0.6)
    grid = figure.subplots(size, size, squeeze=False)
    windows = {name: _window(found, comparison.reference) for name, found in sample.items()}
    for row, vertical in enumerate(names):
        for column, across in enumerate(names):
            axes = grid[row, column]
            if column > row:
                axes.set_axis_off()
                continue
            if row == column:
                _marginal(axes, sample[across], comparison.reference, look)
            else:
                _joint(axes, sample[across], sample[vertical], comparison.reference, look, draws)
                axes.set_xlim(windows[across])
                axes.set_ylim(windows[vertical])
                tidy(axes)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.tick_params(labelbottom=row == size - 1, labelleft=column == 0 and row > 0, labelsize=7)
            if row == size - 1:
                axes.set_xlabel(plain(across, 20), fontsize=8.5, color=INK)
            if column == 0 and row:
                axes.set_ylabel(plain(vertical, 20), fontsize=8.5, color=INK)
    legend(figure, *_handles(comparison, look))
    return figure


def _joint(axes: Axes, across: Draws, vertical: Draws, reference: str, look: dict[str, Any], draws: int) -> None:
    """Dots for the reference, and for every method the regions of highest density with half and 90% of its mass."""
    for name in across:
        if name not in vertical or across[name][0].size != vertical[name][0].size:
            continue
        step = max(1, across[name][0].size // draws)
        x, y = across[name][0][::step], vertical[name][0][::step]
        if name == reference:
            axes.plot(x, y, ".", color="#B4B9C1", markersize=3, alpha=0.6, zorder=1, markeredgewidth=0)
        elif (contour := _contour(x, y)) is not None:
            grid_x, grid_y, height, levels = contour
            colour, line = look[name]
            widths = [0.9, 1.6][-len(levels) :]
            axes.contour(
                grid_x, grid_y, height, levels, colors=[colour], linestyles=[line], linewidths=widths, zorder=3
            )


def _contour(x: Array, y: Array) -> tuple[Array, Array, Array, list[float]] | None:
    """Returns a grid, a kernel density on it, and its levels around 90% and 50% of the draws, if it has any."""
    from scipy.stats import gaussian_kde

    if x.size < 20 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    points = np.stack([(x - x.mean()) / x.std(), (y - y.mean()) / y.std()])
    if abs(np.corrcoef(points)[0, 1]) > 0.99999:
        return None
    kernel = gaussian_kde(points)
    low, high = np.quantile(points, [0.005, 0.995], axis=1)
    axis_x, axis_y = (np.linspace(low[i] - 0.4, high[i] + 0.4, 48) for i in (0, 1))
    mesh_x, mesh_y = np.meshgrid(axis_x, axis_y)
    height = kernel(np.stack([mesh_x.ravel(), mesh_y.ravel()])).reshape(mesh_x.shape)
    levels = np.unique(np.quantile(kernel(points), [0.1, 0.5]))
    return axis_x * x.std() + x.mean(), axis_y * y.std() + y.mean(), height, [float(level) for level in levels]


def losses(comparison: Compared) -> Figure:
    """Shows how each optimisation went: the loss against the step, without the fall at the beginning."""
    traces = {
        name: np.asarray(data["optimization"]["loss"].values, dtype=np.float64).reshape(-1)
        for name, data in comparison.trees.items()
        if "optimization" in data.children and "loss" in data["optimization"].data_vars
    }
    if not traces:
        raise ArgumentError("no posterior here has a loss trace. Fix: compare at least one result of lvm.fit.")
    figure = sheet(6.2, 3.4)
    axes = figure.subplots()
    look = colours([*comparison.pairs, comparison.reference])
    within(axes, [course(axes, loss, look[name][0], linestyle=look[name][1]) for name, loss in traces.items()])
    axes.set_xlabel("step", fontsize=9, color=INK)
    axes.set_ylabel("loss (negative ELBO), nats", fontsize=9, color=INK)
    axes.ticklabel_format(axis="y", useOffset=False)
    tidy(axes, grid=True)
    legend(figure, [Line2D([], [], color=look[name][0], linestyle=look[name][1]) for name in traces], list(traces))
    return figure


def energy(comparison: Compared) -> Figure:
    """Shows for each sampler the energy against its changes between draws: unlike widths mean slow exploration."""
    found = {name: stat(data, "energy") for name, data in comparison.trees.items()}
    energies = {name: values for name, values in found.items() if values is not None and values.shape[1] > 4}
    if not energies:
        raise ArgumentError("no posterior here recorded its energy. Fix: compare at least one result of lvm.nuts.")
    figure = sheet(3.6 * len(energies), 2.8)
    for axes, (name, values) in zip(
        figure.subplots(1, len(energies), squeeze=False).flat, energies.items(), strict=True
    ):
        level, change = (values - values.mean()).reshape(-1), np.diff(values, axis=1).reshape(-1)
        low, high = np.quantile(np.concatenate([level, change]), [0.002, 0.998])
        grid, height = density(level.astype(np.float64), low, high)
        axes.fill_between(grid, height, color=REFERENCE, linewidth=0, label="energy")
        axes.plot(*density(change.astype(np.float64), low, high), color="#0072B2", linewidth=1.6, label="change")
        axes.set_title(plain(name), fontsize=9.5, color=INK, loc="left")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
        tidy(axes, left=False)
    return figure


KINDS: dict[str, Callable[..., Figure]] = {
    "overview": overview,
    "accuracy": accuracy,
    "forest": forest,
    "marginals": marginals,
    "pairs": pairs,
    "losses": losses,
    "energy": energy,
}
"""Every kind of plot, by the name that ``Comparison.plot`` takes."""
