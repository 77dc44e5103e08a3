"""Posteriors: what every method returns, as one ArviZ object; and how they are kept."""

from pyrolvm._results.base import Posterior
from pyrolvm._results.chains import Chains
from pyrolvm._results.elpd import LOO
from pyrolvm._results.evidence import Evidence
from pyrolvm._results.exact import Exact
from pyrolvm._results.fit import Fit

__all__ = ["LOO", "Chains", "Evidence", "Exact", "Fit", "Posterior"]
