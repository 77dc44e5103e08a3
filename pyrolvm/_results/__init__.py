"""Posteriors: what every method returns, as one ArviZ object; and how they are kept."""

from pyrolvm._results.base import Chains, Exact, Fit, Posterior
from pyrolvm._results.elpd import LOO
from pyrolvm._results.evidence import Evidence

__all__ = ["LOO", "Chains", "Evidence", "Exact", "Fit", "Posterior"]
