"""HTML pages that open anywhere: styles and pictures inside, no scripts, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["document", "in_notebook", "picture", "table"]

STYLE = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#2b2f36;background:#fff;
max-width:1180px;margin:2em auto;padding:0 1.5em}
h1{font-size:1.7em;margin:0 0 .2em}
h2{font-size:1.15em;margin:2em 0 .6em;padding-bottom:.25em;border-bottom:1px solid #e3e6ea}
.lead{color:#6a707a;margin:0 0 1.5em}
.wide{overflow-x:auto;margin:.5em 0}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th{font-weight:600;color:#6a707a;text-align:right;padding:.3em .7em;border-bottom:1px solid #c9cdd3;
vertical-align:bottom;background:#fff;position:sticky;top:0}
td{text-align:right;padding:.25em .7em;border-bottom:1px solid #f0f1f4;white-space:nowrap}
th:first-child,td:first-child,td.text,th.text{text-align:left}
tbody th{border-bottom:1px solid #f0f1f4}
.text{text-align:left}
td.note{white-space:normal;text-align:left;color:#6a707a;min-width:12em}
.se{color:#8a9099;font-size:.88em}
.agrees{color:#1b7f5c}.unclear{color:#b36b00}.differs{color:#b3261e}
td.agrees{background:#e8f3ef}td.unclear{background:#faf1e3}td.differs{background:#f9e8e7}
.card{border:1px solid #e3e6ea;border-radius:10px;padding:.8em 1.1em;margin:.6em 0}
.card h3{display:inline;font-size:1.02em;margin:0 .6em 0 0}
.card ul{list-style:none;padding-left:.2em;margin:.4em 0}
.warn{border:2px solid #b3261e;background:#fdf3f2;border-radius:10px;padding:.8em 1.1em;margin:1em 0;font-weight:600}
.advice li{margin:.35em 0}
img{max-width:100%;height:auto;display:block;margin:.6em 0 1.4em}
details{margin:.4em 0}summary{cursor:pointer;color:#3b5bdb}
dl{display:grid;grid-template-columns:auto 1fr;gap:.15em 1.2em;font-size:13px}
dt{font-weight:600;font-family:ui-monospace,Menlo,Consolas,monospace}dd{margin:0}
.small{color:#6a707a;font-size:13px}
"""
"""The rules of all pages."""


def document(title: str, sections: Iterable[str]) -> str:
    """A whole page.

    Args:
        title: plain text.
        sections: HTML, in which all that comes from outside is escaped.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Whatever a site is called, the browser is told to fetch and run nothing.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def in_notebook(body: str) -> str:
    """HTML of our own as a notebook shows it, with its styles: on a light page and on a dark one."""
    return f"<style scoped>{_notebook_style()}</style><div class='pyrolvm'>{body}</div>"


def table(frame: pd.DataFrame, *, digits: int = 4, most: int = 50) -> str:
    """A DataFrame as a table that scrolls where it is too wide.

    Args:
        frame: the table; text in it is escaped.
        digits: of numbers, significant ones.
        most: rows that are shown; how many there are more is said below.
    """
    if not len(frame):
        return ""
    rows = frame.head(most).to_html(
        float_format=lambda value: f"{value:.{digits}g}", border=0, escape=True, na_rep="\u2013", index_names=False
    )
    more = f"<p class=small>{len(frame) - most:,} rows more.</p>" if len(frame) > most else ""
    return f"<div class=wide>{rows}</div>{more}"


_ON_ANY_PAGE = {
    "#6a707a": "#777e88",
    "#8a9099": "#808791",
    "#e3e6ea": "rgba(128,136,148,.35)",
    "#c9cdd3": "rgba(128,136,148,.6)",
    "#f0f1f4": "rgba(128,136,148,.22)",
    "background:#fff;position:sticky;top:0": "",
    "background:#fdf3f2": "background:rgba(214,69,59,.1)",
    "background:#e8f3ef": "background:rgba(35,144,106,.14)",
    "background:#faf1e3": "background:rgba(190,120,10,.14)",
    "background:#f9e8e7": "background:rgba(214,69,59,.14)",
    "#1b7f5c": "#23906a",
    "#b36b00": "#bd7a14",
    "#b3261e": "#d6453b",
    "#3b5bdb": "#5c78e6",
}
"""Colours of the page by those that can be read on white and on black alike, as a notebook may be either."""


def _notebook_style() -> str:
    """The page's rules, confined to a block of the class ``pyrolvm``."""
    text = STYLE.replace("\n", "")
    for ours, theirs in _ON_ANY_PAGE.items():
        text = text.replace(ours, theirs)
    rules = [rule for rule in text.split("}") if rule and not rule.startswith((":root", "body"))]
    scoped = []
    for rule in rules:
        selectors, body = rule.split("{")
        scoped.append(",".join(f".pyrolvm {selector}" for selector in selectors.split(",")) + "{" + body + "}")
    return "".join(scoped)


def picture(alt: str, figure: Figure) -> str:
    """A figure inside the page, as an image of PNG; ``alt`` is plain text."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
