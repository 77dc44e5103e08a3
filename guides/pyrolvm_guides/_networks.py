"""Small networks whose weights are Pyro parameters, so that every Pyro handler sees them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from pyro.nn.module import PyroModuleList
from torch import Tensor

from pyrolvm_guides._params import learnable

__all__ = ["Dense", "Network", "autoregressive_masks"]


class Dense(PyroModule):
    r"""A linear layer :math:`y = u\, (W \odot M)\, x + b` with uniform initial weights.

    Initially :math:`|u W_{ij}| < \mathrm{gain} / \sqrt{n_\mathrm{in}}`. The factor :math:`u` is 1, or
    :math:`1/\sqrt{n_\mathrm{in}}` if ``slow``: an adaptive optimiser moves every weight by its learning rate, so the
    output of a wide layer moves much further than a location or scale learned beside it unless its weights weigh less
    (Jacot et al., *Neural Tangent Kernel*, https://arxiv.org/abs/1806.07572).

    Args:
        n_in: the number of inputs.
        n_out: the number of outputs.
        gain: scales the initial weights.
        slow: whether weights move the output by less.
        bias: the initial bias, shape ``(n_out,)``; zeros if not given.
        mask: which weights exist, shape ``(n_out, n_in)``; all if not given.
        like: a tensor whose dtype and device the layer takes.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        like: Tensor,
        gain: float = 1.0,
        slow: bool = False,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.unit = 1 / sqrt(n_in) if slow else 1.0
        weight = (2 * torch.rand(n_out, n_in, dtype=like.dtype, device=like.device) - 1) * (gain / sqrt(n_in))
        self.weight = learnable(weight / self.unit)
        self.bias = learnable(like.new_zeros(n_out) if bias is None else bias.to(like))
        self.register_buffer("mask", None if mask is None else mask.to(like))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., n_in)`` to ``(..., n_out)``."""
        weight = self.weight * self.unit
        weight = weight if self.mask is None else weight * self.mask
        return F.linear(x, weight, self.bias)


class Network(PyroModule):
    """A multilayer perceptron with tanh units that starts close to a constant output.

    Args:
        n_in: the number of inputs.
        hidden: the sizes of the hidden layers.
        n_out: the number of outputs.
        like: a tensor whose dtype and device the network takes.
        output: the constant it starts near, shape ``(n_out,)``; zeros if not given.
        output_gain: scales the initial weights of the last layer.
        slow: whether weights move the output by less, see :class:`Dense`.
        masks: one mask for each layer, for a network with restricted dependence.
    """

    def __init__(
        self,
        n_in: int,
        hidden: Sequence[int],
        n_out: int,
        *,
        like: Tensor,
        output: Tensor | None = None,
        output_gain: float = 1e-3,
        slow: bool = False,
        masks: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        sizes = (n_in, *hidden, n_out)
        last = len(sizes) - 2
        self.layers = PyroModuleList(
            [
                Dense(
                    sizes[i],
                    sizes[i + 1],
                    like=like,
                    slow=slow,
                    gain=output_gain if i == last else 1.0,
                    bias=output if i == last else None,
                    mask=None if masks is None else masks[i],
                )
                for i in range(len(sizes) - 1)
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., n_in)`` to ``(..., n_out)``."""
        layers = list(self.layers)
        for layer in layers[:-1]:
            x = torch.tanh(layer(x))
        return layers[-1](x)


def autoregressive_masks(dim: int, hidden: Sequence[int], outputs: int) -> list[Tensor]:
    r"""Masks that let the ``outputs`` numbers for coordinate :math:`i` depend on coordinates :math:`j < i` alone.

    Args:
        dim: the number of coordinates, at least 2.
        hidden: the sizes of the hidden layers.
        outputs: how many numbers the network gives for each coordinate, coordinate by coordinate.

    Returns:
        One mask for each layer, shape ``(n_out, n_in)``, of zeros and ones.

    References:
        Germain et al., *MADE: Masked Autoencoder for Distribution Estimation*, https://arxiv.org/abs/1502.03509
    """
    degrees = [torch.arange(1, dim + 1)]
    for size in hidden:
        degrees.append(torch.arange(size) % (dim - 1) + 1)
    masks = [(after[:, None] >= before[None, :]).float() for before, after in pairwise(degrees)]
    last = torch.arange(1, dim + 1).repeat_interleave(outputs)
    return [*masks, (last[:, None] > degrees[-1][None, :]).float()]
