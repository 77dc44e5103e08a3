"""The posterior itself, where it is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.errors import positive_int
from pyrolvm._laws.recognition import recognised
from pyrolvm._results.base import Posterior
from pyrolvm._results.build import latent_dataset
from pyrolvm._results.evidence import Evidence

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Exact"]


@dataclass(eq=False, repr=False)
class Exact(Posterior):
    """The posterior itself: independent draws, their log posterior density in ``log_q``, and the evidence.

    Where all latents are discrete, ``log_p`` and ``log_q`` are of their values; else discrete latents are summed out of both.
    """

    @property
    def family(self) -> str:
        """What the posterior is, such as ``"Gaussian, 4 unknowns"``."""
        return str(self.data["posterior"].attrs["family"])

    @property
    def because(self) -> str:
        """How it is known to be that."""
        return str(self.data["posterior"].attrs["because"])

    @property
    def evidence(self) -> Evidence:
        """The log marginal likelihood; its error is the largest rounding error of log p - log q over all draws."""
        value = float(self.data["sample_stats"]["log_evidence"])
        error = float(np.max(np.abs(np.asarray(self.data["sample_stats"]["log_weight"].values) - value)))
        return Evidence(value, error, "exact inference")

    @property
    def marginals(self) -> xr.Dataset | None:
        """The posterior probabilities of every discrete latent's values, dims of the site and ``<site>_value``; or ``None``."""
        return self.data["marginals"].to_dataset() if "marginals" in self.data.children else None

    def sample(self, n: int, *, seed: int = 0) -> xr.Dataset:
        """Fresh draws from the posterior.

        Raises:
            StoreError: if the result was loaded without its problem.
        """
        positive_int("n", n)
        problem = self.attached
        with self._session(seed):
            values, _ = recognised(problem).draw(n)
            return latent_dataset(problem, values)
