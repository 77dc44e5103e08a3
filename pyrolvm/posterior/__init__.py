"""Posteriors: what every method returns, as one ArviZ object."""

from pyrolvm.posterior.base import Chains, Exact, Fit, Posterior
from pyrolvm.posterior.evidence import Evidence

__all__ = ["Chains", "Evidence", "Exact", "Fit", "Posterior"]
