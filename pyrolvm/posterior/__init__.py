"""Posteriors: what every method returns, as one ArviZ object."""

from pyrolvm.posterior.base import Chains, Evidence, Exact, Fit, Posterior

__all__ = ["Chains", "Evidence", "Exact", "Fit", "Posterior"]
