"""Markov chain Monte Carlo."""

from pyrolvm._methods.nuts.inference import nuts

__all__ = ["nuts"]
