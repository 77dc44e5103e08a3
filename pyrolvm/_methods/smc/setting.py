"""A problem as both ends of a path: where particles start, the density that they end at, and the draws that they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import CaptureError, FitError, ProblemError
from pyrolvm._methods.evidence.annealing import Path
from pyrolvm._methods.evidence.bridge import Gaussian
from pyrolvm._methods.evidence.setting import Coordinates, stored_draws
from pyrolvm._methods.smc.weights import Array
from pyrolvm._program.density import Joint
from pyrolvm._program.density.prior import check_proper, prior_points, without_data
from pyrolvm._program.density.target import Target
from pyrolvm._program.problem import Problem
from pyrolvm._results import Posterior
from pyrolvm.family import find_frame, frame_pays

__all__ = ["Setting", "Wide", "check_problem_for_smc"]

REMEDY = "use lvm.nuts(problem), which takes fewer"
"""What there is for densities that cannot be run for many draws at once."""

FREEDOM, WIDER = 5.0, 2.0
"""Degrees of freedom of the law that particles start from at a posterior's draws, and how much wider it is: by this over the root of
the number of unknowns, since in many of them a little is far."""


def check_problem_for_smc(problem: Problem, params: Mapping[str, Tensor]) -> None:
    """Refuses what has no prior to start from and no evidence, or unknowns that particles cannot have.

    Raises:
        ProblemError: with the site.
    """
    if not problem.continuous:
        method = "lvm.exact" if problem.latents else "lvm.fit, which learns its parameters by maximum likelihood"
        raise ProblemError(
            f"{problem.name} has no continuous latent site, so there is nothing for particles to move in. Fix: use {method}, or give "
            "its unknowns priors."
        )
    for site in problem.discrete:
        if not site.enumerable:
            raise ProblemError(
                f"latent site {site.name!r} of {problem.name} is {site.distribution}, {site.why_not_listed}, and cannot be summed out. "
                f"Fix: {site.instead}."
            )
    if problem.parameters and not params:
        raise ProblemError(
            f"{problem.name} has learnable parameters without priors ({', '.join(list(problem.parameters)[:3])}, ...), which are not "
            "sampled. Fix: give them priors with pyro.sample, or pass start=fit or params=fit to hold them at fitted values."
        )
    with problem.session(seed=0, params=params):
        check_proper(problem)


@dataclass(frozen=True)
class Wide:
    """A multivariate t distribution about draws: wider than they are, and with heavier tails.

    Attributes:
        around: the Gaussian with the moments of the draws.
    """

    around: Gaussian

    @property
    def scale(self) -> float:
        """How many times as wide as the draws it is."""
        return 1 + WIDER / math.sqrt(len(self.around.mean))

    def sample(self, count: int, random: np.random.Generator) -> Array:
        """Independent draws, shape ``(count, n)``."""
        stretch = self.scale / np.sqrt(random.chisquare(FREEDOM, size=(count, 1)) / FREEDOM)
        drawn: Array = self.around.mean + stretch * (self.around.sample(count, random) - self.around.mean)
        return drawn

    def __call__(self, points: Array) -> tuple[Array, Array]:
        """Log densities ``(count,)`` and gradients ``(count, n)`` at points ``(count, n)``; minus infinity at the ends of the space."""
        from scipy.linalg import solve_triangular
        from scipy.special import gammaln

        root, size = self.scale * self.around.root, points.shape[1]
        fine = np.asarray(np.isfinite(points).all(axis=1))
        white = solve_triangular(root, np.where(fine, (points - self.around.mean).T, 0.0), lower=True)
        squared = np.sum(white**2, axis=0)
        constant = gammaln((FREEDOM + size) / 2) - gammaln(FREEDOM / 2) - size / 2 * math.log(FREEDOM * math.pi)
        value = constant - np.log(np.diag(root)).sum() - (FREEDOM + size) / 2 * np.log1p(squared / FREEDOM)
        slope = solve_triangular(root, white, lower=True, trans="T").T
        slope = -((FREEDOM + size) / (FREEDOM + squared))[:, None] * slope
        return np.where(fine, value, -np.inf), np.where(fine[:, None], slope, 0.0)


@dataclass(frozen=True)
class Setting:
    """Where a climb takes place; to be used inside a session.

    Attributes:
        path: both ends.
        target: the joint density in the path's coordinates.
        base: what particles start from: the target of the prior, or a law about a posterior's draws.
    """

    path: Path
    target: Target
    base: Target | Wide

    @classmethod
    def of(cls, problem: Problem, posterior: Posterior | None) -> Setting:
        """From the prior, or from a law about a posterior's draws.

        Raises:
            FitError: if a density can only be run for one draw at a time.
        """
        if posterior is None:
            target = _plain(problem)
            prior = Target.of(Joint(without_data(problem), centring=target.joint.centring)).at_once(REMEDY)
            return cls(Path(prior.finite, target.finite), target, prior)
        target = _framed(problem, posterior.seed)
        points = stored_draws(posterior, Coordinates(target, target.joint.centring))
        base = Wide(Gaussian.of(points.reshape(-1, points.shape[-1])))
        return cls(Path(base, target.finite), target, base)

    @property
    def from_prior(self) -> bool:
        """Whether particles start from the prior."""
        return isinstance(self.base, Target)

    def start(self, problem: Problem, count: int, random: np.random.Generator) -> Array:
        """Draws of the base, shape ``(count, n)``."""
        if isinstance(self.base, Wide):
            return self.base.sample(count, random)
        return prior_points(problem, self.base, count)

    def draws(self, points: Array) -> dict[str, Tensor]:
        """The draws, by continuous latent site, that points stand for."""
        with torch.no_grad():
            return self.target.draws(points)


def _plain(problem: Problem) -> Target:
    """The density of unconstrained values; sites whose scale other latents set are in units of it."""
    return Target.of(Joint(problem).non_centred()).at_once(REMEDY)


def _framed(problem: Problem, seed: int) -> Target:
    """The density in the frame that fits and chains of this seed work in, where the problem has one."""
    if not frame_pays(problem):
        return _plain(problem)
    try:
        return find_frame(problem, seed=seed).target.at_once(REMEDY)
    except (CaptureError, FitError):  # no frame: plain coordinates have the reason, if there is one for these too
        return _plain(problem)
