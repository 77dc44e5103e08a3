"""Figures as SVG inside a page: small, in the page's colours, with letters that can be read and found."""

from __future__ import annotations

import base64
import re
from html import escape
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["drawing"]

MOST = 120_000
"""Bytes above which a figure is an image of dots: that many marks are nothing to look at closely."""

_COLOURS = {
    "#000000": "var(--ink)", "#2b2f36": "var(--ink)", "#8a9099": "var(--faint)", "#c9cdd3": "var(--area)", "#ffffff": "var(--paper)",
    "#f5f6f8": "var(--shade)", "#eceef1": "var(--rule)", "#7c828b": "var(--faint)",
    "#1b7f5c": "var(--good)", "#b36b00": "var(--unsure)", "#b3261e": "var(--bad)",
    "#0072b2": "var(--first)",
}  # fmt: skip
"""Colours of figures that are the page's."""

_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_PLACES = re.compile(r' (?:d|x|y|x1|x2|y1|y2|width|height|points)="[^"]*"')
_HEAD = re.compile(r"^.*?(?=<svg )|<metadata>.*?</metadata>|<!--.*?-->", re.S)
_TAG = re.compile(r"<svg [^>]*?>", re.S)
_BOX = re.compile(r'viewBox="([^"]*)"')
_NAMED = re.compile(r' id="([^"]*)"')
_DOT = re.compile(r'<use xlink:href="#([^"]+)" x="([^"]+)" y="([^"]+)" style="([^"]*)"/>\s*')
_FONT = re.compile(r"font-family: [^;\"]*; ?")
_UNTURNED = re.compile(r' transform="rotate\(-?0(?:\.0*)?[ ,][^"]*"')
_LINE = re.compile(r' d="(M [-\d.]+ [-\d.]+(?: L [-\d.]+ [-\d.]+){3,})( z)? ?"')
_ASKED = re.compile(r'(?:href="#|url\(#)([^")]+)')


def drawing(alt: str, figure: Figure) -> str:
    """A figure as an element of a page, without a size of its own.

    Args:
        alt: what it shows, plain text.
        figure: the figure.
    """
    text = _svg(figure, alt)
    if len(text) <= MOST:
        return text
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return text if len(text) < len(data) else f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _svg(figure: Figure, alt: str) -> str:
    import matplotlib

    buffer = BytesIO()
    grounds = [axes.patch for axes in figure.axes if axes.patch.get_visible()]
    for ground in grounds:
        ground.set_visible(False)  # it would hide that there is more at the page's edge
    try:
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt, "path.simplify_threshold": 0.3}):
            figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    finally:
        for ground in grounds:
            ground.set_visible(True)
    text = re.sub(r"\s*\n\s*", " ", _HEAD.sub("", buffer.getvalue().decode("utf-8")))
    box = _BOX.search(text)
    assert box is not None
    size = _NUMBER.sub(_rounded, box.group(1))
    wide = float(size.split()[2])
    head = f'<svg role="img" aria-label="{escape(alt)}" viewBox="{size}" style="--w:{wide:.0f}px">'
    text = _TAG.sub(lambda _: head, text, count=1)
    text = _PLACES.sub(lambda found: _NUMBER.sub(_rounded, found.group()), text)
    text = _with_dots(text)
    text = _LINE.sub(_simpler, _FONT.sub("", _UNTURNED.sub("", text)))
    asked = set(_ASKED.findall(text))
    text = _NAMED.sub(lambda found: found.group() if found.group(1) in asked else "", text)
    for theirs, ours in _COLOURS.items():
        text = text.replace(theirs, ours)
    text = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", text, flags=re.S)
    return re.sub(r"> +<", "><", text).strip()


NEAR = 0.12
"""How far a line may be from the points that are left out of it, in points of print."""


def _simpler(found: re.Match[str]) -> str:
    """A line without the points that nobody sees are missing."""
    numbers = [float(one) for one in re.findall(r"-?[\d.]+", found.group(1))]
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    kept, first = [points[0]], 0
    while first < len(points) - 1:
        last = first + 1
        while last + 1 < len(points) and _straight(points, first, last + 1):
            last += 1
        kept.append(points[last])
        first = last
    told = "".join(_step(*pair) for pair in pairwise(kept))
    return f' d="M{kept[0][0]:g} {kept[0][1]:g}{told}{"z" if found.group(2) else ""}"'


def _step(start: tuple[float, float], end: tuple[float, float]) -> str:
    """From one point to the next, in one number where it is level or upright."""
    if start[1] == end[1]:
        return f"H{end[0]:g}"
    return f"V{end[1]:g}" if start[0] == end[0] else f"L{end[0]:g} {end[1]:g}"


def _straight(points: list[tuple[float, float]], first: int, last: int) -> bool:
    """Whether all points between two lie by the line from one to the other."""
    (x0, y0), (x1, y1) = points[first], points[last]
    across, up = x1 - x0, y1 - y0
    length = across * across + up * up
    for x, y in points[first + 1 : last]:
        share = min(max(((x - x0) * across + (y - y0) * up) / length, 0.0), 1.0) if length else 0.0
        off = (x - x0 - share * across) ** 2 + (y - y0 - share * up) ** 2
        if off > NEAR * NEAR:
            return False
    return True


MANY = 40
"""Dots of one kind from which on they are drawn as one line."""


def _with_dots(text: str) -> str:
    """Many dots of one kind, one after the other, as one line of points with round ends: a sixth of the bytes."""
    parts, end = [], 0
    runs: list[list[re.Match[str]]] = []
    for dot in _DOT.finditer(text):
        last = runs[-1][-1] if runs else None
        if last is not None and last.end() == dot.start() and last.group(1, 4) == dot.group(1, 4):
            runs[-1].append(dot)
        else:
            runs.append([dot])
    for run in runs:
        if len(run) >= MANY and (line := _line(run, text)):
            parts += [text[end : run[0].start()], line]
            end = run[-1].end()
    return "".join([*parts, text[end:]])


def _line(dots: list[re.Match[str]], text: str) -> str:
    """The line of points; empty where the marks are no discs."""
    name, _, _, style = dots[0].groups()
    disc = re.search(rf'<path id="{re.escape(name)}" d="M 0 ([\d.]+) ?C', text)
    colour = re.search(r"fill: ([^;]+)", style)
    if disc is None or colour is None:
        return ""
    opacity = re.search(r"fill-opacity: ([\d.]+)", style)
    faint = f";stroke-opacity:{opacity.group(1)}" if opacity else ""
    points = "".join(f"M{dot.group(2)} {dot.group(3)}h0" for dot in dots)
    look = f"fill:none;stroke:{colour.group(1)};stroke-width:{2 * float(disc.group(1)):.1f};stroke-linecap:round{faint}"
    return f'<path d="{points}" style="{look}"/>'


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number.group()):.1f}".removesuffix(".0")
