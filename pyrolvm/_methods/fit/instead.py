"""What a fit that cannot be made says of NUTS, where that takes the model."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pyrolvm._base.errors import FitError, GuideError, OutOfMemoryError, PyrolvmError
from pyrolvm._program.density import Joint
from pyrolvm._program.density.target import stock
from pyrolvm._program.problem import Problem
from pyrolvm._program.steady import check_steady_model
from pyrolvm._results import Fit

__all__ = ["pointing_to_nuts"]

STARTS = 20
"""Points at which a density is looked for that chains could start from."""


def pointing_to_nuts(problem: Problem, make: Callable[[], Fit], *, ours: bool) -> Fit:
    """Makes a fit, and adds to a refusal of one of our guides that NUTS takes the model, where it does.

    Must be called outside of a session.

    Args:
        problem: the problem.
        make: makes the fit.
        ours: whether the guide is a registered one; what is wrong with the caller's own is told by itself.
    """
    try:
        return make()
    except (FitError, GuideError) as error:
        if ours and not isinstance(error, OutOfMemoryError) and _taken(problem):
            error.args = (f"{error} Or sample: lvm.nuts(problem) takes this model as it is.",)
        raise


def _taken(problem: Problem) -> bool:
    """Whether NUTS takes a problem: there are continuous unknowns alone, and points of finite density and gradient."""
    if not problem.continuous or problem.parameters or problem.stream is not None:
        return False
    if not all(site.enumerable for site in problem.discrete):
        return False
    try:
        check_steady_model(problem)
        with problem.session(seed=0):
            joint = Joint(problem)
            points = 4 * torch.rand(STARTS, problem.unconstrained_size, dtype=problem.dtype, device=problem.device) - 2
            return any(stock(joint, point) is not None for point in points)
    except PyrolvmError:
        return False
