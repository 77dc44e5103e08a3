"""A result as HTML for a notebook cell: estimates, the verdict with its reasons, and what made them."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from pyrolvm._base.verdict import Verdict
from pyrolvm._compat.notebooks import html
from pyrolvm._report.webpage import in_notebook
from pyrolvm._report.webpage import table as frame

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
    return in_notebook(
        f"<b>{escape(title)}</b> {html(verdict)}<p class=small>{told}</p>{frame(table, most=len(table) or 1)}"
        + (f"<p class=small>{escape(more)}</p>" if more else "")
        + (f"<details><summary>All groups of data</summary>{rest}</details>" if rest else "")
    )
