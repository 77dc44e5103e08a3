"""What takes the optimisation steps: stock Pyro, or the captured program compiled by torch or by XLA."""

from pyrolvm._methods.fit.engines.base import Engine, MakeEngine, Work
from pyrolvm._methods.fit.engines.choice import ENGINES, REGISTERED, begin

__all__ = ["ENGINES", "REGISTERED", "Engine", "MakeEngine", "Work", "begin"]
