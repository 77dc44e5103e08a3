"""``report``: one page about any result, by one template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.habits import belongs_to, verb
from pyrolvm._base.writing import write_file

__all__ = ["report"]


@verb
def report(result: Any, path: str | Path) -> Path:
    """Writes one page about a result that opens anywhere: no network, no scripts, pictures inside.

        >>> lvm.report(fit, "fit.html")

    Every result has it as a method, too: ``fit.to_html("fit.html")``. From the shell: ``pyrolvm report RUN --out fit.html``.

    Estimates come first, then pictures, checks against the data and cross-validation where the result has them, and at the end where it
    comes from: problem, shapes and checksum of the data, the program's text, seed, versions, command and date. Pages are read on light
    and on dark screens, on telephones, and print.

    Args:
        result: what a function of pyrolvm gives: a posterior, comparison, evaluation, check, calibration, evidence, gaps,
            cross-validation, comparison of models, sweep, or the predictions of :func:`pyrolvm.predict`.
        path: the file, such as ``"report.html"``.

    Returns:
        The file.

    Raises:
        ArgumentError: if it is no result.
        StoreError: if the file cannot be written.
    """
    text = _page(result)
    return write_file(path, lambda file: file.write(text.encode()))


def _page(result: Any) -> str:
    from pyrolvm._check.pages.kinds import page_of  # which draws, and so brings matplotlib

    found = page_of(result)
    if found is not None:
        return found
    hint = belongs_to(result)
    raise ArgumentError(
        f"report takes a result, got {type(result).__name__}{'; ' + hint if hint else ''}. "
        "Fix: pass what a function of pyrolvm gives, for example lvm.report(fit, path); a folder is read by lvm.load(folder)."
    )
