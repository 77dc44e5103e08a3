"""Exact posteriors, where the structure of a model allows them."""

from pyrolvm.analytic.inference import exact

__all__ = ["exact"]
