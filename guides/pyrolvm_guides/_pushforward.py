"""The density of standard normal noise after a bijection."""

from __future__ import annotations

from math import log, pi
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyrolvm_guides._bijections import Bijection

__all__ = ["PushForward"]


class PushForward(TorchDistribution):
    r"""The law of :math:`x = f(\epsilon)` for :math:`\epsilon \sim \mathrm{Normal}(0, I)`.

    .. math:: \log q(x) = \log \mathrm{Normal}(\epsilon; 0, I) - \log|\det \partial f/\partial \epsilon|

    The density of its own draw comes from the pass that made it. Foreign values are inverted.

    Args:
        bijection: the map :math:`f`.
        dim: the length of :math:`x`.
        like: a tensor whose dtype and device the draws take.
        batch_shape: independent copies.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, bijection: Bijection, dim: int, like: Tensor, batch_shape: torch.Size | tuple[int, ...] = ()
    ) -> None:
        self.bijection = bijection
        self.like = like
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(torch.Size(batch_shape), torch.Size((dim,)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PushForward:
        """The same law for another number of independent copies."""
        return PushForward(self.bijection, self.event_shape[0], self.like, batch_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        """Draws ``(*sample_shape, *batch_shape, d)`` in one pass."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        noise = torch.randn(shape, dtype=self.like.dtype, device=self.like.device)
        x, log_det = self.bijection(noise)
        self._drawn = (x, _standard_normal(noise) - log_det)
        return x

    def log_prob(self, value: Tensor) -> Tensor:
        """The exact log density, shape ``(...)`` for values of shape ``(..., d)``."""
        if self._drawn is not None and self._drawn[0] is value:
            return self._drawn[1]
        noise, log_det = self.bijection.inverse(value)
        return _standard_normal(noise) - log_det


def _standard_normal(noise: Tensor) -> Tensor:
    return -0.5 * (noise * noise).sum(-1) - 0.5 * noise.shape[-1] * log(2 * pi)
