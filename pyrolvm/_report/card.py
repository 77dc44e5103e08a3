"""A result as HTML for a notebook cell: estimates, the verdict with its reasons, and what made them."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from pyrolvm._base.verdict import Verdict
from pyrolvm._compat.notebooks import html
from pyrolvm._report.webpage import notebook_style

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["card"]


def card(title: str, facts: Mapping[str, str], verdict: Verdict, table: pd.DataFrame, more: str, rest: str) -> str:
    """HTML for a notebook cell: estimates, the verdict with its reasons, and what made them.

    Args:
        title: plain text.
        facts: what made it, plain text by name.
        verdict: whether it may be used.
        table: its estimates.
        more: what the table leaves out, plain text; may be empty.
        rest: HTML that is folded away.
    """
    told = " &nbsp; ".join(f"{escape(name)} <b>{escape(text)}</b>" for name, text in facts.items())
    rows = table.to_html(float_format=_number, border=0, escape=True, na_rep="&ndash;", index_names=False)
    return (
        f"<style scoped>{notebook_style()}</style><div class='pyrolvm'><b>{escape(title)}</b> {html(verdict)}"
        f"<p class=small>{told}</p>"
        + (f"<div class=wide>{rows.replace('&amp;ndash;', '&ndash;')}</div>" if len(table) else "")
        + (f"<p class=small>{escape(more)}</p>" if more else "")
        + (f"<details><summary>All groups of data</summary>{rest}</details>" if rest else "")
        + "</div>"
    )


def _number(value: float) -> str:
    return f"{value:.4g}"
