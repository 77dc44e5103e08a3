"""What takes the optimisation steps: stock Pyro, or the captured program compiled by torch or by XLA."""

from pyrolvm._methods.fit.engines.base import Engine, MakeEngine, Work
from pyrolvm._methods.fit.engines.choice import ENGINE_WORDS, ENGINES, REGISTERED, begin

__all__ = ["ENGINES", "ENGINE_WORDS", "REGISTERED", "Engine", "MakeEngine", "Work", "begin"]
