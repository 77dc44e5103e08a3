"""The density of noise after a bijection."""

from __future__ import annotations

from math import lgamma, log, pi
from typing import Any, ClassVar, Protocol

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

__all__ = ["Invertible", "PushForward"]


class Invertible(Protocol):
    """A bijection that scores itself."""

    def __call__(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The image and the log determinant of the Jacobian."""

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The preimage and the forward log determinant there."""


class PushForward(TorchDistribution):
    r"""The law of :math:`x = f(\epsilon)` for :math:`\epsilon \sim \mathrm{Normal}(0, I)`, or a Student t.

    .. math:: \log q(x) = \log p(\epsilon) - \log|\det \partial f/\partial \epsilon|

    The density of its own draw comes from the pass that made it. Foreign values are inverted.

    Args:
        bijection: the map :math:`f`.
        dim: the length of :math:`x`.
        like: a tensor whose dtype and device the draws take.
        tails: degrees of freedom of the noise; ``None`` for normal noise.
        batch_shape: independent copies.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        bijection: Invertible,
        dim: int,
        like: Tensor,
        tails: int | None = None,
        batch_shape: torch.Size | tuple[int, ...] = (),
    ) -> None:
        self.bijection = bijection
        self.like = like
        self.tails = tails
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(torch.Size(batch_shape), torch.Size((dim,)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PushForward:
        """The same law for another number of independent copies."""
        return PushForward(self.bijection, self.event_shape[0], self.like, self.tails, batch_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        """Draws ``(*sample_shape, *batch_shape, d)`` in one pass."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        like: Any = {"dtype": self.like.dtype, "device": self.like.device}
        noise = torch.randn(shape, **like)
        if self.tails is not None:  # a chi square is a sum of squares, which every engine draws
            chi_square = (torch.randn((*shape[:-1], self.tails), **like) ** 2).sum(-1, keepdim=True)
            noise = noise * (self.tails / chi_square).sqrt()
        x, log_det = self.bijection(noise)
        self._drawn = (x, self._log_noise(noise) - log_det)
        return x

    def log_prob(self, value: Tensor) -> Tensor:
        """The exact log density, shape ``(...)`` for values of shape ``(..., d)``."""
        if self._drawn is not None and self._drawn[0] is value:
            return self._drawn[1]
        noise, log_det = self.bijection.inverse(value)
        return self._log_noise(noise) - log_det

    def _log_noise(self, noise: Tensor) -> Tensor:
        size, squared = noise.shape[-1], (noise * noise).sum(-1)
        if self.tails is None:
            return -0.5 * squared - 0.5 * size * log(2 * pi)
        nu = self.tails
        constant = lgamma((nu + size) / 2) - lgamma(nu / 2) - 0.5 * size * log(nu * pi)
        return constant - 0.5 * (nu + size) * torch.log1p(squared / nu)
