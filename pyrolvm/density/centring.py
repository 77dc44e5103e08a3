r"""Coordinates in which a site does not depend on its parents: partial non-centring, read from the model's own run.

Where other latents set a latent's location and scale, as in theta ~ Normal(mu, tau), its posterior widens and narrows
with them: a funnel, which no Gaussian fits. With :math:`r` the unconstrained value and :math:`a, b` the location and
scale of its conditional prior,

.. math:: r = a + b^{1 - \lambda} (u - \lambda a)

makes :math:`u` the value itself for :math:`\lambda = 1` (centred), and standard a priori for :math:`\lambda = 0`
(non-centred). Data that say much about :math:`r` ask for the former, data that say little for the latter.

References:
    Papaspiliopoulos, Roberts, Sköld, *A general framework for the parametrization of hierarchical models*,
    https://arxiv.org/abs/0708.3797;
    Gorinova, Moore, Hoffman, *Automatic reparameterisation of probabilistic programs*, https://arxiv.org/abs/1906.03028
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["Centring", "Spread", "conditional"]

Centring = Mapping[str, Tensor]
"""How centred a site is, by name: numbers in [0, 1] of the site's unconstrained shape. Sites that are absent are centred."""


@dataclass(frozen=True)
class Spread:
    """Location and scale of a site's conditional prior, in unconstrained space.

    Attributes:
        loc: broadcastable to the site's unconstrained value.
        scale: the same; or a lower triangular matrix of shape ``(..., n, n)`` for a vector of length n.
        joint: whether ``scale`` is such a matrix. The site is then either centred or not.
    """

    loc: Tensor
    scale: Tensor
    joint: bool = False

    def outward(self, u: Tensor, centred: Tensor) -> tuple[Tensor, Tensor]:
        """The unconstrained value that coordinates stand for, and log|dr/du| elementwise (its sum is the log determinant)."""
        if self.joint:
            keep = bool((centred > 0.5).all())
            value = u if keep else self.loc + (self.scale @ u[..., None])[..., 0]
            slope = torch.zeros_like(value) if keep else self.scale.diagonal(dim1=-2, dim2=-1).log().expand_as(value)
            return value, slope
        log_slope = (1 - centred) * self.scale.log()
        value = self.loc + log_slope.exp() * (u - centred * self.loc)
        return value, log_slope.expand_as(value)

    def inward(self, value: Tensor, centred: Tensor) -> Tensor:
        """The coordinates of an unconstrained value."""
        if self.joint:
            if bool((centred > 0.5).all()):
                return value
            return torch.linalg.solve_triangular(self.scale, (value - self.loc)[..., None], upper=False)[..., 0]
        return (value - self.loc) * (-(1 - centred) * self.scale.log()).exp() + centred * self.loc

    @property
    def depends(self) -> bool:
        """Whether it depends on what gradients are taken of."""
        return self.loc.requires_grad or self.scale.requires_grad


def _location_scale(fn: Any) -> Spread:
    return Spread(fn.loc, fn.scale)


def _log_of(name: str, power: float = 1.0) -> Callable[[Any], Spread]:
    """For a positive site with scale ``name``: its logarithm is that of the scale plus something standard."""

    def spread(fn: Any) -> Spread:
        loc = power * getattr(fn, name).log()
        return Spread(loc, torch.ones_like(loc))

    return spread


SPREADS: dict[type, Callable[[Any], Spread]] = {
    dist.Normal: _location_scale,
    dist.Cauchy: _location_scale,
    dist.Laplace: _location_scale,
    dist.StudentT: _location_scale,
    dist.Gumbel: _location_scale,
    dist.Logistic: _location_scale,
    dist.LogNormal: _location_scale,
    dist.MultivariateNormal: lambda fn: Spread(fn.loc, fn.scale_tril, joint=True),
    dist.HalfNormal: _log_of("scale"),
    dist.HalfCauchy: _log_of("scale"),
    dist.Weibull: _log_of("scale"),
    dist.Exponential: _log_of("rate", -1.0),
    dist.Gamma: _log_of("rate", -1.0),
    dist.InverseGamma: _log_of("rate"),
}
"""By type of distribution, with supports whose unconstrained scale is the site's own or its logarithm."""


def conditional(fn: Any, shape: torch.Size) -> Spread | None:
    """Location and scale of a site's distribution in unconstrained space; ``None`` if it has none that is known.

    Args:
        fn: the distribution.
        shape: the shape of the site's unconstrained value.
    """
    while isinstance(fn, dist.Independent | torch.distributions.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    rule = SPREADS.get(type(fn))
    if rule is None:
        return None
    spread = rule(fn)
    try:  # where a discrete latent is enumerated, the parents bring dimensions of their own
        if torch.broadcast_shapes(spread.loc.shape, shape) != shape:
            return None
        if not spread.joint and torch.broadcast_shapes(spread.scale.shape, shape) != shape:
            return None
    except RuntimeError:
        return None
    return spread
