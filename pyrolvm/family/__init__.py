"""Approximations found from a density and its gradient: paths uphill, the best Gaussian, proposals that weights correct."""

from pyrolvm.family.frame import (
    METHODS,
    Frame,
    Solution,
    find_frame,
    frame_engine,
    frame_pays,
    gradient_seconds,
    known_frame,
    pathfinder_family,
    plain_moments,
)
from pyrolvm.family.importance import Weighed, adapt, draw_weighed, resample
from pyrolvm.family.pilot import starting_frame, starting_frame_pays
from pyrolvm.family.student import Student

__all__ = [
    "METHODS",
    "Frame", "Solution", "Student", "Weighed", "adapt", "draw_weighed", "find_frame", "frame_engine", "frame_pays", "gradient_seconds",
    "known_frame", "pathfinder_family", "plain_moments", "resample", "starting_frame", "starting_frame_pays",
]  # fmt: skip
