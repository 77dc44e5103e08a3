r"""Variational autoencoder model: images of digits from a low-dimensional code through a neural decoder.

    z_n  ~ Normal(0, I)                                  n = 1..N images (local), ``latent`` dimensions
    x_nj ~ Bernoulli(logit = decoder(z_n)_j)             j = 1..64 pixels
    decoder(z) = A_2 tanh(A_1 z + b_1) + b_2             learnable parameters, not latent variables

Graph: ``z_n -> x_n`` with a plate over the data. The decoder's weights are maximized over, so this is empirical
Bayes: a fit gives a point estimate of the decoder and a posterior of each code.

What variational inference loses: two gaps lie between the bound and the log likelihood. The approximation gap
is that of a diagonal Gaussian for each code where the true posterior is curved or has several modes; a flow on
top of the encoder, or several importance samples, narrow it. The amortization gap is that of one encoder for
all images. Codes are not identified (any rotation of ``z`` has the same prior), and dimensions that the decoder
ignores have the prior as posterior: count the active ones. Recommended guide: ``"amortized"`` (one encoder
network) with minibatches; guides with separate parameters for each image work, with ``N * latent`` locations
and scales, and have no amortization gap. NUTS would sample the codes at the decoder's initial weights, which is
of no interest before a fit.

Data: Optical Recognition of Handwritten Digits (test set), 1,797 images of 8 x 8 pixels with values 0 to 16,
UCI Machine Learning Repository, CC BY 4.0, as bundled with scikit-learn. **Binarized by a fixed threshold**: a
pixel is 1 where its value is at least 8. So the data are the same in every run; numbers on them are not
comparable with stochastic binarization.

References:
    Kingma, D. P., Welling, M. (2014). Auto-encoding variational Bayes. ICLR. https://arxiv.org/abs/1312.6114
    Rezende, D. J., Mohamed, S., Wierstra, D. (2014). Stochastic backpropagation and approximate inference in
        deep generative models. ICML. https://arxiv.org/abs/1401.4082
    Cremer, C., Li, X., Duvenaud, D. (2018). Inference suboptimality in variational autoencoders. ICML.
        https://arxiv.org/abs/1801.03558
    Alpaydin, E., Kaynak, C. (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning Repository.
        https://doi.org/10.24432/C50P49
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _data

THRESHOLD = 8
"""A pixel is on where its value, 0 to 16, is at least this."""


def decoder_network(latent: int, hidden: int, pixels: int, seed: int) -> nn.Sequential:
    """Build a decoder with one hidden layer from its own random generator.

    Weights and biases are uniform on ``(-1/sqrt(fan_in), 1/sqrt(fan_in))``. The global random state is not touched.

    Args:
        latent: Dimensions of a code.
        hidden: Units of the hidden layer.
        pixels: Outputs, one logit each.
        seed: Seed of the initial weights.

    Returns:
        A module from ``(..., latent)`` to logits ``(..., pixels)``, in torch's default dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((latent, hidden), (hidden, pixels)):
        layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        bound = 1 / math.sqrt(fan_in)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def vae(*, latent: int = 8, hidden: int = 128, images: int | None = None, seed: int = 0) -> lvm.Problem:
    """Binarized 8 x 8 digits under a decoder with one hidden layer.

    Args:
        latent: Dimensions of a code.
        hidden: Units of the decoder's hidden layer.
        images: Use only the first so many of the 1,797 images; all by default.
        seed: Seed of the decoder's initial weights.

    Returns:
        The problem, with a decoder of its own.

    Raises:
        ArgumentError: An option is not a positive integer, or ``images`` is above 1,797.
        ImportError: scikit-learn is not installed.
    """
    table = _data.load("digits")
    n = len(table.x) if images is None else _data.check_count("vae", "images", images, len(table.x))
    latent = _data.check_count("vae", "latent", latent)
    hidden = _data.check_count("vae", "hidden", hidden)
    x = (table.x[:n] >= THRESHOLD).astype("float64")

    @lvm.model(
        dims={"z": ["data", "latent"], "x": ["data", "pixel"]},
        coords={"pixel": list(table.columns), "latent": list(range(latent))},
        images={"x": (8, 8)},
    )
    def autoencoder(x: Tensor, decoder: nn.Module) -> None:
        """Bernoulli pixels ``x`` ``(n, pixels)`` whose logits ``decoder`` computes from Gaussian codes."""
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([latent]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    return lvm.Problem(autoencoder, x, decoder_network(latent, hidden, x.shape[-1], seed))
