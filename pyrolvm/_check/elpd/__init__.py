"""Models of the same data against each other, by how well each predicts rows that it has not seen."""

from pyrolvm._check.elpd.inference import compare_models
from pyrolvm._check.elpd.result import ModelComparison

__all__ = ["ModelComparison", "compare_models"]
