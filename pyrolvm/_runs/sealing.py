"""JSON that says by its own checksum whether it is what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrolvm._base.errors import StoreError
from pyrolvm._runs.readers import read_object

__all__ = ["opened", "sealed", "unsealed"]


def sealed(content: Mapping[str, object], schema: int, *, indent: int | None = 1) -> bytes:
    """What is written of ``content``.

    Args:
        content: what JSON holds.
        schema: the number of its form, which a reader must know.
        indent: spaces of indentation; ``None`` for one line.
    """
    whole = {"schema": schema, "sha256": _digest(content), "content": content}
    return (json.dumps(whole, indent=indent, sort_keys=True) + "\n").encode()


def opened(path: Path, schema: int) -> dict[str, Any]:
    """The content of a file that :func:`sealed` was written to.

    Raises:
        StoreError: if it is damaged, or of another form.
    """
    return unsealed(read_object(path), schema, path)


def unsealed(whole: Mapping[str, object], schema: int, path: object) -> dict[str, Any]:
    """The content of what :func:`sealed` wrote, once it is parsed.

    Raises:
        StoreError: if it is damaged, or of another form.
    """
    content = whole.get("content")
    if whole.get("schema") != schema:
        raise StoreError(
            f"{path} has schema {whole.get('schema')!r}, this version reads {schema}. "
            "Fix: use the version of pyrolvm that wrote it."
        )
    if not isinstance(content, dict) or whole.get("sha256") != _digest(content):
        raise StoreError(f"{path} is damaged: its checksum differs from its content's. Fix: restore it, or run again.")
    return content


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
