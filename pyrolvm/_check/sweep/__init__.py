"""Many fits at once: problems, guides and seeds, each cell kept by itself."""

from pyrolvm._check.sweep.inference import sweep
from pyrolvm._check.sweep.result import Sweep

__all__ = ["Sweep", "sweep"]
