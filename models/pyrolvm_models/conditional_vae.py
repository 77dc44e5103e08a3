r"""Conditional VAE: images, or the part of them that is missing, from a code and from what is known.

    z_n ~ Normal(0, I)                                 ``latent`` dimensions
    x_n ~ Bernoulli(logit = decoder(z_n, c_n))         c_n: the label, or the upper half of the image

Graph: ``z_n -> x_n <- c_n`` with a plate over the data. With ``given="label"`` ``c_n`` is one-hot and ``x_n`` the whole image: the code
is left with what the label does not say, such as slant and width, and images of one class can be drawn. With ``given="top"``
``c_n`` has the upper half of the pixels and ``x_n`` the lower: structured prediction, of which one answer is not enough.

What variational inference loses: as of :mod:`pyrolvm_models.vae`. The encoder reads ``x_n`` and ``c_n``; at the time of prediction
there is no ``x_n``, and codes are drawn from the prior, so that a decoder that was only ever shown codes of the encoder may answer
with less than the bound promises: compare held-out bounds, not training ones.

Data: as of :mod:`pyrolvm_models.vae`.

References:
    Sohn, K., Lee, H., Yan, X. (2015). Learning structured output representation using deep conditional generative models. NeurIPS.
        https://proceedings.neurips.cc/paper/2015/hash/8d55a249e6baa5c06772297520da2051-Abstract.html
    Kingma, D. P. et al. (2014). Semi-supervised learning with deep generative models. NeurIPS. https://arxiv.org/abs/1406.5298
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _data, _images
from pyrolvm_models._nets import dense

__all__ = ["conditional_vae"]

GIVEN = ("label", "top")


def conditional_vae(
    *,
    data: str = "digits",
    split: str = "train",
    images: int | None = None,
    given: str = "label",
    latent: int = 8,
    hidden: int | Sequence[int] = 128,
    seed: int = 0,
) -> lvm.Problem:
    """Binary images given their labels, or their lower half given the upper one.

    Args:
        data: ``"digits"``, ``"mnist"`` or ``"omniglot"``; ``"binarized_mnist"`` has no labels.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        images: Use only the first so many images; all by default.
        given: ``"label"`` or ``"top"``.
        latent: Dimensions of a code.
        hidden: Units of the hidden layers, of the decoder and, in reverse, the encoder.
        seed: Seed of the initial weights.

    Returns:
        The problem.

    Raises:
        ArgumentError: An option is out of range, or the images have no labels.
        DataError: A class has no image.
    """
    owner = "conditional_vae"
    found, levels, labels = _images.source(owner, data, split, images)
    latent = _data.check_count(owner, "latent", latent)
    sizes = _images.sizes(owner, "hidden", hidden)
    _images.choose(owner, "given", given, GIVEN)
    x = _images.values(levels, found.levels, "bernoulli")
    if given == "label":
        if labels is None:
            raise lvm.ArgumentError(f'{found.name} has no labels. Fix: use given="top", or data="mnist".')
        numbers, classes = _images.labels_of(owner, labels, len(x))
        condition = torch.nn.functional.one_hot(numbers, classes).to(x)
        pixels = _images.places(found.height, found.width)
    else:
        upper = found.height // 2 * found.width
        condition, x = x[:, :upper], x[:, upper:]
        pixels = _images.places(found.height, found.width)[upper:]
    net = dense(latent + condition.shape[1], sizes, x.shape[1], torch.Generator().manual_seed(seed))

    @lvm.model(
        dims={"z": ["data", "latent"], "x": ["data", "pixel"]},
        coords={"pixel": pixels, "latent": list(range(latent))},
        guide=lvm.guide("amortized", hidden=sizes[::-1]),
        images={"x": (x.shape[1] // found.width, found.width)},
    )
    def conditional(x: Tensor, condition: Tensor, decoder: nn.Module) -> None:
        """Binary pixels ``x`` ``(n, pixels)`` given ``condition`` ``(n, known)`` and a code."""
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([latent]).to_event(1))
            known = condition.expand(*z.shape[:-1], condition.shape[-1])
            pyro.sample("x", dist.Bernoulli(logits=decoder(torch.cat([z, known], -1))).to_event(1), obs=x)

    return lvm.Problem(conditional, x, condition, net)
