"""What a comparison found: tables, diagnoses and advice, which text, pages and pictures show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyrolvm._check.compare.align import Pair
from pyrolvm._diagnosis.core import Diagnosis

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["METHOD_COLUMNS", "Compared"]

METHOD_COLUMNS: dict[str, str] = {
    "method": "name of the posterior (the index)",
    "verdict": "trusted, doubtful or failed: its own verdict, without the reference",
    "agrees": "quantities that agree with the reference",
    "differs": "quantities that differ from it",
    "unclear": "quantities too noisy to tell",
    "worst_mean_diff": "largest |mean_diff|, in reference sds",
    "worst_sd_ratio": "sd_ratio furthest from 1",
    "khat": "Pareto k-hat of the importance weights",
    "elbo": "evidence lower bound, nats",
    "elbo_error": "its Monte Carlo standard error",
    "evidence": "log marginal likelihood, nats",
    "evidence_error": "its Monte Carlo standard error",
    "rhat": "largest R-hat (Markov chains of two or more)",
    "ess_bulk": "smallest bulk ESS (Markov chains)",
    "ess_per_second": "ess_bulk over seconds_total: what the user waits for, compilation included",
    "seconds_total": "wall time of all phases",
    "seconds_compile": "of which compilation",
    "seconds_run": "of which inference itself",
    "engine": "what ran it",
}
"""Every column of ``Comparison.methods`` and what it holds."""

_COUNTED = {"agrees": "agree", "differs": "differ", "unclear": "unclear"}
"""What a row of the table says, of several."""


@dataclass(frozen=True, repr=False)
class Compared:
    """What a comparison found.

    Args:
        reference: name of the reference.
        table: a row for each method and quantity; columns in :data:`pyrolvm._check.compare.table.COLUMNS`.
        methods: a row for each posterior, the reference first; columns in :data:`METHOD_COLUMNS`.
        advice: what it comes to, in plain words; warnings about the reference first.
        diagnoses: each posterior's own diagnosis, by name.
        notes: what was left out and why.
        trees: the DataTrees that were compared, by name; plots read their draws.
        pairs: the draws compared, by method.
    """

    reference: str
    table: pd.DataFrame
    methods: pd.DataFrame
    advice: list[str]
    diagnoses: dict[str, Diagnosis]
    notes: list[str] = field(default_factory=list)
    trees: dict[str, xr.DataTree] = field(default_factory=dict, repr=False)
    pairs: dict[str, list[Pair]] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        counts = self.table["status"].value_counts()
        told = ", ".join(f"{counts[status]} {word}" for status, word in _COUNTED.items() if status in counts)
        return f"<Comparison of {', '.join(self.pairs)} with {self.reference}: {told}>"

    @property
    def agrees(self) -> bool:
        """True where every quantity of every method agrees with the reference."""
        return bool((self.table["status"] == "agrees").all())
