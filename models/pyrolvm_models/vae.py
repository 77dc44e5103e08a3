r"""Variational autoencoder: images from a low-dimensional code through a neural decoder, of parts that combine freely.

    z_n ~ p(z)                               n = 1..N images (local), ``latent`` dimensions
    x_n ~ likelihood(decoder(z_n))           ``pixels`` pixels, independent given the code unless they see their neighbours

The decoder, the prior and the likelihood's scale are learnable parameters, not latent variables. Options are

- ``likelihood``: ``"bernoulli"`` (binary pixels), ``"neighbours"`` (binary pixels that see those before them, up to ``context`` rows
  above and columns aside), ``"gaussian"`` (real ones; ``scale="shared"``, ``"pixel"`` or ``"output"``), or
  ``"logistic"`` and ``"logistic_mixture"`` (grey levels);
- ``network``: ``"mlp"``, ``"gated"`` or ``"convolutional"``, for decoder and encoder alike, with layers ``hidden``;
- ``prior``: ``"standard"`` Normal(0, I); a ``"mixture"`` of Gaussians; ``"vamp"``, the mixture of what the encoder says of learned
  pseudo-inputs; a ``"flow"`` (RealNVP); ``"autoregressive"`` (a masked autoregressive flow);
- ``posterior``: the family of a code given its image: ``"diagonal"``, ``"full_rank"``, ``"mixture"`` of ``parts`` Gaussians, ``"iaf"``,
  ``"coupling"`` or ``"planar"``.

Graph: ``z_n -> x_n`` with a plate over the data. The decoder's weights are maximized over, so this is empirical
Bayes: a fit gives a point estimate of the decoder and a posterior of each code.

What variational inference loses: two gaps lie between the bound and the log likelihood. The approximation gap
is that of a diagonal Gaussian for each code where the true posterior is curved or has several modes; a flow on
top of the encoder, or several importance samples, narrow it. The amortization gap is that of one encoder for
all images; ``guide="semi_amortized"`` narrows it. A third loss is the prior's: averaged over the data the encoder's codes are not
``p(z)``, and a learned prior follows them. Codes are not identified (any rotation of ``z`` has the same standard prior), and
dimensions that the decoder ignores have the prior as posterior: count the active ones. ``guide="auto"`` is ``"amortized"`` with the
network and posterior that are asked for; take minibatches. Guides with separate parameters for each image work, with
``N * latent`` locations and scales, and have no amortization gap. NUTS would sample the codes at the decoder's initial weights,
which is of no interest before a fit.

Beta-VAE: the same problem under an objective that weighs the divergence, see ``docs/zoo-deep.md``.

Data: by default Optical Recognition of Handwritten Digits (test set), 1,797 images of 8 x 8 pixels with values 0 to 16,
UCI Machine Learning Repository, CC BY 4.0, as bundled with scikit-learn, of which three quarters are the training part; MNIST and
Omniglot by ``data=``. For the binary likelihoods they are **binarized by a fixed threshold**: a digit's pixel is 1 where its
value is at least 8. So the data are the same in every run; numbers on them are not comparable with stochastic binarization.
Images of your own: :func:`autoencoder`.

References:
    Kingma, D. P., Welling, M. (2014). Auto-encoding variational Bayes. ICLR. https://arxiv.org/abs/1312.6114
    Rezende, D. J., Mohamed, S., Wierstra, D. (2014). Stochastic backpropagation and approximate inference in
        deep generative models. ICML. https://arxiv.org/abs/1401.4082
    Tomczak, J., Welling, M. (2018). VAE with a VampPrior. AISTATS. https://arxiv.org/abs/1705.07120
    Cremer, C., Li, X., Duvenaud, D. (2018). Inference suboptimality in variational autoencoders. ICML.
        https://arxiv.org/abs/1801.03558
    Alpaydin, E., Kaynak, C. (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning Repository.
        https://doi.org/10.24432/C50P49
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _data, _images
from pyrolvm_models import _likelihoods as likelihoods
from pyrolvm_models import _nets as nets
from pyrolvm_models import _priors as priors
from pyrolvm_models._priors import Prior, Vamp

__all__ = ["POSTERIORS", "autoencoder", "vae"]

POSTERIORS = ("diagonal", "full_rank", "mixture", "iaf", "coupling", "planar")
"""Families of a code given its image."""


def vae(
    *,
    data: str = "digits",
    split: str = "train",
    images: int | None = None,
    likelihood: str = "bernoulli",
    context: int = 3,
    scale: str = "shared",
    network: str = "mlp",
    hidden: int | Sequence[int] = 128,
    latent: int = 8,
    prior: str = "standard",
    components: int = 20,
    layers: int = 4,
    posterior: str = "diagonal",
    parts: int = 4,
    seed: int = 0,
) -> lvm.Problem:
    """Images under a variational autoencoder: 8 x 8 digits, a decoder of one hidden layer and a Gaussian encoder by default.

    Args:
        data: ``"digits"``, ``"mnist"``, ``"binarized_mnist"`` or ``"omniglot"``.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        images: Use only the first so many images; all by default.
        likelihood: ``"bernoulli"``, ``"neighbours"``, ``"gaussian"``, ``"logistic"`` or ``"logistic_mixture"``.
        context: How many rows above and columns aside a pixel sees, under ``"neighbours"``.
        scale: What a Gaussian pixel's sd depends on: ``"shared"``, ``"pixel"`` or ``"output"``.
        network: ``"mlp"``, ``"gated"`` or ``"convolutional"``.
        hidden: Units of the hidden layers, of the decoder and, in reverse, the encoder.
        latent: Dimensions of a code.
        prior: ``"standard"``, ``"mixture"``, ``"vamp"``, ``"flow"`` or ``"autoregressive"``.
        components: Gaussians of the mixture, or pseudo-inputs.
        layers: Layers of a flow, as prior or posterior; half as many masked networks.
        posterior: ``"diagonal"``, ``"full_rank"``, ``"mixture"``, ``"iaf"``, ``"coupling"`` or ``"planar"``.
        parts: Gaussians of a mixture as posterior; as many ``num_particles`` take a draw of each in every step.
        seed: Seed of the initial weights.

    Returns:
        The problem, with networks of its own.

    Raises:
        ArgumentError: An option is out of range, or ``images`` above what there is.
        DataError: The images cannot be had.
        ImportError: scikit-learn is not installed.
    """
    _images.choose("vae", "likelihood", likelihood, likelihoods.LIKELIHOODS)
    found, levels, _ = _images.source("vae", data, split, images)
    return autoencoder(
        _images.values(levels, found.levels, likelihood),
        height=found.height, width=found.width, levels=found.levels, likelihood=likelihood, context=context, scale=scale,
        network=network, hidden=hidden, latent=latent, prior=prior, components=components, layers=layers, posterior=posterior,
        parts=parts, seed=seed,
    )  # fmt: skip


def autoencoder(
    x: Any,
    *,
    height: int | None = None,
    width: int | None = None,
    levels: int = 256,
    likelihood: str = "bernoulli",
    context: int = 3,
    scale: str = "shared",
    network: str = "mlp",
    hidden: int | Sequence[int] = 128,
    latent: int = 8,
    prior: str = "standard",
    components: int = 20,
    layers: int = 4,
    posterior: str = "diagonal",
    parts: int = 4,
    seed: int = 0,
) -> lvm.Problem:
    """Images of your own, or rows of any table, under a variational autoencoder; for the other options see :func:`vae`.

    Args:
        x: Images ``(n, height, width)``, or rows ``(n, pixels)``; 0 or 1 for binary pixels, whole levels for logistic ones.
        height: Pixels from top to bottom, where ``x`` has rows of pixels that are no square image.
        width: Pixels from left to right.
        levels: How many grey levels there are, for logistic likelihoods.
        likelihood: The family of pixels.
        context: How far a pixel sees.
        scale: What a Gaussian pixel's sd depends on.
        network: The kind of networks.
        hidden: Units of the hidden layers.
        latent: Dimensions of a code.
        prior: The density of codes.
        components: Gaussians of the mixture, or pseudo-inputs.
        layers: Layers of a flow.
        posterior: The family of a code given its image.
        parts: Gaussians of a mixture as posterior.
        seed: Seed of the initial weights.

    Returns:
        The problem.

    Raises:
        ArgumentError: An option is out of range, or the sides do not fit the images or the network.
        DataError: A pixel is outside the likelihood's support or not finite.
    """
    for option, value, known in (
        ("likelihood", likelihood, likelihoods.LIKELIHOODS), ("scale", scale, likelihoods.SCALES), ("network", network, nets.NETWORKS),
        ("prior", prior, priors.PRIORS), ("posterior", posterior, POSTERIORS),
    ):  # fmt: skip
        _images.choose("vae", option, value, known)
    layer_sizes = _images.sizes("vae", "hidden", hidden)
    for option, count in (
        ("latent", latent),
        ("components", components),
        ("layers", layers),
        ("levels", levels),
        ("context", context),
        ("parts", parts),
    ):
        _data.check_count("vae", option, count)
    if latent < 2 and (prior in ("flow", "autoregressive") or posterior in ("iaf", "coupling")):
        raise lvm.ArgumentError(
            f"problem 'vae': prior {prior!r} and posterior {posterior!r} move dimensions of a code given others, but latent is "
            f"{latent}. Fix: give latent=2 or more."
        )
    if prior == "vamp" and posterior != "diagonal":
        raise lvm.ArgumentError(
            f"problem 'vae': prior 'vamp' is a mixture of the encoder's Gaussians, which posterior {posterior!r} does not have. "
            'Fix: leave posterior out, or use prior="mixture".'
        )
    pixels, height, width = _images.pixels_of("vae", x, height, width)
    if network == "convolutional":
        nets.check_image("problem 'vae'", height, width)
    likelihoods.check_pixels("vae", likelihood, pixels, levels)
    generator = torch.Generator().manual_seed(seed)
    family = likelihoods.likelihood(
        likelihood, pixels.shape[1], levels, generator, width=width, context=context, scale=scale
    )
    net = nets.decoder(network, latent, layer_sizes, height, width, family.per_pixel, generator)
    codes: Prior
    if prior == "vamp":
        reader = nets.encoder(network, height, width, layer_sizes[::-1], 2 * latent, generator)
        chosen = torch.randperm(len(pixels), generator=generator)[:components]
        codes = Vamp(latent, reader, pixels[chosen])
    else:
        codes = priors.prior(
            prior, latent, components=components, layers=layers, hidden=layer_sizes, generator=generator
        )
    guide = _encode if prior == "vamp" else lvm.guide(
        "amortized", hidden=layer_sizes[::-1], posterior=posterior, transforms=layers, network=network, image=(height, width),
        **({"components": parts} if posterior == "mixture" else {}),
    )  # fmt: skip

    @lvm.model(
        dims={"z": ["data", "latent"], "x": ["data", "pixel"]},
        coords={"pixel": _images.places(height, width), "latent": list(range(latent))},
        guide=guide,
        images={"x": (height, width)},
    )
    def vae(x: Tensor, decoder: nn.Module, likelihood: nn.Module, prior: Prior) -> None:
        """Images ``x`` ``(n, pixels)`` whose distribution ``decoder`` and ``likelihood`` compute from codes."""
        for name, module in (("decoder", decoder), ("likelihood", likelihood), ("prior", prior)):
            pyro.module(name, module)
        codes = prior()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", codes)
            pyro.sample("x", likelihood(decoder(z)), obs=x)

    return lvm.Problem(vae, pixels, net, family, codes)


def _encode(x: Tensor, decoder: nn.Module, likelihood: nn.Module, prior: Vamp) -> None:
    """The encoder that a VampPrior shares: a diagonal Gaussian for each image."""
    pyro.module("prior", prior)
    with pyro.plate("data", len(x)):
        loc, scale = prior.encode(x)
        pyro.sample("z", dist.Normal(loc, scale).to_event(1))
