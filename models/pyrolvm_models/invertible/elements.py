"""How one coordinate moves: strictly increasing maps of the real line, whose parameters a network gives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrolvm_models._zuko import MonotonicRQSTransform
from pyrolvm_models.invertible.base import Mapped

__all__ = ["Affine", "Element", "Mixture", "Spline"]


class Element(nn.Module):
    """A strictly increasing map of the real line, whose parameters a network gives.

    Attributes:
        size: how many parameters it has. Zeros give (nearly) the identity.
    """

    size: int

    def forward(self, x: Tensor, parameters: Tensor) -> Mapped:
        """The images of ``x`` ``(...)`` under parameters ``(..., size)``, and the logs of the slopes, both ``(...)``."""
        raise NotImplementedError

    def inverse(self, z: Tensor, parameters: Tensor) -> Mapped:
        """The preimages, and the logs of the slopes of the inverse."""
        raise NotImplementedError


class Affine(Element):
    r""":math:`z = e^{a} x + b`, with :math:`a` kept within ``(-3, 3)``.

    It is the one element that real NVP, Glow, MAF and IAF have; densities of several modes need many of them.
    """

    size = 2

    def _terms(self, parameters: Tensor) -> Mapped:
        shift, raw = parameters.unbind(-1)
        return shift, 3 * torch.tanh(raw / 3)

    def forward(self, x: Tensor, parameters: Tensor) -> Mapped:
        """See :class:`Element`."""
        shift, log_scale = self._terms(parameters)
        return x * log_scale.exp() + shift, log_scale

    def inverse(self, z: Tensor, parameters: Tensor) -> Mapped:
        """See :class:`Element`."""
        shift, log_scale = self._terms(parameters)
        return (z - shift) * (-log_scale).exp(), -log_scale


class Spline(Element):
    """A monotone rational-quadratic spline, zuko's, on ``[-bound, bound]``; the identity outside.

    Args:
        bins: number of bins.
        bound: half the width of the interval that bends.
    """

    def __init__(self, bins: int = 8, bound: float = 5.0) -> None:
        super().__init__()
        self.bins, self.bound = bins, bound
        self.size = 3 * bins - 1

    def _spline(self, parameters: Tensor) -> MonotonicRQSTransform:
        return MonotonicRQSTransform(*parameters.split([self.bins, self.bins, self.bins - 1], dim=-1), bound=self.bound)

    def forward(self, x: Tensor, parameters: Tensor) -> Mapped:
        """See :class:`Element`."""
        z, log_slope = self._spline(parameters).call_and_ladj(x)
        return z, log_slope

    def inverse(self, z: Tensor, parameters: Tensor) -> Mapped:
        """See :class:`Element`."""
        spline = self._spline(parameters)
        x = spline.inv(z)
        return x, -spline.call_and_ladj(x)[1]


class Mixture(Element):
    r""":math:`z = \mathrm{logit} \sum_k w_k \, \sigma((x - m_k) e^{-s_k})`: the distribution function of a mixture of logistics.

    It has no closed inverse: that is found by bisection, to the rounding of the numbers.

    Args:
        components: number of logistics :math:`K`.
    """

    def __init__(self, components: int = 4) -> None:
        super().__init__()
        self.components = components
        self.size = 3 * components
        self.register_buffer("spread", torch.linspace(-1.0, 1.0, components) if components > 1 else torch.zeros(1))

    def _terms(self, x: Tensor, parameters: Tensor) -> Mapped:
        """Log distribution function and log of its complement, and for the slope the log density."""
        weights, locs, scales = parameters.split(self.components, dim=-1)
        log_weights, log_scales = weights.log_softmax(-1), 3 * torch.tanh(scales / 3)
        u = (x.unsqueeze(-1) - locs - self.spread) * (-log_scales).exp()
        below = (log_weights + F.logsigmoid(u)).logsumexp(-1)
        above = (log_weights + F.logsigmoid(-u)).logsumexp(-1)
        density = (log_weights + F.logsigmoid(u) + F.logsigmoid(-u) - log_scales).logsumexp(-1)
        return below - above, density - below - above

    def forward(self, x: Tensor, parameters: Tensor) -> Mapped:
        """See :class:`Element`."""
        return self._terms(x, parameters)

    def inverse(self, z: Tensor, parameters: Tensor) -> Mapped:
        """See :class:`Element`."""
        _, locs, scales = parameters.split(self.components, dim=-1)
        locs, scales = locs + self.spread, (3 * torch.tanh(scales / 3)).exp()
        # One logistic alone is at z in loc + scale z; the mixture's quantile lies between the least and the greatest of those.
        ends = locs + scales * z.unsqueeze(-1)
        low, high = ends.amin(-1), ends.amax(-1)
        with torch.no_grad():
            steps = 60 if z.dtype == torch.float64 else 30
            for _ in range(steps):
                middle = (low + high) / 2
                over = self._terms(middle, parameters)[0] > z
                low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        x = (low + high) / 2
        return x, -self._terms(x, parameters)[1]
