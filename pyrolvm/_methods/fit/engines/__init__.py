"""What takes the optimisation steps: stock Pyro, or the captured program compiled by torch or by XLA."""

from pyrolvm._methods.fit.engines.base import Engine, MakeEngine, Work
from pyrolvm._methods.fit.engines.choice import ENGINES, REGISTERED, begin
from pyrolvm._methods.fit.engines.shared import begin_shared

__all__ = ["ENGINES", "REGISTERED", "Engine", "MakeEngine", "Work", "begin", "begin_shared"]
