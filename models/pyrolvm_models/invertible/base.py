"""What an invertible block is, blocks one after another, and the other way round."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Block", "Chain", "Inverted", "Mapped", "zeros"]

Mapped = tuple[Tensor, Tensor]


class Block(nn.Module):
    """An invertible map of the last ``event_dim`` dimensions.

    Attributes:
        event_dim: 1 for vectors, 3 for images.
    """

    event_dim = 1

    def forward(self, x: Tensor) -> Mapped:
        """The image of ``x`` and the log absolute determinant of the Jacobian there, one for each batch element."""
        raise NotImplementedError

    def inverse(self, z: Tensor) -> Mapped:
        """The preimage of ``z`` and the log absolute determinant of the inverse's Jacobian there."""
        raise NotImplementedError


class Chain(Block):
    """Blocks one after another, from data to noise.

    Args:
        blocks: the blocks.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.event_dim = blocks[0].event_dim

    def forward(self, x: Tensor) -> Mapped:
        """See :class:`Block`."""
        total = x.new_zeros(x.shape[: x.dim() - self.event_dim])
        for block in self.blocks:
            x, log_det = block(x)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor) -> Mapped:
        """See :class:`Block`."""
        total: Tensor | float = 0.0
        for block in reversed(self.blocks):
            z, log_det = block.inverse(z)  # type: ignore[operator]
            total = total + log_det
        return z, torch.as_tensor(total, dtype=z.dtype, device=z.device)


class Inverted(Block):
    """A block the other way round: its forward is the inverse of the other's. Of MAF it makes IAF.

    Args:
        block: the block.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block
        self.event_dim = block.event_dim

    def forward(self, x: Tensor) -> Mapped:
        """See :class:`Block`."""
        return self.block.inverse(x)

    def inverse(self, z: Tensor) -> Mapped:
        """See :class:`Block`."""
        mapped: Mapped = self.block(z)
        return mapped


def zeros(x: Tensor, event_dim: int) -> Tensor:
    """The log determinant of a map that changes no volume."""
    return x.new_zeros(x.shape[: x.dim() - event_dim])
