"""Runs the notebooks of the gallery and keeps what they show: ``make notebooks``, or some by name.

Each is run from its beginning in a kernel of its own. A cell that raises, or writes a warning, ends in an error; nothing is kept then.
"""

from __future__ import annotations

import base64
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

GALLERY = Path(__file__).resolve().parent / "gallery"
LIMIT = 300_000
"""Bytes that a notebook may have with its pictures."""


def picture(book: Any) -> bytes | None:
    """The last picture that a notebook shows, which the gallery's page has too."""
    shown = [
        output for cell in book.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    return base64.b64decode(shown[-1]["data"]["image/png"]) if shown else None


def run(path: Path) -> float:
    """Runs one in place, and keeps its picture; the seconds it took.

    Raises:
        RuntimeError: if it wrote to stderr, or is too large.
    """
    book = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    NotebookClient(
        book, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # when it ran is no one's business, and another one each time
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{path.name} wrote to stderr: {output['text'][:2000]}")
    text = nbformat.writes(book)
    if len(text) > LIMIT:
        raise RuntimeError(f"{path.name} would have {len(text):,} bytes, more than {LIMIT:,}")
    path.write_text(text + "\n", encoding="utf-8")
    shown = picture(book)
    if shown is not None:
        (path.parents[1] / "images" / "gallery" / f"{path.stem}.png").write_bytes(shown)
    return time.perf_counter() - started


if __name__ == "__main__":
    wanted = sys.argv[1:] or sorted(path.stem for path in GALLERY.glob("*.ipynb"))
    for name in wanted:
        print(f"{name}: {run(GALLERY / f'{name}.ipynb'):.0f} s", flush=True)
