"""Pictures in files that users name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.writing import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["written"]


def written(figure: Figure, path: str | Path | None) -> Figure:
    """The figure, after it was written to the file that a user names, if any; its ending says in which format, ``.png`` by default.

    Raises:
        ArgumentError: if there is no such format.
        StoreError: if the file cannot be written.
    """
    if path is None:
        return figure
    ending = Path(path).suffix
    kind = ending.removeprefix(".").lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise ArgumentError(
            f"pictures have no format {ending!r}: {str(path)!r}. Fix: let the name end in .png, .pdf or .svg."
        )
    write_file(path, lambda file: figure.savefig(file, format=kind, dpi=160))
    return figure
