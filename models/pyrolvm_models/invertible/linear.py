"""Linear and fixed maps, and the start of those that start where data have mean 0 and variance 1."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrolvm_models.invertible.base import Block, Mapped, zeros

__all__ = ["ActNorm", "InvertibleLinear", "Logit", "Permutation", "initialize"]


class ActNorm(Block):
    """Each coordinate, or channel, shifted and scaled by parameters that start where the first data have mean 0 and variance 1.

    The start is set by :func:`initialize`; before it the map is the identity.

    Args:
        size: the number of coordinates, or of channels.
        event_dim: 1 for vectors, 3 for images.
    """

    def __init__(self, size: int, *, event_dim: int = 1) -> None:
        super().__init__()
        self.event_dim = event_dim
        shape = (size,) + (1,) * (event_dim - 1)
        self.shift, self.log_scale = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Sets the parameters by data ``x``."""
        dims = [d for d in range(x.dim()) if d != x.dim() - self.event_dim]
        mean, sd = x.mean(dims), x.std(dims).clamp(min=1e-3)
        self.log_scale.copy_(-sd.log().reshape(self.log_scale.shape))
        self.shift.copy_((-mean / sd).reshape(self.shift.shape))

    def _log_det(self, x: Tensor) -> Tensor:
        places = math.prod(x.shape[x.dim() - self.event_dim + 1 :])
        return (self.log_scale.sum() * places).expand(x.shape[: x.dim() - self.event_dim])

    def forward(self, x: Tensor) -> Mapped:
        """See :class:`Block`."""
        return x * self.log_scale.exp() + self.shift, self._log_det(x)

    def inverse(self, z: Tensor) -> Mapped:
        """See :class:`Block`."""
        return (z - self.shift) * (-self.log_scale).exp(), -self._log_det(z)


class InvertibleLinear(Block):
    r"""Coordinates, or channels, multiplied by a matrix :math:`P L (U + D)`: over channels an invertible 1x1 convolution.

    :math:`P` is a fixed permutation, :math:`L` unit lower and :math:`U` strictly upper triangular, and :math:`D` diagonal with fixed
    signs, so that the determinant costs nothing. It starts at a random rotation.

    Args:
        size: the number of coordinates, or of channels.
        event_dim: 1 for vectors, 3 for images.
        generator: of the rotation.
    """

    permutation: Tensor
    sign: Tensor
    below: Tensor
    unit: Tensor

    def __init__(self, size: int, *, event_dim: int = 1, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.event_dim = event_dim
        rotation = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.register_buffer("below", torch.ones(size, size).tril(-1))
        self.register_buffer("unit", torch.eye(size))
        self.lower, self.upper = nn.Parameter(lower.clone()), nn.Parameter(upper.clone())
        self.log_diagonal = nn.Parameter(diagonal.abs().log())

    def _factors(self) -> tuple[Tensor, Tensor]:
        diagonal = self.sign * self.log_diagonal.exp()
        return self.lower * self.below + self.unit, self.upper * self.below.mT + torch.diag(diagonal)

    def matrix(self) -> Tensor:
        """The matrix, shape ``(size, size)``."""
        lower, upper = self._factors()
        product: Tensor = self.permutation @ lower @ upper
        return product

    def _log_det(self, x: Tensor) -> Tensor:
        places = math.prod(x.shape[x.dim() - self.event_dim + 1 :])
        return (self.log_diagonal.sum() * places).expand(x.shape[: x.dim() - self.event_dim])

    def forward(self, x: Tensor) -> Mapped:
        """See :class:`Block`."""
        moved = x.movedim(-self.event_dim, -1) @ self.matrix().mT
        return moved.movedim(-1, -self.event_dim), self._log_det(x)

    def inverse(self, z: Tensor) -> Mapped:
        """See :class:`Block`."""
        lower, upper = self._factors()
        columns = z.movedim(-self.event_dim, -1).unsqueeze(-1)
        half = torch.linalg.solve_triangular(lower, self.permutation.mT @ columns, upper=False, unitriangular=True)
        x = torch.linalg.solve_triangular(upper, half, upper=True).squeeze(-1)
        return x.movedim(-1, -self.event_dim), -self._log_det(z)


class Permutation(Block):
    """Coordinates, or channels, in another order.

    Args:
        order: a permutation of ``0, ..., size - 1``.
        event_dim: 1 for vectors, 3 for images.
    """

    order: Tensor
    back: Tensor

    def __init__(self, order: Tensor, *, event_dim: int = 1) -> None:
        super().__init__()
        self.event_dim = event_dim
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def forward(self, x: Tensor) -> Mapped:
        """See :class:`Block`."""
        return x.index_select(-self.event_dim, self.order), zeros(x, self.event_dim)

    def inverse(self, z: Tensor) -> Mapped:
        """See :class:`Block`."""
        return z.index_select(-self.event_dim, self.back), zeros(z, self.event_dim)


class Logit(Block):
    r"""Numbers in (0, 1) to the real line: :math:`\mathrm{logit}(\alpha + (1 - 2 \alpha) x)`.

    Args:
        alpha: how far from 0 and 1 it keeps, at least 0 and below 1/2.
        event_dim: dimensions of an event.
    """

    def __init__(self, alpha: float = 0.05, *, event_dim: int = 1) -> None:
        super().__init__()
        self.alpha, self.event_dim = alpha, event_dim

    def forward(self, x: Tensor) -> Mapped:
        """See :class:`Block`."""
        inner = self.alpha + (1 - 2 * self.alpha) * x
        slope = math.log(1 - 2 * self.alpha) - inner.log() - (1 - inner).log()
        return inner.log() - (1 - inner).log(), slope.flatten(-self.event_dim).sum(-1)

    def inverse(self, z: Tensor) -> Mapped:
        """See :class:`Block`."""
        x = (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)
        slope = F.logsigmoid(z) + F.logsigmoid(-z) - math.log(1 - 2 * self.alpha)
        return x, slope.flatten(-self.event_dim).sum(-1)


@torch.no_grad()
def initialize(block: nn.Module, x: Tensor) -> None:
    """Sets each :class:`ActNorm` of a block by the data that reach it, when ``x`` goes through.

    Args:
        block: the block.
        x: data, a batch first.
    """
    hooks = [part.register_forward_pre_hook(_start) for part in block.modules() if isinstance(part, ActNorm)]
    training = block.training
    try:
        block.eval()
        block(x)
    finally:
        block.train(training)
        for hook in hooks:
            hook.remove()


def _start(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(module, ActNorm)
    module.start(inputs[0])
