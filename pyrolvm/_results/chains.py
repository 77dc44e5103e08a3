"""Draws of Markov chains."""

from __future__ import annotations

from dataclasses import dataclass

from pyrolvm._results.base import Posterior

__all__ = ["Chains"]


@dataclass(eq=False, repr=False)
class Chains(Posterior):
    """Draws from MCMC chains."""

    @property
    def divergences(self) -> int:
        """The number of divergent transitions after warmup."""
        return int(self.data["sample_stats"]["diverging"].sum())
