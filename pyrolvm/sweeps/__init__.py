"""Many fits at once: problems, guides and seeds, each cell kept by itself."""

from pyrolvm.sweeps.inference import sweep
from pyrolvm.sweeps.result import Sweep

__all__ = ["Sweep", "sweep"]
