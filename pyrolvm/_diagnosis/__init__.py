"""Diagnosis of one posterior: from draws, importance weights and sampler statistics to a verdict."""

from pyrolvm._base.importance import Weights, khat_threshold, weigh
from pyrolvm._diagnosis.core import Diagnosis, diagnose
from pyrolvm._results.reading import PosteriorLike

__all__ = ["Diagnosis", "PosteriorLike", "Weights", "diagnose", "khat_threshold", "weigh"]
