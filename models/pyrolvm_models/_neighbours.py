"""Binary images whose pixels depend on the pixels around them that come before, in the same way at every place."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor

from pyrolvm_models.likelihoods import InOrder, drawn

__all__ = ["NeighbourBernoulli", "offsets"]

CHUNK = 512
"""Images whose neighbours are in memory at once."""


def offsets(context: int) -> list[tuple[int, int]]:
    """Where the pixels that one pixel sees lie from it: up to ``context`` rows above and columns aside, and before it."""
    rows, columns = range(-context, 1), range(-context, context + 1)
    return [(row, column) for row in rows for column in columns if (row, column) < (0, 0)]


class NeighbourBernoulli(dist.TorchDistribution):
    r"""Binary images, pixel after pixel: :math:`\mathrm{logit}\, P(x_j = 1) = l_j + v \cdot \tanh(W x_{N(j)} + b)`.

    :math:`N(j)` are the pixels around :math:`j` that come before it; outside an image they are zero. What neighbours add does not
    depend on ``logits``, so that a density of the same image under many of them reads the neighbours once.

    Args:
        logits: The :math:`l`, shape ``(..., height * width)``.
        inward: The :math:`W`, shape ``(units, neighbours)``.
        bias: The :math:`b`, shape ``(units,)``.
        outward: The :math:`v`, shape ``(units,)``.
        width: Pixels from left to right.
        context: How many rows and columns a pixel sees back.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.boolean, 1)
    has_rsample = False

    def __init__(
        self, logits: Tensor, inward: Tensor, bias: Tensor, outward: Tensor, width: int, context: int, *,
        validate_args: bool | None = None,
    ) -> None:  # fmt: skip
        self.logits, self.inward, self.bias, self.outward = logits, inward, bias, outward
        self.width, self.context = width, context
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NeighbourBernoulli:
        """The same distribution for each element of a batch."""
        logits = self.logits.expand(torch.Size(batch_shape) + self.event_shape)
        return NeighbourBernoulli(
            logits, self.inward, self.bias, self.outward, self.width, self.context, validate_args=False
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of images ``(..., height * width)``, shape ``(...)``."""
        if self._validate_args:
            self._validate_sample(value)
        logits = self.logits + self._told(value)
        return (value * logits - F.softplus(logits)).sum(-1)

    def _told(self, value: Tensor) -> Tensor:
        """What neighbours add to the logits of every pixel."""
        height = self.event_shape[0] // self.width
        images = value.reshape(-1, height, self.width).split(CHUNK)
        return torch.cat([self._told_some(part) for part in images]).reshape(value.shape)

    def _told_some(self, image: Tensor) -> Tensor:
        """The same of some images ``(n, height, width)``: units first, so that the rows of products are long."""
        c = self.context
        around = F.pad(image, (c, c, c, 0))
        _, height, width = image.shape
        seen = [around[:, c + y : c + y + height, c + x : c + x + width].reshape(-1) for y, x in offsets(c)]
        units = torch.tanh(self.inward @ torch.stack(seen) + self.bias[:, None])
        return (self.outward @ units).reshape(image.shape)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Images of shape ``sample_shape + batch_shape + (height * width,)``."""
        return drawn(self.expand(torch.Size(sample_shape) + self.batch_shape).in_order())

    def in_order(self) -> InOrder:
        """The distribution of each pixel given those before it, which are sent."""
        before: list[Tensor] = []
        nothing = torch.zeros_like(self.logits[..., 0])
        for j in range(self.event_shape[0]):
            row, column = divmod(j, self.width)
            seen = [
                before[(row + y) * self.width + column + x]
                if row + y >= 0 and 0 <= column + x < self.width
                else nothing
                for y, x in offsets(self.context)
            ]
            units = torch.tanh(torch.stack(seen, -1).to(self.inward) @ self.inward.mT + self.bias)
            logits = self.logits[..., j] + units @ self.outward
            before.append((yield dist.Bernoulli(logits=logits, validate_args=False)))
