"""HTML pages that open anywhere: styles and pictures inside, no scripts, nothing fetched.

All pages are made by :func:`document`: estimates first, then pictures and checks, and at the end where it all comes from. They follow
the reader's choice of light or dark, are read at the width of a telephone, and print.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.verdict import Verdict, badge
from pyrolvm._report.origin import Origin, written_now
from pyrolvm._report.rules import EITHER, PAGE, RULES
from pyrolvm._report.vector import drawing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["document", "in_notebook", "panels", "picture", "scrolling", "section", "significant", "table"]

NARROW = 5
"""Columns of a table that a telephone shows at once."""
TALL = 25
"""Rows of a table from which it scrolls downwards, too."""
SLIM = 4.9
"""Inches of a figure that a telephone shows at once."""
DIGITS = 4
"""Significant ones of a number in a table."""


def document(
    title: str, lead: str, sections: Iterable[str], origins: Iterable[Origin] = (), *, verdict: Verdict | None = None
) -> str:
    """A whole page.

    Args:
        title: plain text.
        lead: what it is of, in a line of plain text.
        sections: HTML, in which all that comes from outside is escaped.
        origins: what problems, data and versions it is of; the same one is told once.
        verdict: whether it can be used, in a word beside the title.
    """
    mark = "" if verdict is None else f" <span class=mark>{badge(verdict.status)}</span>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Whatever a site is called, the browser is told to fetch and run nothing.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{PAGE}</style></head><body>"
        f"<h1>{escape(title)}{mark}</h1><p class=lead>{escape(lead)}</p>{''.join(sections)}"
        f"{_from(list(dict.fromkeys(origins)))}</body></html>\n"
    )


def _from(origins: list[Origin]) -> str:
    """Where a page comes from: problems, data, programs, versions, the command and the date."""
    facts = [fact for one in origins for fact in one.facts().items()] + list(written_now().items())
    told = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts if text)
    programs = "".join(
        f"<details><summary>The program {escape(one.problem)}</summary><pre>{escape(one.source)}</pre></details>"
        for one in origins
        if one.source
    )
    return section("Where this comes from", f"<dl>{told}</dl>{programs}")


def section(heading: str, *parts: str) -> str:
    """A part of a page under a heading of plain text; nothing where there is nothing under it."""
    return f"<h2>{escape(heading)}</h2>{''.join(parts)}" if any(parts) else ""


def in_notebook(body: str) -> str:
    """HTML of our own as a notebook shows it, with its styles: on a light page and on a dark one."""
    return f"<style scoped>{_notebook_style()}</style><div class='pyrolvm'>{body}</div>"


def scrolling(content: str, what: str = "table", *, columns: int = NARROW + 1, rows: int = 0) -> str:
    """A table that scrolls where it is too wide or too long, and says so.

    Args:
        content: its HTML.
        what: what it is of, plain text.
        columns: how many it has.
        rows: how many it has.
    """
    hint, tall = ("<p class=hint>The table scrolls sideways.</p>" if columns > NARROW else ""), ""
    if rows > TALL:
        hint, tall = f"<p class='hint always'>{rows:,} rows: the table scrolls.</p>", " tall"
    return f'{hint}<div class="wide table{tall}" role=region tabindex=0 aria-label="{escape(what)}, scrolls">{content}</div>'


def table(frame: pd.DataFrame, *, digits: int | Mapping[str, int] = DIGITS, most: int = 50, what: str = "table") -> str:
    """A DataFrame as a table that scrolls where it is too wide.

    Args:
        frame: the table; text in it is escaped, and stands to the left.
        digits: of numbers, significant ones; of some columns, by their names.
        most: rows that are shown; how many there are more is said below.
        what: what it is of, for those who hear the page.
    """
    if not len(frame):
        return ""
    shown, sorts = frame.head(most), [kind.kind for kind in frame.dtypes]
    marks = [" class=text" if sort not in "biufc" else "" for sort in sorts]
    of = [digits if isinstance(digits, int) else digits.get(str(name), DIGITS) for name in shown.columns]
    names = "".join(f"<th{mark}>{escape(str(name))}</th>" for name, mark in zip(shown.columns, marks, strict=True))
    lines = []
    for label, *values in shown.itertuples(name=None):
        cells = "".join(
            f"<td{mark}>{_cell(value, most)}</td>" for value, mark, most in zip(values, marks, of, strict=True)
        )
        told = ", ".join(map(str, label)) if isinstance(label, tuple) else str(label)
        lines.append(f"<tr><th>{escape(told)}</th>{cells}</tr>")
    rows = f"<table><thead><tr><th></th>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    more = f"<p class=small>{len(frame) - most:,} rows more.</p>" if len(frame) > most else ""
    return scrolling(rows, what, columns=frame.shape[1] + 1, rows=len(shown)) + more


def _cell(value: object, digits: int) -> str:
    """A value in a table: numbers with as many digits as each other, so that they can be compared at a glance."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if not isinstance(value, Real) or isinstance(value, int | np.integer):
        return "\u2013" if value is None else escape(str(value))
    number = float(value)
    return "\u2013" if math.isnan(number) else significant(number, digits)


def significant(number: float, digits: int) -> str:
    """A number with so many significant digits, zeros at its end included; a whole one without them."""
    whole = not math.isfinite(number) or number == round(number)
    return f"{number:.{digits}g}" if whole else f"{number:#.{digits}g}".removesuffix(".")


def picture(alt: str, figure: Figure, caption: str = "") -> str:
    """A figure inside the page, as wide as the page.

    Args:
        alt: what it shows, for those who do not see it; plain text.
        figure: the figure; its lines and letters take the page's colours.
        caption: plain text below it.
    """
    told = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    hint = "<p class=hint>The picture scrolls sideways.</p>" if figure.get_figwidth() > SLIM else ""
    return f"<figure>{hint}<div class=wide tabindex=0>{drawing(alt, figure)}</div>{told}</figure>"


def panels(figures: Iterable[tuple[str, Figure]]) -> str:
    """Small figures of one kind, as many beside each other as there is room for; each with what it shows."""
    shown = "".join(f"<figure>{drawing(alt, figure)}</figure>" for alt, figure in figures)
    return f"<div class=panels>{shown}</div>" if shown else ""


def _notebook_style() -> str:
    """The rules that pages and notebooks share, confined to a block of the class ``pyrolvm``."""
    rules = [rule for rule in RULES.replace("\n", "").split("}") if rule]
    scoped = [f".pyrolvm{{{EITHER}}}"]
    for rule in rules:
        selectors, body = rule.split("{")
        scoped.append(",".join(f".pyrolvm {selector}" for selector in selectors.split(",")) + "{" + body + "}")
    return "".join([*scoped, ".pyrolvm .hint{display:none}"])
