"""What says that the values of a site are the pixels of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyrolvm._base.errors import ArgumentError, positive_int
from pyrolvm._base.numerics import Array

__all__ = ["Image"]


@dataclass(frozen=True)
class Image:
    """The event of a site as an image: ``Image(28, 28)``.

    A flat event of ``height * width * channels`` values is read row after row, channel after channel, as ``torch`` lays out
    ``(channels, height, width)``.

    Attributes:
        height: rows of pixels.
        width: columns of pixels.
        channels: 1 for grey, 3 for red, green and blue.
        levels: how many values a pixel has in the file that it came from, 256 say; ``None`` where that is not known, or where the
            likelihood is discrete and says so itself. It is what bits per dimension of a continuous likelihood need.
    """

    height: int
    width: int
    channels: int = 1
    levels: int | None = None

    def __post_init__(self) -> None:
        """Refuses sizes that no image has."""
        positive_int("height", self.height)
        positive_int("width", self.width)
        if self.channels not in (1, 3):
            raise ArgumentError(
                f"channels must be 1 or 3, got {self.channels!r}. Fix: pass for example lvm.Image(28, 28)."
            )
        if self.levels is not None:
            positive_int("levels", self.levels, minimum=2)

    @classmethod
    def of(cls, value: Image | Sequence[int], *, levels: int | None = None) -> Image:
        """An image from ``(height, width)`` or ``(height, width, channels)``, or as it is.

        Raises:
            ArgumentError: if it is neither.
        """
        if isinstance(value, Image):
            return value if levels is None else Image(value.height, value.width, value.channels, levels)
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) not in (2, 3):
            raise ArgumentError(
                f"an image is (height, width) or (height, width, channels), got {value!r}. Fix: pass for example (28, 28)."
            )
        return cls(value[0], value[1], value[2] if len(value) == 3 else 1, levels)

    @property
    def size(self) -> int:
        """How many values it has."""
        return self.height * self.width * self.channels

    def pictures(self, values: object) -> Array:
        """Values whose last dimensions are one event, as ``(..., height, width)`` or ``(..., height, width, 3)``."""
        array = np.asarray(values)
        lead, count = list(array.shape), 1
        while lead and count < self.size:
            count *= lead.pop()
        if count != self.size:
            raise ArgumentError(
                f"values of shape {array.shape} are no images of {self.height} x {self.width} x {self.channels} pixels. "
                "Fix: pass the shape that they have."
            )
        laid = array.reshape(*lead, self.channels, self.height, self.width)
        return laid[..., 0, :, :] if self.channels == 1 else np.moveaxis(laid, -3, -1)

    def __str__(self) -> str:
        colours = "" if self.channels == 1 else f" x {self.channels}"
        return f"{self.height} x {self.width}{colours}" + (f", {self.levels} levels" if self.levels else "")
