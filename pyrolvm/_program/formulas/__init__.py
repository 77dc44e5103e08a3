"""``formula``: a regression written as ``y ~ x + (1|g)``, as a Pyro program to keep."""

from pyrolvm._program.formulas.inference import Formula, formula

__all__ = ["Formula", "formula"]
