"""Blocks of images: pixels as channels, and several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrolvm_models.invertible.base import Block, Mapped, zeros

__all__ = ["MultiScale", "Reshape", "Squeeze"]


class Reshape(Block):
    """Events of another shape, such as rows of pixels as images.

    Args:
        before: the shape of an event.
        after: its shape then, of as many numbers.
    """

    def __init__(self, before: Sequence[int], after: Sequence[int]) -> None:
        super().__init__()
        self.before, self.after = tuple(before), tuple(after)
        self.event_dim = len(self.before)

    def forward(self, x: Tensor) -> Mapped:
        """See :class:`Block`."""
        batch = x.shape[: x.dim() - len(self.before)]
        return x.reshape(batch + self.after), x.new_zeros(batch)

    def inverse(self, z: Tensor) -> Mapped:
        """See :class:`Block`."""
        batch = z.shape[: z.dim() - len(self.after)]
        return z.reshape(batch + self.before), z.new_zeros(batch)


class Squeeze(Block):
    """Squares of 2 x 2 pixels as four channels: ``(c, h, w)`` to ``(4 c, h / 2, w / 2)``, both sides even."""

    event_dim = 3

    def forward(self, x: Tensor) -> Mapped:
        """See :class:`Block`."""
        *batch, c, h, w = x.shape
        parts = x.reshape(*batch, c, h // 2, 2, w // 2, 2).movedim((-3, -1), (-5, -4))
        return parts.reshape(*batch, 4 * c, h // 2, w // 2), zeros(x, 3)

    def inverse(self, z: Tensor) -> Mapped:
        """See :class:`Block`."""
        *batch, c, h, w = z.shape
        parts = z.reshape(*batch, 2, 2, c // 4, h, w).movedim((-5, -4), (-3, -1))
        return parts.reshape(*batch, c // 4, 2 * h, 2 * w), zeros(z, 3)


class MultiScale(Block):
    """Levels of blocks; after each but the last, half of the channels are done and leave. The noise is one vector.

    Args:
        levels: a block of images for each level, such as a chain that begins with :class:`Squeeze`.
        shape: channels, height and width of the image.
    """

    event_dim = 3

    def __init__(self, levels: Sequence[Block], shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.shapes: list[tuple[int, int, int]] = []
        with torch.no_grad():
            x = torch.zeros(1, *shape)
            for i, level in enumerate(levels):
                x, _ = level(x)
                channels = x.shape[1]
                last = i == len(levels) - 1
                leaves = channels if last else channels // 2
                self.shapes.append((leaves, int(x.shape[2]), int(x.shape[3])))
                x = x[:, leaves:]

    def forward(self, x: Tensor) -> Mapped:
        """See :class:`Block`."""
        total, done = zeros(x, 3), []
        for level, shape in zip(self.levels, self.shapes, strict=True):
            x, log_det = level(x)
            total = total + log_det
            leaves, x = x.tensor_split([shape[0]], dim=-3)
            done.append(leaves.flatten(-3))
        return torch.cat(done, dim=-1), total

    def inverse(self, z: Tensor) -> Mapped:
        """See :class:`Block`."""
        parts = z.split([math.prod(shape) for shape in self.shapes], dim=-1)
        total, x = z.new_zeros(z.shape[:-1]), None
        for level, shape, part in zip(reversed(self.levels), reversed(self.shapes), reversed(parts), strict=True):
            leaves = part.unflatten(-1, shape)
            x = leaves if x is None else torch.cat([leaves, x], dim=-3)
            x, log_det = level.inverse(x)  # type: ignore[operator]
            total = total + log_det
        assert x is not None
        return x, total
