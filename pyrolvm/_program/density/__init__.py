"""The joint density of a problem, evaluated at draws: one run of the program each, all draws at once where that works."""

from pyrolvm._program.density.by_level import Levels, Normal
from pyrolvm._program.density.by_row import modes
from pyrolvm._program.density.coordinates import constrained, constrained_some, flattened, unconstrained
from pyrolvm._program.density.joint import Joint, decentred
from pyrolvm._program.density.marginals import marginals
from pyrolvm._program.density.precision import rounding, with_digits
from pyrolvm._program.density.propriety import ENDLESS, endless
from pyrolvm._program.density.vectorize import Evaluator, map_draws, repeat
from pyrolvm._program.density.watch import Evaluation, watched

__all__ = [
    "ENDLESS",
    "Evaluation",
    "Evaluator",
    "Joint",
    "Levels",
    "Normal",
    "constrained",
    "constrained_some",
    "decentred",
    "endless",
    "flattened",
    "map_draws",
    "marginals",
    "modes",
    "repeat",
    "rounding",
    "unconstrained",
    "watched",
    "with_digits",
]
