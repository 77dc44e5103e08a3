"""Runs the notebooks of the gallery and keeps what they show: ``make notebooks``, or some by name.

Each is run from its beginning in a kernel of its own. A cell that raises, or writes a warning, ends in an error; nothing is kept then.
"""

from __future__ import annotations

import base64
import io
import os
import re
import resource
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

GALLERY = Path(__file__).resolve().parent / "gallery"
LIMIT = 300_000
"""Bytes that a notebook may have with its pictures."""
WIDTH = 640
"""Pixels that the gallery's page has of a picture."""


def picture(book: Any) -> bytes | None:
    """The last picture that a notebook shows, made small, which the gallery's page has too."""
    shown = [
        output for cell in book.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    if not shown:
        return None
    image = Image.open(io.BytesIO(base64.b64decode(shown[-1]["data"]["image/png"]))).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    flat.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    flat.quantize(64).save(out, format="png", optimize=True)
    return out.getvalue()


def used() -> float:
    """CPU seconds of kernels that have ended, and of what they started."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def run(path: Path) -> float:
    """Runs one in place, and keeps its picture; the CPU seconds it took, with nothing compiled before.

    Raises:
        RuntimeError: if it wrote to stderr, or is too large.
    """
    book = nbformat.read(path, as_version=4)
    before = used()
    NotebookClient(
        book, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute(env={**os.environ, "PYROLVM_CACHE": "off"})
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
    return used() - before


def note(name: str, seconds: float) -> None:
    """Writes into the gallery's page how long a notebook took."""
    index = GALLERY / "index.md"
    text = index.read_text(encoding="utf-8")
    card = re.compile(rf"(:link: {name}\n(?::\w.*\n)*)(?:\d+ CPU s\n)?")
    if not card.search(text):
        raise RuntimeError(f"{index} has no card of {name}")
    index.write_text(card.sub(rf"\g<1>{max(1, round(seconds))} CPU s\n", text), encoding="utf-8")


if __name__ == "__main__":
    wanted = sys.argv[1:] or sorted(path.stem for path in GALLERY.glob("*.ipynb"))
    for name in wanted:
        took = run(GALLERY / f"{name}.ipynb")
        note(name, took)
        print(f"{name}: {took:.0f} CPU s", flush=True)
