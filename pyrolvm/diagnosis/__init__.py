"""Diagnosis of one posterior: from draws, importance weights and sampler statistics to a verdict."""

from pyrolvm.diagnosis.core import Diagnosis, diagnose
from pyrolvm.diagnosis.importance import Weights, khat_threshold, weigh
from pyrolvm.diagnosis.reading import PosteriorLike

__all__ = ["Diagnosis", "PosteriorLike", "Weights", "diagnose", "khat_threshold", "weigh"]
