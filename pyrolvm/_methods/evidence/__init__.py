"""The log marginal likelihood of the data: estimates and bounds, each with its error."""

from pyrolvm._methods.evidence.inference import evidence
from pyrolvm._methods.evidence.result import Evidences

__all__ = ["Evidences", "evidence"]
