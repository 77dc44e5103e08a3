"""Markov chain Monte Carlo."""

from pyrolvm.mcmc.inference import nuts

__all__ = ["nuts"]
