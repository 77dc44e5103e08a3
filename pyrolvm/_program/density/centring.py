r"""Coordinates in which a site does not depend on its parents: non-centring, as far as the data allow, read from the model's own run.

Where other latents set a latent's location and scale, as in theta ~ Normal(mu, tau), its posterior widens and narrows
with them: a funnel, which no Gaussian fits. Let :math:`r` be the unconstrained value, :math:`a, b` the location and scale of
its conditional prior, and let the data say of it what an observation of precision :math:`\Lambda` and value :math:`\eta / \Lambda`
would say. Given its parents its posterior then is normal, and

.. math:: r = \frac{a + b^2 \eta}{1 + b^2 \Lambda} + \frac{b}{\sqrt{1 + b^2 \Lambda}}\, u

makes :math:`u` standard normal and independent of the parents. It is non-centred where the data say nothing or the prior is narrow, and
goes over to centred coordinates where the prior is wide, element by element and with the parents' values. With a Gaussian likelihood
and the right :math:`\Lambda, \eta` it is exact. A multivariate normal site has the same with matrices; there :math:`\Lambda` is
diagonal, or a matrix for each vector where the data say something of its elements together, as of a line's intercept and slope.

References:
    Papaspiliopoulos, Roberts, Sköld, *A general framework for the parametrization of hierarchical models*,
    https://arxiv.org/abs/0708.3797;
    Gorinova, Moore, Hoffman, *Automatic reparameterisation of probabilistic programs*, https://arxiv.org/abs/1906.03028;
    Christensen, Roberts, Sköld, *Robust Markov chain Monte Carlo methods for spatial generalized linear mixed models*,
    https://doi.org/10.1198/106186006X100470 (data-informed coordinates)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrolvm._program.peeling import innermost

__all__ = ["Centring", "Spread", "centred", "conditional", "non_centred"]

Centring = Mapping[str, Tensor]
"""What the data say of a site, by name: the precision and its product with the value, stacked, for each element of the site's
unconstrained value, shape ``(2, ...)``; for vectors of length n with a precision matrix each, its n rows and the product,
shape ``(n + 1, ..., n)``. Sites that are absent, or whose precision is infinite, stay centred as they are."""


def non_centred(like: Tensor, length: int = 1) -> Tensor:
    """No word from the data, of vectors of a length with a matrix each, or of elements."""
    return like.new_zeros((length + 1, *like.shape))


def centred(like: Tensor, length: int = 1) -> Tensor:
    """Coordinates left as they are."""
    return like.new_full((length + 1, *like.shape), torch.inf)


@dataclass(frozen=True)
class Spread:
    """Location and scale of a site's conditional prior, in unconstrained space.

    Attributes:
        loc: broadcastable to the site's unconstrained value.
        scale: the same; or a lower triangular matrix of shape ``(..., n, n)`` for a vector of length n.
        joint: whether ``scale`` is such a matrix.
    """

    loc: Tensor
    scale: Tensor
    joint: bool = False

    def outward(self, u: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """The unconstrained value that coordinates stand for, and log|dr/du| elementwise (its sum is the log determinant).

        Args:
            u: the coordinates.
            held: what the data say, shape ``(2, *u.shape)`` or, of vectors with matrices, ``(n + 1, *u.shape)``.
        """
        if _left(held):
            return u, torch.zeros_like(u)
        if not self.joint:
            middle, width = self._conditional(held)
            return middle + width * u, width.log().expand_as(u)
        log_diagonal = self.scale.diagonal(dim1=-2, dim2=-1).log()
        if _silent(held):
            return self.loc + _times(self.scale, u), log_diagonal.expand_as(u)
        root, middle = self._posterior(held)
        inner = torch.linalg.solve_triangular(root.mT, u[..., None], upper=True)[..., 0]
        slope = log_diagonal - root.diagonal(dim1=-2, dim2=-1).log()
        return middle + _times(self.scale, inner), slope.expand_as(u)

    def inward(self, value: Tensor, held: Tensor) -> Tensor:
        """The coordinates of an unconstrained value."""
        if _left(held):
            return value
        if not self.joint:
            middle, width = self._conditional(held)
            return (value - middle) / width
        if _silent(held):
            return _solved(self.scale, value - self.loc)
        root, middle = self._posterior(held)
        return _times(root.mT, _solved(self.scale, value - middle))

    def _conditional(self, held: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sd given the parents and what the data say."""
        precision, shift = held
        variance = self.scale * self.scale
        share = 1 + variance * precision
        return (self.loc + variance * shift) / share, self.scale * share.rsqrt()

    def _posterior(self, held: Tensor) -> tuple[Tensor, Tensor]:
        """The Cholesky factor of the precision in coordinates in which the prior is standard, and the mean."""
        shift, diagonal = held[-1], _diagonal(held)
        if diagonal is None:
            precision = held[:-1].movedim(0, -2)
            weighed, heard = precision @ self.scale, _times(precision, self.loc)
        else:
            weighed, heard = diagonal[..., None] * self.scale, diagonal * self.loc
        inside = self.scale.mT @ weighed
        root = torch.linalg.cholesky(inside + torch.eye(inside.shape[-1], dtype=inside.dtype, device=inside.device))
        pull = _times(self.scale.mT, shift - heard)
        inner = torch.linalg.solve_triangular(root.mT, _solved(root, pull)[..., None], upper=True)[..., 0]
        return root, self.loc + _times(self.scale, inner)

    @property
    def depends(self) -> bool:
        """Whether it depends on what gradients are taken of."""
        return self.loc.requires_grad or self.scale.requires_grad


def _left(held: Tensor) -> bool:
    return bool(held[0].isinf().all())


def _silent(held: Tensor) -> bool:
    return bool((held == 0).all())


def _diagonal(held: Tensor) -> Tensor | None:
    """The precision of each element of vectors; ``None`` where the data say something of several together."""
    if len(held) == 2:
        return held[0]
    rows = held[:-1].movedim(0, -2)
    diagonal = rows.diagonal(dim1=-2, dim2=-1)
    return diagonal if bool((rows == torch.diag_embed(diagonal)).all()) else None


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _solved(tril: Tensor, vector: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(tril, vector[..., None], upper=False)[..., 0]


def _location_scale(fn: dist.TorchDistribution) -> Spread:
    return Spread(fn.loc, fn.scale)


def _log_of(name: str, power: float = 1.0) -> Callable[[Any], Spread]:
    """For a positive site with scale ``name``: its logarithm is that of the scale plus something standard."""

    def spread(fn: dist.TorchDistribution) -> Spread:
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


def conditional(fn: dist.TorchDistribution, shape: torch.Size) -> Spread | None:
    """Location and scale of a site's distribution in unconstrained space; ``None`` if it has none that is known.

    Args:
        fn: the distribution.
        shape: the shape of the site's unconstrained value.
    """
    fn = innermost(fn)
    rule = SPREADS.get(type(fn))
    if rule is None:
        return None
    spread = rule(fn)
    try:  # where a discrete latent is enumerated, the parents bring dimensions of their own
        if np.broadcast_shapes(spread.loc.shape, shape) != shape:
            return None
        if not spread.joint and np.broadcast_shapes(spread.scale.shape, shape) != shape:
            return None
    except ValueError:
        return None
    return spread
