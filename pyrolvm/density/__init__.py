"""The joint density of a problem, evaluated at draws: one run of the program each, all draws at once where that works."""

from pyrolvm.density.coordinates import constrained, flattened, unconstrained
from pyrolvm.density.joint import Joint, decentred
from pyrolvm.density.marginals import marginals
from pyrolvm.density.precision import rounding, with_digits
from pyrolvm.density.vectorize import Evaluator, map_draws, repeat
from pyrolvm.density.watch import Evaluation, watched

__all__ = [
    "Evaluation",
    "Evaluator",
    "Joint",
    "constrained",
    "decentred",
    "flattened",
    "map_draws",
    "marginals",
    "repeat",
    "rounding",
    "unconstrained",
    "watched",
    "with_digits",
]
