"""What a check is about: its figures and the data behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyrolvm._base.verdict import Verdict
from pyrolvm._check.discrepancy.statistics import Sample
from pyrolvm._report.origin import Origin

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Checked"]


@dataclass(frozen=True, repr=False)
class Checked:
    """Data that a model makes beside the data that there are.

    Attributes:
        name: what was checked.
        problem: the model's name.
        tables: ``posterior_predictive`` and ``prior_predictive``, where there are any: a row for each site, group (empty: all rows) and
            feature, with its value in the data (``observed``), ``mean``, ``sd`` and the ends of the central 90% (``q5``, ``q95``) over
            replicated data sets, and ``p``, the share of these above.
        sensitivity: how prior and likelihood move the posterior, see ``Posterior.psense``; ``None`` where it is not known.
        samples: data and replicated data, by table and site.
        verdict: what it comes to.
        origin: what problem and data it is of.
    """

    name: str
    problem: str
    tables: Mapping[str, pd.DataFrame]
    sensitivity: pd.DataFrame | None
    samples: Mapping[str, Mapping[str, Sample]] = field(compare=False)
    verdict: Verdict = field(compare=False)
    origin: Origin = field(default=Origin(), compare=False)
