"""From a problem to a posterior that can be trusted, by the cheapest method that gets there."""

from pyrolvm.ladder.correction import correct
from pyrolvm.ladder.inference import infer

__all__ = ["correct", "infer"]
