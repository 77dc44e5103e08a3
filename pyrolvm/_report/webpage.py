"""HTML pages that open anywhere: styles and pictures inside, no scripts, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["document", "notebook_style", "picture"]

STYLE = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#2b2f36;background:#fff;
max-width:1180px;margin:2em auto;padding:0 1.5em}
h1{font-size:1.7em;margin:0 0 .2em}
h2{font-size:1.15em;margin:2em 0 .6em;padding-bottom:.25em;border-bottom:1px solid #e3e6ea}
.lead{color:#6a707a;margin:0 0 1.5em}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th{font-weight:600;color:#6a707a;text-align:right;padding:.3em .7em;border-bottom:1px solid #c9cdd3;
vertical-align:bottom;background:#fff;position:sticky;top:0}
td{text-align:right;padding:.25em .7em;border-bottom:1px solid #f0f1f4;white-space:nowrap}
th:first-child,td:first-child,td.text,th.text{text-align:left}
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


def notebook_style() -> str:
    """The page's rules, confined to a block of the class ``pyrolvm``."""
    rules = [rule for rule in STYLE.replace("\n", "").split("}") if rule and not rule.startswith((":root", "body"))]
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
