"""Which page each kind of result has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import xarray as xr

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

__all__ = ["page_of"]

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


def page_of(result: object) -> str | None:
    """The page about a result; ``None`` of what is none."""
    return next((page(result) for kind, page in _PAGES.items() if isinstance(result, kind)), None)
