"""Networks of deep models: plain torch modules, each with initial weights from a random generator of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

import pyrolvm as lvm

__all__ = [
    "NETWORKS",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "Gated",
    "decoder",
    "dense",
    "encoder",
    "fresh",
    "linear",
]

NETWORKS = ("mlp", "gated", "convolutional")
"""Kinds of encoders and decoders."""

HALVINGS = 2
"""How often a convolutional network halves the sides of an image."""


def initialised(layer: nn.Module, fan_in: int, generator: torch.Generator, gain: float = 1.0) -> nn.Module:
    """The layer with weights and biases uniform on ``gain * (-1/sqrt(fan_in), 1/sqrt(fan_in))``, as torch has them."""
    bound = gain / math.sqrt(fan_in)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def fresh() -> torch.Generator:
    """A random generator for the weights of a guide, which the fit's own seed decides."""
    return torch.Generator().manual_seed(int(torch.randint(2**31, ())))


def linear(fan_in: int, fan_out: int, generator: torch.Generator, gain: float = 1.0) -> nn.Module:
    """A linear layer; the global random state is not touched."""
    return initialised(nn.utils.skip_init(nn.Linear, fan_in, fan_out), fan_in, generator, gain)


class Gated(nn.Module):
    r"""A gated layer, :math:`(A x + a) \odot \mathrm{sigmoid}(B x + b)`, whose gradient is linear where its gate is open.

    Args:
        fan_in: Inputs.
        fan_out: Outputs.
        generator: Source of the initial weights.

    References:
        Dauphin, Y. et al. (2017). Language modeling with gated convolutional networks. https://arxiv.org/abs/1612.08083
        Tomczak, J., Welling, M. (2018). VAE with a VampPrior. https://arxiv.org/abs/1705.07120
    """

    def __init__(self, fan_in: int, fan_out: int, generator: torch.Generator) -> None:
        super().__init__()
        self.value = linear(fan_in, fan_out, generator)
        self.gate = linear(fan_in, fan_out, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., fan_in)`` to ``(..., fan_out)``."""
        value: Tensor = self.value(x) * torch.sigmoid(self.gate(x))
        return value


def dense(
    n_in: int, hidden: Sequence[int], n_out: int, generator: torch.Generator, *, gated: bool = False, gain: float = 1.0
) -> nn.Sequential:
    """A multilayer perceptron with tanh or gated units.

    Args:
        n_in: Inputs.
        hidden: Sizes of the hidden layers.
        n_out: Outputs.
        generator: Source of the initial weights.
        gated: Whether hidden layers are :class:`Gated`.
        gain: Scales the weights of the last layer.

    Returns:
        A module from ``(..., n_in)`` to ``(..., n_out)``.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise((n_in, *hidden)):
        layers += [Gated(fan_in, fan_out, generator)] if gated else [linear(fan_in, fan_out, generator), nn.Tanh()]
    return nn.Sequential(*layers, linear(hidden[-1] if hidden else n_in, n_out, generator, gain))


def check_image(owner: str, height: int, width: int) -> None:
    """Refuses images that a convolutional network cannot halve twice.

    Raises:
        ArgumentError: A side is no multiple of four.
    """
    factor = 2**HALVINGS
    for side, size in (("height", height), ("width", width)):
        if size % factor:
            padded = (size + factor - 1) // factor * factor
            raise lvm.ArgumentError(
                f"{owner}: a convolutional network halves images {HALVINGS} times, and {side} {size} is no multiple of "
                f'{factor}. Fix: pad the images to {side} {padded}, or use network="mlp".'
            )


def _channels(hidden: Sequence[int]) -> int:
    """Channels at full width, so that the number of units of a map is near the size of the last hidden layer."""
    return max(4, hidden[-1] // 8)


def space_to_channels(image: Tensor) -> Tensor:
    """Blocks of 2 x 2 pixels as channels: ``(n, c, h, w)`` to ``(n, 4 c, h/2, w/2)``."""
    n, c, h, w = image.shape
    return image.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def channels_to_space(image: Tensor) -> Tensor:
    """The inverse of :func:`space_to_channels`."""
    n, c, h, w = image.shape
    return image.reshape(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)


def _convolution(n_in: int, n_out: int, generator: torch.Generator) -> nn.Module:
    return initialised(nn.utils.skip_init(nn.Conv2d, n_in, n_out, 3, padding=1), 9 * n_in, generator)


class ConvolutionalEncoder(nn.Module):
    """Twice blocks of 2 x 2 pixels become channels of a 3 x 3 convolution; then a linear layer.

    That is a strided convolution of width 6 whose gradients are plain ones, which XLA runs ten times as fast on a CPU.

    Args:
        height: Pixels from top to bottom, a multiple of 4.
        width: Pixels from left to right, a multiple of 4.
        hidden: The last size sets the number of channels: an eighth of it, then twice that.
        n_out: Outputs.
        generator: Source of the initial weights.
    """

    def __init__(self, height: int, width: int, hidden: Sequence[int], n_out: int, generator: torch.Generator) -> None:
        super().__init__()
        channels = _channels(hidden)
        self.shape = (1, height, width)
        self.first = _convolution(4, channels, generator)
        self.second = _convolution(4 * channels, 2 * channels, generator)
        self.last = linear(2 * channels * (height // 4) * (width // 4), n_out, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``(..., height * width)`` to ``(..., n_out)``."""
        units = torch.tanh(self.first(space_to_channels(x.reshape(-1, *self.shape))))
        units = torch.tanh(self.second(space_to_channels(units)))
        out: Tensor = self.last(units.reshape(len(units), -1))
        return out.reshape(*x.shape[:-1], -1)


class ConvolutionalDecoder(nn.Module):
    """A linear layer; then twice channels of a 3 x 3 convolution become blocks of 2 x 2 pixels.

    Args:
        latent: Inputs.
        hidden: The last size sets the number of channels: twice an eighth of it, then an eighth.
        height: Pixels from top to bottom, a multiple of 4.
        width: Pixels from left to right, a multiple of 4.
        per_pixel: Outputs of each pixel.
        generator: Source of the initial weights.

    References:
        Shi, W. et al. (2016). Real-time single image and video super-resolution using an efficient sub-pixel convolutional
            neural network. CVPR. https://arxiv.org/abs/1609.05158
    """

    def __init__(
        self, latent: int, hidden: Sequence[int], height: int, width: int, per_pixel: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        channels = _channels(hidden)
        self.shape = (2 * channels, height // 4, width // 4)
        self.first = linear(latent, math.prod(self.shape), generator)
        self.second = _convolution(2 * channels, 4 * channels, generator)
        self.last = _convolution(channels, 4 * per_pixel, generator)

    def forward(self, z: Tensor) -> Tensor:
        """Maps codes ``(..., latent)`` to outputs ``(..., height * width * per_pixel)``, those of a pixel side by side."""
        units = torch.tanh(self.first(z.reshape(-1, z.shape[-1]))).reshape(-1, *self.shape)
        image = channels_to_space(self.last(torch.tanh(channels_to_space(self.second(units)))))
        return image.movedim(1, -1).reshape(*z.shape[:-1], -1)


def decoder(
    network: str,
    latent: int,
    hidden: Sequence[int],
    height: int,
    width: int,
    per_pixel: int,
    generator: torch.Generator,
) -> nn.Module:
    """A network from codes ``(..., latent)`` to ``(..., height * width * per_pixel)``, of one of :data:`NETWORKS`."""
    if network == "convolutional":
        check_image("decoder", height, width)
        return ConvolutionalDecoder(latent, hidden, height, width, per_pixel, generator)
    return dense(latent, hidden, height * width * per_pixel, generator, gated=network == "gated")


def encoder(
    network: str, height: int, width: int, hidden: Sequence[int], n_out: int, generator: torch.Generator
) -> nn.Module:
    """A network from images ``(..., height * width)`` to ``(..., n_out)``, of one of :data:`NETWORKS`."""
    if network == "convolutional":
        check_image("encoder", height, width)
        return ConvolutionalEncoder(height, width, hidden, n_out, generator)
    return dense(height * width, hidden, n_out, generator, gated=network == "gated")
