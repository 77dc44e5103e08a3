"""What takes the optimisation steps: stock Pyro, or the captured program compiled by torch or by XLA."""

from pyrolvm.vi.engines.base import Engine, Taken, Work
from pyrolvm.vi.engines.choice import ENGINES, begin

__all__ = ["ENGINES", "Engine", "Taken", "Work", "begin"]
