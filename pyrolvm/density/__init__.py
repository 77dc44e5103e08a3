"""The joint density of a problem, evaluated at draws: one run of the program each, all draws at once where that works."""

from pyrolvm.density.joint import Joint, decentred
from pyrolvm.density.marginals import marginals
from pyrolvm.density.vectorize import map_draws, repeat

__all__ = ["Joint", "decentred", "map_draws", "marginals", "repeat"]
