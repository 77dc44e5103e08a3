"""The result of sequential Monte Carlo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._diagnosis.recorded import recorded
from pyrolvm._results import Evidence, Posterior

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TEMPERING", "Particles"]

TEMPERING = "tempering"
"""The group of a result's data that says what happened at each stage."""


@dataclass(eq=False, repr=False)
class Particles(Posterior):
    """Draws by sequential Monte Carlo, equally weighted, with the evidence; islands are chains.

    Kin stand together in an island, so that R-hat and effective sample sizes, which read draws in their order, see what draws share.
    Group ``tempering`` of the data has a row for each stage.
    """

    @property
    def evidence(self) -> Evidence:
        """The log marginal likelihood, with its error by the islands' differences, the particles' kinship and their weights."""
        group = self.data[TEMPERING]
        figures = {name: float(group.attrs[f"evidence_{name}"]) for name in ("between", "kinship", "weights")}
        return Evidence(
            float(group.attrs["evidence"]), float(group.attrs["evidence_error"]), "sequential Monte Carlo", recorded(self.data),
            figures=figures, evaluations=int(group.attrs["evaluations"]), seconds=float(sum(self.seconds.values())),
        )  # fmt: skip

    @property
    def temperatures(self) -> np.ndarray:
        """The inverse temperature of each stage, the share of the likelihood in its density, rising to 1. Shape ``(stages,)``."""
        return np.asarray(self.data[TEMPERING]["beta"].values)

    @property
    def acceptance(self) -> np.ndarray:
        """The mean acceptance probability of Hamiltonian moves at each stage. Shape ``(stages,)``."""
        return np.asarray(self.data[TEMPERING]["acceptance_rate"].values)

    @property
    def history(self) -> pd.DataFrame:
        """A row for each stage: its inverse temperature, effective share, acceptance, moves, modes and effective ancestors."""
        group = self.data[TEMPERING].to_dataset()
        plain = group[[name for name in group.data_vars if group[name].dims == ("stage",)]].to_dataframe()
        return plain.assign(ancestors=group["ancestors"].sum("chain").values)
