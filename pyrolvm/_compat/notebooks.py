"""How notebooks show an object: by a method that IPython calls. Checked with xarray 2025.12 and 2026.9."""

from __future__ import annotations

from typing import Any

__all__ = ["html"]


def html(value: Any) -> str:
    """What a notebook shows of an object, such as a DataTree or a verdict of ours. Seen in xarray 2025.12 and 2026.9."""
    return str(value._repr_html_())
