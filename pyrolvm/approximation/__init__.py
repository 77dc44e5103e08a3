"""Approximations found from a density and its gradient: paths uphill, the best Gaussian, proposals that weights correct."""

from pyrolvm.approximation.frame import (
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
from pyrolvm.approximation.importance import Weighed, adapt, draw_weighed, resample
from pyrolvm.approximation.pilot import starting_frame, starting_frame_pays
from pyrolvm.approximation.student import Student

__all__ = [
    "METHODS",
    "Frame", "Solution", "Student", "Weighed", "adapt", "draw_weighed", "find_frame", "frame_engine", "frame_pays", "gradient_seconds",
    "known_frame", "pathfinder_family", "plain_moments", "resample", "starting_frame", "starting_frame_pays",
]  # fmt: skip
