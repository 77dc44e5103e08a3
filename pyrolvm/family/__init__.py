"""What guide families are built on, here and in other distributions: the protocol of guides, what reads a program, and frames.

A guide needs none of it: a Pyro function is one. A family that others ask for by its name registers a function of a problem, says
what is known of it by :func:`traits`, and may take from here densities of the problem (:class:`Joint`, :class:`Target`), the best
Gaussian of its posterior (:func:`find_frame`) and proposals that weights correct (:class:`Student`, :func:`draw_weighed`).
"""

from pyrolvm._base.bijections import bijection, shape_before
from pyrolvm._base.errors import unknown_name
from pyrolvm._base.machine import require_memory
from pyrolvm._compat.distributions import gaussian
from pyrolvm._program.density import Joint, decentred
from pyrolvm._program.density.centring import centred
from pyrolvm._program.density.target import Points, Target
from pyrolvm._program.sites import is_deterministic, is_random
from pyrolvm._program.starting import is_discrete, support_of
from pyrolvm.family.frame import (
    METHODS,
    Frame,
    Solution,
    find_frame,
    frame_engine,
    frame_pays,
    gradient_seconds,
    known_frame,
    last_frame,
    pathfinder_family,
    plain_moments,
)
from pyrolvm.family.guide import Guide
from pyrolvm.family.importance import MOST_COMPONENTS, Weighed, adapt, draw_weighed, resample
from pyrolvm.family.modes import MOST_MODES, require_affordable
from pyrolvm.family.pilot import starting_frame, starting_frame_pays
from pyrolvm.family.protocol import Hooks, Traits, traits
from pyrolvm.family.student import Student

__all__ = [
    "METHODS", "MOST_COMPONENTS", "MOST_MODES",
    "Frame", "Guide", "Hooks", "Joint", "Points", "Solution", "Student", "Target", "Traits", "Weighed", "adapt", "bijection",
    "centred", "decentred", "draw_weighed", "find_frame", "frame_engine", "frame_pays",
    "gaussian", "gradient_seconds", "is_deterministic", "is_discrete", "is_random",
    "known_frame", "last_frame", "pathfinder_family", "plain_moments", "require_affordable", "require_memory",
    "resample", "shape_before", "starting_frame", "starting_frame_pays",
    "support_of", "traits", "unknown_name",
]  # fmt: skip
