"""Exact posteriors, where the structure of a model allows them."""

from pyrolvm._methods.exact.inference import exact

__all__ = ["exact"]
