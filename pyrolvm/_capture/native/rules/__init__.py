"""What each operation means: a rule takes the call at hand and the arguments, and returns the value or values."""

from pyrolvm._capture.native.rules import elements, lookups, matrices, reductions, views
from pyrolvm._capture.native.rules.call import Call, Rule

__all__ = ["RULES", "Call"]

RULES: dict[str, Rule] = elements.RULES | views.RULES | reductions.RULES | matrices.RULES | lookups.RULES
