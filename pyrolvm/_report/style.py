"""One look for all plots: colours that colour-blind readers can tell apart, thin axes, the reference in grey."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine

from pyrolvm._base.numerics import Array, array_stats

__all__ = [
    "BAD", "INK", "PALETTE", "REFERENCE", "STATUS", "Sheet", "colours", "course", "density", "legend", "tidy", "within"
]  # fmt: skip

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#5B5B5B")
"""Okabe and Ito's colours, those that carry on white."""
REFERENCE = "#C9CDD3"
INK = "#2B2F36"
FAINT = "#8A9099"
BAD = "#B3261E"
STATUS = {"agrees": "#1B7F5C", "unclear": "#B36B00", "differs": "#B3261E", "trusted": "#1B7F5C", "doubtful": "#B36B00"}
STATUS["failed"] = BAD
MARK = {"agrees": "\u2713", "unclear": "?", "differs": "\u2717"}
_STYLES = ("-", (0, (5, 1.5)), "-", (0, (2, 1)), "-", (0, (5, 1, 1, 1)), "-", "-")


class Sheet(Figure):
    """A Figure without pyplot's global state, which notebooks can show by themselves."""

    _laid_out = False

    def get_layout_engine(self) -> LayoutEngine | None:
        """What places the axes; nothing while a picture is written whose axes are in their places."""
        return None if self._laid_out else super().get_layout_engine()

    def savefig(self, fname: Any, **options: Any) -> None:
        """As a Figure's, with its axes placed first: matplotlib would draw all of it twice for that."""
        engine = self.get_layout_engine()
        if engine is None:
            super().savefig(fname, **options)
            return
        engine.execute(self)
        self._laid_out = True
        try:
            super().savefig(fname, **options)
        finally:
            self._laid_out = False
            self.set_layout_engine(engine)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def sheet(width: float, height: float) -> Sheet:
    """Returns an empty white figure, size in inches."""
    figure = Sheet(figsize=(width, height), facecolor="white", layout="constrained")
    figure.set_layout_engine("constrained", wspace=0.04, hspace=0.05)
    return figure


def colours(methods: list[str]) -> dict[str, tuple[str, Any]]:
    """Returns a colour and a line style for each method."""
    return {
        name: (PALETTE[i % len(PALETTE)], _STYLES[(i + i // len(PALETTE)) % len(_STYLES)])
        for i, name in enumerate(methods)
    }


def plain(text: str, width: int = 28) -> str:
    """Returns a label that matplotlib draws as it is: no mathematics, not too long."""
    short = text if len(text) <= width else text[: width - 1] + "\u2026"
    return short.replace("$", r"\$")


def tidy(axes: Axes, *, left: bool = True, grid: bool = False) -> None:
    """Takes away what is not needed to read the axes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.spines[["left", "bottom"]].set_linewidth(0.8)
    axes.tick_params(colors=INK, labelsize=8, length=3, width=0.8)
    if not left:
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
    if grid:
        axes.grid(color="#ECEEF1", linewidth=0.8)
        axes.set_axisbelow(True)


def density(values: Array, low: float, high: float) -> tuple[Array, Array]:
    """Returns a kernel density of draws on [low, high], scaled to the share of draws that lie there."""
    inside = values[(values >= low) & (values <= high)]
    if inside.size < 10 or np.ptp(inside) == 0:
        return np.array([low, high]), np.zeros(2)
    grid, height, _ = array_stats().kde(inside, circular=False, grid_len=128, bw_fct=1.25)
    return np.asarray(grid), np.asarray(height) * inside.size / values.size


def course(axes: Axes, trace: Array, colour: str, **look: Any) -> Array:
    """Draws a noisy course of losses: faintly as they are, and their means over a fiftieth of the steps.

    Returns:
        What is to be seen of it, shape ``(2,)``: from the lowest of its later steps to what the early fall does not exceed for long.
    """
    fine, coarse = (_means(trace, count) for count in (_FINE, _COARSE))
    axes.plot(*fine, color=colour, linewidth=0.7, alpha=0.3)
    axes.plot(*coarse, color=colour, linewidth=1.6, **look)
    seen = fine[1][np.isfinite(fine[1])]
    return np.quantile(seen, [0.01, 0.95]) if seen.size else np.full(2, np.nan)


_FINE, _COARSE = 300, 50


def _means(trace: Array, count: int) -> tuple[Array, Array]:
    width = max(1, trace.size // count)
    return (
        (np.arange(trace.size // width) + 0.5) * width,
        trace[: trace.size // width * width].reshape(-1, width).mean(axis=1),
    )


def within(axes: Axes, spans: list[Array]) -> None:
    """Shows what several courses span, and a little more."""
    known = np.array([span for span in spans if np.isfinite(span).all()]).reshape(-1, 2)
    if len(known):
        low, high = float(known[:, 0].min()), float(known[:, 1].max())
        room = max(high - low, 1e-6 * abs(low), 1e-12)
        axes.set_ylim(low - 0.15 * room, high + 0.15 * room)


def legend(figure: Figure, handles: list[Any], names: list[str]) -> None:
    """Puts one legend above everything, in as many rows as its width asks for."""
    labels = [plain(name, 40) for name in names]
    widest = 0.5 + 0.085 * max(len(label) for label in labels)  # inches: the handle, and letters at size 9
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=max(1, min(len(names), 6, int(figure.get_figwidth() / widest))),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
