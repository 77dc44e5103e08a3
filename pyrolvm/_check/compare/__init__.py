"""Comparison of posteriors with a reference: numbers with error bars, plots, advice and one HTML page."""

from pyrolvm._check.compare.core import Comparison, compare

__all__ = ["Comparison", "compare"]
