"""Cross-validation by refits: rows or groups are held out of a fit, and predicted by it."""

from pyrolvm._check.validating.inference import cross_validate
from pyrolvm._check.validating.result import CrossValidation

__all__ = ["CrossValidation", "cross_validate"]
