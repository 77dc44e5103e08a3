"""A check as HTML: for a notebook cell, and as one page that opens anywhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from pyrolvm._check.discrepancy.checked import Checked
from pyrolvm._check.discrepancy.judging import EXTREME
from pyrolvm._check.discrepancy.plots import CAPTIONS, drawn
from pyrolvm._compat.notebooks import html
from pyrolvm._report.webpage import document, in_notebook, picture, scrolling, section, table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["draw", "fragment", "page"]

SHOWN = 30
"""Rows of a table in a notebook."""

_READ = """
<b>p</b> is the share of replicated data sets whose feature is above that of the data. Those after inference come from a posterior
that has seen the data: p gathers around 1/2 even where the model is wrong, so that a moderate p is no proof of anything, while an
extreme one says that the model does not make what is there. Those before inference say what the prior thinks possible.
<b>Sensitivity</b> is how much the posterior moves when the prior, or the likelihood, is raised to a power near one: from 0.05 on it
counts. Both high: they may disagree. Prior high and likelihood low: the prior decides.
"""


def draw(check: Checked, kind: str) -> Figure:
    """A picture of a check."""
    return drawn(check, kind)


def fragment(check: Checked) -> str:
    """Returns tables and verdict for a notebook cell."""
    return in_notebook(f"<b>{escape(_title(check))}</b> {html(check.verdict)}{_tables(check, SHOWN)}")


def page(check: Checked) -> str:
    """Returns the whole page."""
    pictures = [section(kind.capitalize(), picture(text, drawn(check, kind), text)) for kind, text in CAPTIONS.items()]
    read = section("How to read this", f"<p>{_READ}</p>")
    features = sum(len(table) for table in check.tables.values())
    lead = f"{features} features of the data of {check.problem}"
    sections = [section("Estimates", _tables(check, 500)), section("Verdict", html(check.verdict)), *pictures, read]
    return document(_title(check), lead, sections, [check.origin], verdict=check.verdict)


def _title(check: Checked) -> str:
    return (
        f"{check.name} of {check.problem}, checked"
        if check.name != "prior"
        else f"The prior of {check.problem}, checked"
    )


def _tables(check: Checked, most: int) -> str:
    parts = [
        f"<h3>{kind.replace('_', ' ').capitalize()}</h3>{_table(found, most)}"
        for kind, found in check.tables.items()
        if len(found)
    ]
    if check.sensitivity is not None:
        shown = table(check.sensitivity, digits=2, most=most)
        parts.append(f"<h3>Sensitivity to prior and likelihood</h3>{shown}")
    return "".join(parts)


def _table(found: pd.DataFrame, most: int) -> str:
    head = "".join(
        f"<th class={'text' if name in _TEXT else 'number'}>{name}</th>" for name in (*_TEXT, *found.columns)
    )
    body = []
    for (site, group, statistic), row in found.head(most).iterrows():
        kind = "differs" if min(row["p"], 1 - row["p"]) < EXTREME else "number"
        cells = "".join(f"<td>{row[name]:.4g}</td>" for name in found.columns if name != "p")
        names = "".join(f"<td class=text>{escape(str(one))}</td>" for one in (site, group, statistic))
        body.append(f"<tr>{names}{cells}<td class={kind}>{row['p']:.3f}</td></tr>")
    more = f"<p class=small>{len(found) - most} rows more: .table has them.</p>" if len(found) > most else ""
    content = f"<table><tr>{head}</tr>{''.join(body)}</table>"
    return scrolling(content, "features", columns=len(_TEXT) + found.shape[1], rows=len(body)) + more


_TEXT = ("site", "group", "statistic")
