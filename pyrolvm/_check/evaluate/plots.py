"""Pictures of an evaluation: figures in one sheet, images in grids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyrolvm._check.evaluate.evaluated import Evaluated
from pyrolvm._diagnosis.collapse import ACTIVE
from pyrolvm._report.style import FAINT, INK, PALETTE, REFERENCE, plain, sheet, tidy

if TYPE_CHECKING:
    from pyrolvm._program.image import Image

__all__ = ["CAPTIONS", "draw", "drawn", "grid", "image_grid"]

Array = NDArray[np.float64]

CELL = 0.62
"""Inches of a small picture."""

GAP, EDGE = 4, 0.79
"""Between pictures: white pixels of the canvas, and the grey of the line around each."""

CAPTIONS = {
    "figures": "Densities of rows, their places in predictive distributions, the bound of so many draws, how much each unit varies, "
    "scores of other data.",
    "data and reconstructions": "Rows as they are, and the mean of the likelihood at the posterior mean of their latents.",
    "samples": "The mean of the likelihood at latents drawn from the prior; without latents, draws of the model.",
    "sampled data": "Draws of the model: latents from the prior, data from the likelihood.",
    "interpolations": "Between the latents of two rows, along an arc.",
}


def drawn(evaluation: Evaluated) -> dict[str, Figure]:
    """Every picture by name."""
    found = {"figures": draw(evaluation)}
    image = evaluation.image
    if image is None or "pictures" not in evaluation.data.children:
        return found
    arrays = {str(name): values.to_numpy() for name, values in evaluation.data["pictures"].data_vars.items()}
    shapes = {name: image.pictures(values) for name, values in arrays.items()}
    low, high = _span(evaluation, arrays)
    if "data" in shapes and "reconstructions" in shapes:
        rows = np.stack([shapes["data"], shapes["reconstructions"]])
        found["data and reconstructions"] = grid(rows, ["data", "again"], low, high)
    elif "data" in shapes:
        found["data"] = grid(shapes["data"][None], ["data"], low, high)
    for name in ("samples", "sampled_data"):
        if name in shapes and not (
            name == "sampled_data" and "samples" in shapes and np.array_equal(shapes[name], shapes["samples"])
        ):
            wide = _wide(shapes[name])
            found[name.replace("_", " ")] = grid(wide, [""] * len(wide), low, high)
    if "interpolations" in shapes:
        found["interpolations"] = grid(shapes["interpolations"], [""] * len(shapes["interpolations"]), low, high)
    for name, titles in evaluation.titles.items():
        key = name.replace(" ", "_").replace("/", ".")
        if key in shapes:
            found[name] = grid(shapes[key], titles, low, high)
    return found


def grid(rows: Array, titles: list[str], low: float, high: float) -> Figure:
    """Images ``(rows, columns, height, width)`` or ``(..., 3)`` as a grid, a title for each row."""
    count, wide, height, width = rows.shape[:4]
    zoom = max(
        1, round(40 / max(height, width))
    )  # whole pixels of the canvas for one of the images, so that gaps are thin
    shares = np.clip((rows - low) / (high - low), 0, 1)
    shades = shares if rows.ndim == 5 else np.repeat(1 - shares[..., None], 3, axis=-1)
    tall, broad = zoom * height + GAP, zoom * width + GAP
    canvas = np.full((count * tall + GAP, wide * broad + GAP, 3), 1.0)
    for i, j in np.ndindex(count, wide):
        top, left = i * tall + GAP, j * broad + GAP
        canvas[top - 1 : top + tall - GAP + 1, left - 1 : left + broad - GAP + 1] = EDGE
        canvas[top : top + tall - GAP, left : left + broad - GAP] = (
            shades[i, j].repeat(zoom, axis=0).repeat(zoom, axis=1)
        )
    label = 0.085 * max(len(title) for title in titles) + 0.1
    figure = sheet(CELL * wide + label, CELL * height / width * count + 0.1)
    figure.set_layout_engine("none")
    axes = figure.add_axes((label / figure.get_figwidth(), 0.0, 1 - label / figure.get_figwidth(), 1.0))
    axes.imshow(canvas, interpolation="antialiased", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks(GAP + tall * (np.arange(count) + 0.5), [plain(title, 24) for title in titles])
    axes.tick_params(length=0, labelsize=8, labelcolor=INK)
    axes.set_frame_on(False)
    return figure


def image_grid(image: Image, values: Array) -> Figure:
    """Rows of values as a grid of images, as many as there are, from the lowest value to the highest."""
    shown = image.pictures(values)
    shown = shown.reshape(-1, *shown.shape[-(2 if image.channels == 1 else 3) :])
    wide = _wide(shown)
    low, high = float(values.min()), float(values.max())
    return grid(wide, [""] * len(wide), low, high if high > low else low + 1)


def _span(evaluation: Evaluated, arrays: dict[str, Array]) -> tuple[float, float]:
    """Which values are white and black: those of the data, or of what is drawn where data are not there."""
    seen = arrays.get("data", arrays.get("sampled_data"))
    if seen is None:
        return 0.0, 1.0
    low, high = float(seen.min()), float(seen.max())
    return (low, high) if high > low else (low, low + 1.0)


def _wide(images: Array, columns: int = 12) -> Array:
    """A list of images as rows of a grid; what does not fill a row is left out."""
    columns = min(columns, len(images))
    whole = len(images) // columns * columns
    return images[:whole].reshape(-1, columns, *images.shape[1:])


def draw(evaluation: Evaluated) -> Figure:
    """Densities of rows, the bound of several draws, units and scores, as far as there are such."""
    panels = [_density]
    if "pit" in evaluation.data["rows"]:
        panels.append(_places)
    if "bounds" in evaluation.data.children:
        panels.append(_bounds)
    if evaluation.units is not None:
        panels.append(_units)
    if evaluation.auroc is not None:
        panels.append(_outliers)
    figure = sheet(3.6 * len(panels) + 0.4, 3.3)
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for panel, one in zip(panels, axes, strict=True):
        panel(evaluation, one)
        one.grid(axis="y", color=FAINT, alpha=0.2, linewidth=0.6)
        tidy(one)
    return figure


def _density(evaluation: Evaluated, axes: Axes) -> None:
    groups = {"held out" if "train_rows" in evaluation.data.children else "rows": "rows", "training": "train_rows"}
    values = {
        label: evaluation.data[group]["log_p"].to_numpy()
        for label, group in groups.items()
        if group in evaluation.data.children
    }
    values = {label: rows[np.isfinite(rows)] for label, rows in values.items()}
    every = np.concatenate(list(values.values()))
    if every.size == 0:
        return
    low, high = np.quantile(every, [0.001, 0.999] if len(every) > 1_000 else [0.0, 1.0])
    bins: Any = np.linspace(float(low), float(high), 41) if high > low else 10
    for (label, rows), colour in zip(values.items(), PALETTE, strict=False):
        axes.hist(rows, bins=bins, density=True, histtype="step", color=colour, linewidth=1.4, label=label)
        axes.axvline(float(rows.mean()), color=colour, linewidth=1, linestyle=":")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")
    axes.set_xlabel("log p(x) of a row, nats", fontsize=9, color=INK)
    axes.set_ylabel("share", fontsize=9, color=INK)
    axes.set_yticks([])


def _places(evaluation: Evaluated, axes: Axes) -> None:
    """Where values lie in their predictive distributions: level where these are calibrated."""
    places = evaluation.data["rows"]["pit"].to_numpy()
    bins = int(np.clip(len(places) // 10, 4, 20))
    axes.hist(places, bins=bins, range=(0.0, 1.0), density=True, color=PALETTE[0], alpha=0.8)
    axes.axhline(1.0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel("place of a value in its predictive distribution (PIT)", fontsize=9, color=INK)
    axes.set_yticks([])


def _bounds(evaluation: Evaluated, axes: Axes) -> None:
    bounds = evaluation.data["bounds"]["bound"]
    axes.plot(bounds["draws"].to_numpy(), bounds.to_numpy(), color=PALETTE[0], marker="o", markersize=3, linewidth=1.4)
    axes.axhline(evaluation.log_p, color=REFERENCE, linewidth=1)
    axes.set_xscale("log")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xlabel("draws K", fontsize=9, color=INK)
    axes.set_ylabel("bound, nats a row", fontsize=9, color=INK)


def _units(evaluation: Evaluated, axes: Axes) -> None:
    assert evaluation.units is not None
    sites = list(dict.fromkeys(evaluation.units["site"]))
    start = 0
    for site, colour in zip(sites, PALETTE * len(sites), strict=False):
        mine = evaluation.units[evaluation.units["site"] == site].sort_values(
            "variance_of_mean", ascending=False, kind="stable"
        )
        colours = np.where(mine["active"].to_numpy(), colour, REFERENCE)
        axes.bar(
            np.arange(start, start + len(mine)),
            np.maximum(mine["variance_of_mean"], 1e-4),
            color=list(colours),
            label=plain(site),
        )
        start += len(mine)
    axes.axhline(ACTIVE, color=INK, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.set_xlabel("units, by site" if len(sites) > 1 else f"units of {plain(sites[0])}", fontsize=9, color=INK)
    axes.set_ylabel("variance of the mean over rows", fontsize=9, color=INK)
    axes.set_title(
        f"{int(evaluation.units['active'].sum())} of {len(evaluation.units)} active",
        fontsize=9.5,
        color=INK,
        loc="left",
        pad=4,
    )


def _outliers(evaluation: Evaluated, axes: Axes) -> None:
    table = evaluation.auroc
    assert table is not None
    height = 0.8 / len(table)
    places = np.arange(len(table.columns))
    for i, (name, row) in enumerate(table.iterrows()):
        axes.barh(
            places + i * height, row.to_numpy(), height=height, color=PALETTE[i % len(PALETTE)], label=plain(str(name))
        )
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
    axes.set_yticks(places + 0.4 - height / 2, [plain(str(column)) for column in table.columns])
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1))
    axes.set_xlabel("AUROC", fontsize=9, color=INK)
