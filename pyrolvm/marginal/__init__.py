"""The log marginal likelihood of the data: estimates and bounds, each with its error."""

from pyrolvm.marginal.inference import evidence
from pyrolvm.marginal.result import Evidences

__all__ = ["Evidences", "evidence"]
