"""HTML pages that open anywhere: styles and pictures inside, no scripts, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["document", "picture"]


def document(title: str, style: str, sections: Iterable[str]) -> str:
    """A whole page.

    Args:
        title: plain text.
        style: its rules.
        sections: HTML, in which all that comes from outside is escaped.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Whatever a site is called, the browser is told to fetch and run nothing.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{style}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def picture(alt: str, figure: Figure) -> str:
    """A figure inside the page, as an image of PNG; ``alt`` is plain text."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
