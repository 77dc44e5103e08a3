r"""Helmholtz machine: layers of binary units that draw one another from the top down, and a guide that reads images from the bottom up.

    h_nL ~ Bernoulli(logit = b)                                          the top layer
    h_nl ~ Bernoulli(logit = A_l h_n,l+1 + b_l)                          l = L-1..1
    x_n  ~ Bernoulli(logit = A_0 h_n1 + b_0)

Graph: ``h_nL -> ... -> h_n1 -> x_n`` with a plate over the data: a sigmoid belief network. The guide is its mirror image,
``x_n -> h_n1 -> ... -> h_nL`` with weights of its own, and units of a layer independent given the layer below.

No unit is differentiable. How to train it is the choice of ``objective=``:

- ``lvm.ImportanceWeighted_ELBO(1, gradient="sleep")``: wake-sleep. Awake, the model learns to draw each image from the units that the
  guide says; asleep, the guide learns to say from which units an image came that the model has drawn. Both are regressions of one
  layer on the next, and neither has the noise of a score function.
- ``lvm.ImportanceWeighted_ELBO(8, gradient="wake")``: reweighted wake-sleep, whose guide learns from data.
- ``lvm.ImportanceWeighted_ELBO(8)``: the score function with the bound of the other draws as baseline.

What variational inference loses: units of a layer explain each other away given the layer below, which independent ones cannot.
Wake-sleep loses more: its guide follows the divergence from posterior to guide, over images of the model in place of the data, so that
no bound is followed where the model is not yet right; and a mean between two explanations is neither of them.

Data: as of :mod:`pyrolvm_models.vae`.

References:
    Hinton, G. E., Dayan, P., Frey, B. J., Neal, R. M. (1995). The wake-sleep algorithm for unsupervised neural networks. Science 268,
        1158-1161. https://doi.org/10.1126/science.7761831
    Dayan, P., Hinton, G. E., Neal, R. M., Zemel, R. S. (1995). The Helmholtz machine. Neural Computation 7, 889-904.
        https://doi.org/10.1162/neco.1995.7.5.889
    Bornschein, J., Bengio, Y. (2015). Reweighted wake-sleep. ICLR. https://arxiv.org/abs/1406.2751
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _images
from pyrolvm_models._nets import fresh, linear

__all__ = ["helmholtz"]


class _Layers(nn.Module):
    """Linear maps from each layer to the next, in the order in which they are drawn.

    Args:
        sizes: units of the layers; the first of them is given.
        generator: source of the initial weights.
    """

    def __init__(self, sizes: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.maps = nn.ModuleList([linear(n_in, n_out, generator) for n_in, n_out in pairwise(sizes)])


class _Downward(_Layers):
    """The model's maps, and the logits of the top layer."""

    def __init__(self, sizes: Sequence[int], generator: torch.Generator) -> None:
        super().__init__(sizes, generator)
        self.top = nn.Parameter(torch.zeros(sizes[0]))


class _Upward(_Layers):
    """The guide: each layer given the one below."""

    def forward(self, x: Tensor, network: nn.Module) -> None:
        with pyro.plate("data", len(x)):
            below = x
            for layer, up in enumerate(self.maps):
                below = pyro.sample(f"h_{layer + 1}", dist.Bernoulli(logits=up(below)).to_event(1))


def helmholtz(
    *,
    data: str = "digits",
    split: str = "train",
    images: int | None = None,
    hidden: int | Sequence[int] = (32, 16),
    seed: int = 0,
) -> lvm.Problem:
    """Binary images under a Helmholtz machine, to be trained by wake-sleep.

    Args:
        data: ``"digits"``, ``"mnist"``, ``"binarized_mnist"`` or ``"omniglot"``.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        images: Use only the first so many images; all by default.
        hidden: Binary units of the layers, that next to the image first.
        seed: Seed of the initial weights.

    Returns:
        The problem, whose sites are ``h_1`` next to the image, ``h_2`` and so on.

    Raises:
        ArgumentError: An option is out of range.
    """
    owner = "helmholtz"
    found, levels, _ = _images.source(owner, data, split, images)
    sizes = _images.sizes(owner, "hidden", hidden)
    x = _images.values(levels, found.levels, "bernoulli")
    pixels = x.shape[1]
    network = _Downward((*sizes[::-1], pixels), torch.Generator().manual_seed(seed))

    def recognition(problem: lvm.Problem) -> nn.Module:
        """The mirror image of the model."""
        return _Upward((pixels, *sizes), fresh())

    names = [f"h_{layer + 1}" for layer in range(len(sizes))]

    @lvm.model(
        dims={"x": ["data", "pixel"]} | {name: ["data", f"unit_{name}"] for name in names},
        coords={"pixel": _images.places(found.height, found.width)},
        guide=lvm.Guide("recognition", recognition),
        images={"x": (found.height, found.width)},
    )
    def helmholtz(x: Tensor, network: Any) -> None:
        """Binary images ``x`` ``(n, pixels)`` drawn by layers of binary units."""
        pyro.module("network", network)
        with pyro.plate("data", len(x)):
            above = pyro.sample(names[-1], dist.Bernoulli(logits=network.top).to_event(1))
            for name, down in zip(names[-2::-1], network.maps, strict=False):
                above = pyro.sample(name, dist.Bernoulli(logits=down(above)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=network.maps[-1](above)).to_event(1), obs=x)

    return lvm.Problem(helmholtz, x, network)
