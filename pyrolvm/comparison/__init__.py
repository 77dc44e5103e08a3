"""Comparison of posteriors with a reference: numbers with error bars, plots, advice and one HTML page."""

from pyrolvm.comparison.core import Comparison, compare

__all__ = ["Comparison", "compare"]
