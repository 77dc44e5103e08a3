"""Diagnosis of one posterior: from draws, importance weights and sampler statistics to a verdict."""

from pyrolvm.diagnose.core import Diagnosis, diagnose
from pyrolvm.diagnose.importance import Weights, khat_threshold, weigh
from pyrolvm.diagnose.reading import PosteriorLike

__all__ = ["Diagnosis", "PosteriorLike", "Weights", "diagnose", "khat_threshold", "weigh"]
