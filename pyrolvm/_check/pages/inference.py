"""``report``: one page about any result, by one template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.habits import belongs_to, verb
from pyrolvm._base.writing import write_file
from pyrolvm._check.calibrate.result import Calibration
from pyrolvm._check.compare.core import Comparison
from pyrolvm._check.discrepancy.html import page as page_of_check
from pyrolvm._check.discrepancy.result import Check
from pyrolvm._check.elpd.result import ModelComparison
from pyrolvm._check.evaluate.html import page as page_of_evaluation
from pyrolvm._check.evaluate.result import Evaluation
from pyrolvm._check.gaps.result import Gaps
from pyrolvm._check.pages import others
from pyrolvm._check.pages.posterior import page as page_of_posterior
from pyrolvm._check.sweep.result import Sweep
from pyrolvm._check.validating.result import CrossValidation
from pyrolvm._methods.evidence.result import Evidences
from pyrolvm._results import Evidence, Posterior

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["report"]

_PAGES: Mapping[type, Callable[[Any], str]] = {
    Posterior: page_of_posterior,
    Comparison: lambda found: found.to_html(),
    Evaluation: page_of_evaluation,
    Check: page_of_check,
    Calibration: others.calibration,
    Gaps: others.gaps,
    Evidence: lambda found: others.evidences(Evidences({found.method: found})),
    Evidences: others.evidences,
    CrossValidation: others.cross_validation,
    ModelComparison: others.models,
    Sweep: others.sweep,
    xr.DataTree: others.predictions,
}
"""What writes the page of each kind of result."""


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
    for kind, page in _PAGES.items():
        if isinstance(result, kind):
            return page(result)
    hint = belongs_to(result)
    raise ArgumentError(
        f"report takes a result, got {type(result).__name__}{'; ' + hint if hint else ''}. "
        "Fix: pass what a function of pyrolvm gives, for example lvm.report(fit, path); a folder is read by lvm.load(folder)."
    )
