"""Networks that read a row of data: a perceptron, a gated one, a convolutional one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from pyro.nn.module import PyroModuleList
from torch import Tensor

from pyrolvm import ArgumentError, GuideError
from pyrolvm_guides._networks import Dense, Network
from pyrolvm_guides._params import learnable

__all__ = ["ENCODERS", "Convolutional", "Gated", "encoder"]

ENCODERS = ("mlp", "gated", "convolutional")
"""Kinds of encoders."""

_HALVINGS = 2


class Gated(PyroModule):
    r"""A perceptron with gated units, :math:`(A x + a) \odot \mathrm{sigmoid}(B x + b)`.

    Args:
        n_in: the number of inputs.
        hidden: the sizes of the hidden layers.
        output: the constant it starts near, shape ``(n_out,)``.
        output_gain: scales the initial weights of the last layer.

    References:
        Dauphin et al., *Language Modeling with Gated Convolutional Networks*, https://arxiv.org/abs/1612.08083
    """

    def __init__(self, n_in: int, hidden: Sequence[int], output: Tensor, output_gain: float) -> None:
        super().__init__()
        sizes = (n_in, *hidden)
        pairs = list(pairwise(sizes))
        self.values = PyroModuleList([Dense(a, b, like=output) for a, b in pairs])
        self.gates = PyroModuleList([Dense(a, b, like=output) for a, b in pairs])
        self.last = Dense(sizes[-1], len(output), like=output, gain=output_gain, bias=output)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., n_in)`` to ``(..., n_out)``."""
        for value, gate in zip(self.values, self.gates, strict=True):
            x = value(x) * torch.sigmoid(gate(x))
        return self.last(x)


class Convolutional(PyroModule):
    """Twice blocks of 2 x 2 pixels become channels of a 3 x 3 convolution with tanh units; then a linear layer.

    That is a strided convolution of width 6 whose gradients are plain ones, which XLA runs ten times as fast on a CPU.

    Args:
        height: pixels from top to bottom, a multiple of 4.
        width: pixels from left to right, a multiple of 4.
        hidden: the last size sets the number of channels: an eighth of it, then twice that.
        output: the constant it starts near, shape ``(n_out,)``.
        output_gain: scales the initial weights of the last layer.
    """

    def __init__(self, height: int, width: int, hidden: Sequence[int], output: Tensor, output_gain: float) -> None:
        super().__init__()
        self.shape = (1, height, width)
        channels = (1, max(4, hidden[-1] // 8), 2 * max(4, hidden[-1] // 8))
        for i, (n_in, n_out) in enumerate(pairwise(channels)):
            shape = (n_out, 4 * n_in, 3, 3)
            weight = (2 * torch.rand(shape, dtype=output.dtype, device=output.device) - 1) / sqrt(36 * n_in)
            setattr(self, f"weight_{i}", learnable(weight))
            setattr(self, f"bias_{i}", learnable(output.new_zeros(n_out)))
        size = channels[-1] * (height // 4) * (width // 4)
        self.last = Dense(size, len(output), like=output, gain=output_gain, bias=output)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``(..., height * width)`` to ``(..., n_out)``."""
        units = x.reshape(-1, *self.shape)
        for i in range(_HALVINGS):
            weight, bias = getattr(self, f"weight_{i}"), getattr(self, f"bias_{i}")
            n, c, h, w = units.shape
            blocks = units.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
            units = torch.tanh(F.conv2d(blocks.reshape(n, 4 * c, h // 2, w // 2), weight, bias, padding=1))
        out = self.last(units.reshape(len(units), -1))
        return out.reshape(*x.shape[:-1], -1)


def encoder(
    kind: str, n_in: int, hidden: Sequence[int], output: Tensor, image: Sequence[int] | None, output_gain: float = 0.1
) -> PyroModule:
    """A network of one of :data:`ENCODERS` that starts near the constant ``output``.

    Raises:
        ArgumentError: if ``image`` is no height and width.
        GuideError: if the rows are no images that can be halved twice.
    """
    if kind == "mlp":
        return Network(n_in, hidden, len(output), like=output, output=output, output_gain=output_gain)
    if kind == "gated":
        return Gated(n_in, hidden, output, output_gain)
    if image is not None and (len(image) != 2 or any(not isinstance(side, int) or side < 1 for side in image)):
        raise ArgumentError(f"image must be (height, width), got {image!r}. Fix: pass for example image=(28, 28).")
    height, width = image or (round(sqrt(n_in)), round(sqrt(n_in)))
    if height * width != n_in:
        raise GuideError(
            f'network="convolutional" reads a row as an image, but a row has {n_in} numbers, not {height} x {width}. '
            'Fix: pass image=(height, width), or use network="mlp".'
        )
    factor = 2**_HALVINGS
    if height % factor or width % factor:
        raise GuideError(
            f'network="convolutional" halves images {_HALVINGS} times, and {height} x {width} is no multiple of {factor}. '
            'Fix: pad the images, or use network="mlp".'
        )
    return Convolutional(height, width, hidden, output, output_gain)
