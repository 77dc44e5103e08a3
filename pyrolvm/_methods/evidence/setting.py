"""What every estimator stands on: a problem with its parameters held, its density in flat coordinates, and draws in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base.errors import CaptureError, FitError, ProblemError
from pyrolvm._methods.evidence.annealing import Path
from pyrolvm._methods.evidence.bridge import Gaussian
from pyrolvm._program.density import Joint
from pyrolvm._program.density.centring import Centring
from pyrolvm._program.density.prior import check_proper, without_data
from pyrolvm._program.density.target import Target
from pyrolvm._program.names import variable
from pyrolvm._program.problem import Problem
from pyrolvm._results import Posterior
from pyrolvm.family import find_frame, frame_pays

__all__ = ["Coordinates", "check_evidence", "prior_path", "stored_draws"]

Array = NDArray[np.float64]

REMEDY = "use method='importance' with a fit"
"""What there is for densities that cannot be run for many draws at once."""


def check_evidence(problem: Problem, params: Mapping[str, Tensor], method: str) -> None:
    """Refuses what has no marginal likelihood, or none that a method other than ``exact`` is for.

    Raises:
        ProblemError: with the site.
    """
    if not problem.latents:
        raise ProblemError(
            f"{problem.name} has no latent site, so its likelihood has nothing to be integrated over. "
            "Fix: give its unknowns priors with pyro.sample."
        )
    with problem.session(seed=0, params=params):
        check_proper(problem)
    if not problem.continuous and all(site.enumerable for site in problem.discrete):
        raise ProblemError(
            f"all latents of {problem.name} are discrete and are summed out, so there is nothing for {method!r} to estimate. "
            'Fix: use method="exact".'
        )


@dataclass(frozen=True)
class Coordinates:
    """A density in flat coordinates; to be used inside a session.

    Attributes:
        target: the log joint density, log Jacobian included.
        centring: what makes the coordinates other than unconstrained values.
    """

    target: Target
    centring: Centring

    @classmethod
    def plain(cls, problem: Problem) -> Coordinates:
        """Unconstrained values; sites whose scale other latents set are in units of it."""
        joint = Joint(problem).non_centred()
        return cls(Target.of(joint).at_once(REMEDY), joint.centring)

    @classmethod
    def framed(cls, problem: Problem, seed: int) -> Coordinates:
        """Those of the frame that fits and chains of this seed work in, where the problem has one."""
        if frame_pays(problem):
            try:
                frame = find_frame(problem, seed=seed)
            except (CaptureError, FitError):
                return cls.plain(problem)
            return cls(frame.target, frame.centring)
        return cls.plain(problem)


def prior_path(problem: Problem, coordinates: Coordinates) -> tuple[Path, Target]:
    """The path from the prior to the posterior, and the prior's own target, from which it starts."""
    base = Target.of(Joint(without_data(problem), centring=coordinates.centring)).at_once(REMEDY)
    return Path(base.finite, coordinates.target.finite), base


def gaussian_path(points: Array, coordinates: Coordinates) -> tuple[Path, Gaussian]:
    """The path from the Gaussian with the moments of draws to the posterior."""
    base = Gaussian.of(points)
    return Path(base, coordinates.target.finite), base


def stored_draws(posterior: Posterior, coordinates: Coordinates) -> Array:
    """A posterior's own draws in the coordinates, shape ``(chains, draws, n)``; inside its session.

    Raises:
        FitError: if some have no finite coordinates.
    """
    group = posterior.data["posterior"]
    sizes = group.sizes["chain"], group.sizes["draw"]
    sites = posterior.attached.continuous
    like = coordinates.target
    values = {
        site.name: like.tensor(np.asarray(group[variable(site.name)].values).reshape(-1, *site.shape)) for site in sites
    }
    points = like.points(values)
    bad = int((~np.isfinite(points).all(axis=1)).sum())
    if bad:
        raise FitError(
            f"{bad} of {len(points)} draws of {posterior.name} lie on the edge of their support, as far as {like.joint.problem.dtype} "
            "tells, and have no place on the real line. Fix: run the method in double precision, dtype=torch.float64."
        )
    return points.reshape(*sizes, -1)
