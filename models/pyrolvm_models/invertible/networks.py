"""Networks that set how coordinates move; they start at nearly zero, so that the blocks start at nearly the identity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["ConvolutionalNetwork", "MultilayerPerceptron", "quiet_last", "with_dropout"]


class MultilayerPerceptron(nn.Sequential):
    """A network of vectors that starts at zero.

    Args:
        size: inputs.
        hidden: units of the hidden layers.
        outputs: outputs.
        dropout: the share of hidden units that a training step leaves out.
    """

    def __init__(self, size: int, hidden: Sequence[int], outputs: int, *, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for inputs, units in zip((size, *hidden), hidden, strict=False):
            layers += [nn.Linear(inputs, units), nn.ELU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear((size, *hidden)[-1], outputs))
        quiet_last(self)


class ConvolutionalNetwork(nn.Sequential):
    """Convolutions of 3 x 3, 1 x 1 and 3 x 3 pixels, which start at zero.

    Args:
        channels: channels of the input.
        hidden: channels between.
        outputs: channels of the output.
        dropout: the share of hidden channels that a training step leaves out.
    """

    def __init__(self, channels: int, hidden: int, outputs: int, *, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Conv2d(channels, hidden, 3, padding=1), nn.ELU(), nn.Dropout(dropout),
            nn.Conv2d(hidden, hidden, 1), nn.ELU(), nn.Dropout(dropout),
            nn.Conv2d(hidden, outputs, 3, padding=1),
        )  # fmt: skip
        quiet_last(self)


@torch.no_grad()
def quiet_last(network: nn.Sequential) -> None:
    """Lets a network start at nearly zero: its elements then start at nearly the identity."""
    last = [layer for layer in network if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    last.weight.mul_(1e-2)
    if last.bias is not None:
        last.bias.zero_()


def with_dropout(network: nn.Sequential, share: float) -> nn.Sequential:
    """The network with a share of the units of each hidden layer left out in training."""
    if not share:
        return network
    layers = [[layer] if isinstance(layer, nn.Linear) else [layer, nn.Dropout(share)] for layer in network]
    return nn.Sequential(*(layer for part in layers for layer in part))
