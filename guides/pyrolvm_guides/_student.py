"""Mixtures of Student t distributions as a Pyro distribution, and the guide that samples one."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, pi
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyrolvm import Problem
from pyrolvm.family import (
    MOST_COMPONENTS,
    MOST_MODES,
    Joint,
    Student,
    Target,
    Weighed,
    draw_weighed,
    known_frame,
    require_affordable,
)
from pyrolvm_guides._joint import JointGuide
from pyrolvm_guides._layout import Layout
from pyrolvm_guides._params import learnable

__all__ = ["StudentGuide", "StudentMixture"]

LARGE = 300
"""Up to so many unknowns components are added to those of the modes."""

CAPACITY = max(MOST_COMPONENTS, MOST_MODES + 1)
"""The most components there are then: one for each mode and one of heavy tails at the least."""

HEAVIEST = 30
"""The most degrees of freedom, if finite, of a component: its chi square is a sum of so many squares."""

GAUSSIAN = 1e6
"""Degrees of freedom that stand for infinitely many."""


class StudentMixture(dist.TorchDistribution):
    r"""The law of :math:`m_k + L_k \epsilon \sqrt{\nu_k / g}`, :math:`g \sim \chi^2_{\nu_k}`, for k of weight :math:`w_k`.

    Args:
        weights: summing to one, zeros allowed, shape ``(k,)``.
        means: shape ``(k, d)``.
        trils: lower triangular, shape ``(k, d, d)``.
        freedoms: whole numbers of degrees of freedom up to 30, or 1e6 and more for a Gaussian, shape ``(k,)``.
        batch_shape: independent copies.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        trils: Tensor,
        freedoms: Tensor,
        batch_shape: torch.Size | tuple[int, ...] = (),
    ) -> None:
        self.weights, self.means, self.trils, self.freedoms = weights, means, trils, freedoms
        super().__init__(torch.Size(batch_shape), means.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> StudentMixture:
        """The same law for another number of independent copies."""
        return StudentMixture(self.weights, self.means, self.trils, self.freedoms, batch_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        """Draws ``(*sample_shape, *batch_shape, d)``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        options: dict[str, Any] = {"dtype": self.means.dtype, "device": self.means.device}
        which = (torch.rand((*shape, 1), **options) > self.weights.cumsum(0)[:-1]).sum(-1)
        noise = torch.randn(shape + self.event_shape, **options)
        squares = torch.randn((*shape, HEAVIEST), **options) ** 2
        used = torch.arange(HEAVIEST, device=self.means.device) < self.freedoms[:, None]
        stretch = (self.freedoms[which] / (squares * used[which]).sum(-1)).sqrt()
        stretch = torch.where(self.freedoms[which] < GAUSSIAN, stretch, torch.ones_like(stretch))
        noise = noise * stretch[..., None]
        return self.means[which] + (self.trils[which] @ noise[..., None])[..., 0]

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, shape ``(...)`` for values of shape ``(..., d)``."""
        size, nu = value.shape[-1], self.freedoms
        # Not solved draw by draw: a solver would copy every matrix for each of them.
        unit = torch.eye(size, dtype=self.trils.dtype, device=self.trils.device)
        inverse = torch.linalg.solve_triangular(self.trils, unit.expand_as(self.trils), upper=False)
        whitened = torch.einsum("kij,...kj->...ki", inverse, value[..., None, :] - self.means)
        squared = (whitened**2).sum(-1)
        log_det = self.trils.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        heavy = torch.lgamma((nu + size) / 2) - torch.lgamma(nu / 2) - size / 2 * (nu * pi).log()
        heavy = heavy - (nu + size) / 2 * torch.log1p(squared / nu)
        light = -0.5 * (squared + size * log(2 * pi))
        parts = torch.where(nu < GAUSSIAN, heavy, light) - log_det + self.weights.log()
        return parts.logsumexp(-1)


class StudentGuide(JointGuide):
    """A mixture of Student t distributions in a posterior's own coordinates, which an algorithm of its own sets.

    Args:
        family: the name for messages and parameters.
        layout: the sites.
        problem: the model with its data.
    """

    def __init__(self, family: str, layout: Layout, problem: Problem) -> None:
        require_affordable(problem)
        super().__init__(family, layout)
        self._keep_model(problem.model)
        count = CAPACITY if layout.size <= LARGE else MOST_MODES
        start = layout.start
        unit = torch.eye(layout.size, dtype=start.dtype, device=start.device)
        self.weights = learnable(start.new_ones(count) / count)
        self.means = learnable(start.expand(count, -1))
        self.trils = learnable(unit.expand(count, -1, -1))
        self.freedoms = learnable(start.new_full((count,), GAUSSIAN))
        self._open_centring(problem)
        self.held = ("weights", "means", "trils", "freedoms", *self._dependent.values())

    def posterior(self) -> dist.TorchDistribution:
        """The mixture."""
        return StudentMixture(self.weights, self.means, self.trils, self.freedoms)

    def weighed(self, problem: Problem, count: int, *, seed: int) -> tuple[Weighed, Target]:
        """Draws with their densities by the fastest way there is, and what says which draws their points are."""
        parts = [p.detach().cpu().double().numpy() for p in (self.weights, self.means, self.trils, self.freedoms)]
        used = parts[0] > 0
        weights, means, trils, freedoms = (part[used] for part in parts)
        family = Student(weights, means, trils, np.where(freedoms < GAUSSIAN, freedoms, np.inf))
        centring = self.centring()
        frame = known_frame(problem, centring)
        target = frame.target if frame is not None else Target.of(Joint(problem, centring=centring))
        return draw_weighed(target, family, count, seed), target

    def take(self, family: Student, centring: Mapping[str, Tensor]) -> None:
        """Becomes a mixture that was found; unused components get weight zero."""
        used, count = len(family.weights), len(self.weights)
        freedoms = np.minimum(family.freedoms, GAUSSIAN)
        with torch.no_grad():
            for parameter, values, rest in (
                (self.weights, family.weights, 0.0),
                (self.means, family.means, family.means[0]),
                (self.trils, family.trils, family.trils[0]),
                (self.freedoms, freedoms, GAUSSIAN),
            ):
                parameter[:used] = torch.as_tensor(values).to(parameter)
                if used < count:
                    parameter[used:] = torch.as_tensor(rest).to(parameter)
        self.set_centring(centring)
