"""Mixtures of Gaussians for the latent variables of a row, whose components come from one network."""

from __future__ import annotations

from math import log, pi, sqrt
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm_guides._params import learnable

__all__ = ["WIDTH", "Components", "RowMixture"]

WIDTH = 16
"""Numbers of the encoder that components are made of, beside a location and scale that all share."""

GOLDEN = 0.6180339887498949
"""Multiples of it, less whole numbers, spread evenly over any run of rows."""

PERIOD = 2**14
"""Rows after which they repeat, so that single precision tells them apart."""


class RowMixture(dist.TorchDistribution):
    r"""Equal parts of Gaussians, for each row its own; the density is the marginal one.

    .. math:: q(z_n) = \frac1A \sum_{a=1}^A \mathrm{Normal}\bigl(z_n;\ m_{na}, \mathrm{diag}\, s_{na}^2\bigr)

    A draw is one of a component that is picked without gradient; weights are equal and fixed, so that its derivatives by locations and
    scales are exact. Several draws of a row at once take its components in turn, from one at random: each draw by itself is of any
    component alike, and A draws see each component once. Draws that are made one by one are told which of them each is by
    :meth:`in_lane`; those that are not told are independent.

    Args:
        loc: locations, shape ``(b, A, d)``.
        scale: scales, same shape, positive.
        batch_shape: rows, perhaps after other dimensions, ``(..., b)``; ``(b,)`` if not given.
        lane: what :meth:`in_lane` was told.
        numbers: of the rows among all, shape ``(b,)``, so that rows are told apart alike whatever others are here; by default in the
            order that they have here.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        batch_shape: torch.Size | tuple[int, ...] | None = None,
        lane: tuple[Tensor, Tensor] | None = None,
        numbers: Tensor | None = None,
    ) -> None:
        self.loc, self.scale, self.lane, self.numbers = loc, scale, lane, numbers
        shape = loc.shape[:-2] if batch_shape is None else torch.Size(batch_shape)
        super().__init__(shape, loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RowMixture:
        """The same law for more copies of the rows."""
        return RowMixture(self.loc, self.scale, batch_shape, self.lane, self.numbers)

    def in_lane(self, index: Tensor, shift: Tensor) -> RowMixture:
        """The law of one of several draws that are made apart.

        Args:
            index: which of them, shape ``()``.
            shift: a number between 0 and 1, shape ``()``, drawn uniformly and the same for all of them.
        """
        return RowMixture(self.loc, self.scale, self.batch_shape, (index, shift), self.numbers)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        """Draws ``(*sample_shape, *batch_shape, d)``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        noise = torch.randn(shape + self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
        number = torch.arange(self.loc.shape[-2], dtype=self.loc.dtype, device=self.loc.device)
        chosen = (self._picked(shape)[..., None] == number).to(self.loc.dtype)[..., None]
        return (chosen * self.loc).sum(-2) + (chosen * self.scale).sum(-2) * noise

    def _picked(self, shape: torch.Size) -> Tensor:
        """The number of the component of each draw."""
        like: Any = {"dtype": self.loc.dtype, "device": self.loc.device}
        rows, count = self.loc.shape[:-2], self.loc.shape[-2]
        copies = shape[: len(shape) - len(rows)]
        turn = torch.arange(copies.numel(), **like).reshape(*copies, *[1] * len(rows))
        if self.lane is None:
            first = torch.rand(rows, **like)
        else:
            # A number is drawn outside of the draws, where rows are not known. Rows are as far apart from it as can be.
            index, shift = self.lane
            numbers = torch.arange(rows.numel(), device=self.loc.device) if self.numbers is None else self.numbers
            first = shift.to(**like) + (GOLDEN * (numbers % PERIOD).to(**like).reshape(rows)) % 1.0
            turn = turn + index.to(**like)
        return ((count * first).floor() + turn) % count

    def log_prob(self, value: Tensor) -> Tensor:
        """The exact marginal log density, shape ``(..., b)`` for values of shape ``(..., b, d)``."""
        noise = (value[..., None, :] - self.loc) / self.scale
        parts = -0.5 * (noise * noise).sum(-1) - self.scale.log().sum(-1)
        return parts.logsumexp(-1) - log(self.loc.shape[-2]) - 0.5 * self.loc.shape[-1] * log(2 * pi)


class Components(PyroModule):
    r"""Locations and scales of all components of a row, by one layer that is told the number of a component.

    .. math:: (m_a, \log s_a) = (m, \log s) + W (g_a \odot c) + v_a

    for what an encoder says of the row, :math:`m, \log s` and :math:`c`, of :data:`WIDTH` numbers: :math:`g_a` and :math:`v_a` are
    the rows of two tables that a component's indicator picks, and all that a further component costs. By gates components part as fast
    as they move together; told by a bias inside a layer of tanh units they part later, when both may have gone to one of two modes.

    Args:
        components: how many.
        spread: the standard deviation of where components start, for each coordinate, shape ``(d,)``.
    """

    def __init__(self, components: int, spread: Tensor) -> None:
        super().__init__()
        size = len(spread)
        like: Any = {"dtype": spread.dtype, "device": spread.device}
        self.weight = learnable((2 * torch.rand(2 * size, WIDTH, **like) - 1) / sqrt(WIDTH))
        self.gate = learnable(_apart(components, WIDTH, spread))
        away = spread * _apart(components, size, spread)
        self.offset = learnable(torch.cat([away, torch.zeros_like(away)], -1))

    def forward(self, loc: Tensor, scale: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Maps what is said of rows, ``(b, d)``, ``(b, d)`` and ``(b, WIDTH)``, to locations and scales ``(b, A, d)``."""
        shift, stretch = ((self.gate * context[..., None, :]) @ self.weight.mT + self.offset).chunk(2, -1)
        return loc[..., None, :] + shift, scale[..., None, :] * stretch.exp()


def _apart(count: int, size: int, like: Tensor) -> Tensor:
    """Random numbers ``(count, size)`` of mean zero and variance one over the first dimension; zeros where it is one."""
    found = torch.randn(count, size, dtype=like.dtype, device=like.device)
    found = found - found.mean(0)
    return found / found.square().mean(0).sqrt().clamp(min=1e-6)
