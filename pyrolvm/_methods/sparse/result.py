"""The result of :func:`pyrolvm.sparse`."""

from __future__ import annotations

from dataclasses import dataclass

from pyrolvm._diagnosis.recorded import recorded
from pyrolvm._results import Evidence, Posterior

__all__ = ["INTEGRATION", "Sparse"]

INTEGRATION = "integration"
"""The group of a result's data that says what was integrated and how."""


@dataclass(eq=False, repr=False)
class Sparse(Posterior):
    """Draws in proportion to importance weights of the shared unknowns, blocks integrated out and drawn given them, with the evidence.

    Group ``proposal_stats`` has the weights, ``integration`` what was integrated and how.
    """

    @property
    def evidence(self) -> Evidence:
        """The log marginal likelihood, with the error that the weights tell of."""
        said = self.data[INTEGRATION].attrs
        return Evidence(
            float(said["evidence"]), float(said["evidence_error"]), "weights of shared unknowns", recorded(self.data),
            evaluations=int(said["evaluations"]), seconds=float(sum(self.seconds.values())),
        )  # fmt: skip

    @property
    def khat(self) -> float:
        """The Pareto k of the shared unknowns' weights."""
        return float(self.data[INTEGRATION].attrs["khat"])
