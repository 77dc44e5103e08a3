"""What takes the optimisation steps: stock Pyro, or the captured program compiled by torch or by XLA."""

from pyrolvm._methods.fit.engines.base import Engine, Work
from pyrolvm._methods.fit.engines.choice import ENGINES, begin

__all__ = ["ENGINES", "Engine", "Taken", "Work", "begin"]
