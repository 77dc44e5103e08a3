"""From a problem to a posterior that can be trusted, by the cheapest method that gets there."""

from pyrolvm._methods.infer.correction import correct
from pyrolvm._methods.infer.inference import infer

__all__ = ["correct", "infer"]
