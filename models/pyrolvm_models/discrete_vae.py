r"""VAE with discrete codes: binary ones, or several choices among a few, by score function or by enumeration.

    c_nk ~ Categorical(1/C, ..., 1/C)                  k = 1..``latent`` choices among C = ``categories``
    x_n  ~ Bernoulli(logit = decoder(one-hot c_n))

Graph: ``c_n -> x_n`` with a plate over the data. With two categories the code is a binary vector.

``estimator="score"``: the guide is an encoder, ``q(c_nk | x_n)`` independent over ``k``, and since draws are not differentiable its
gradient is that of the score function with a baseline, of high variance. ``estimator="enumeration"``: the code is one choice among
all ``C ** latent`` (at most 4,096), and the guide is its exact posterior ``p(c | x)``, which is summed over rather than drawn from: the
bound is the log likelihood itself. Its cost grows with the number of codes. Both are ``guide="auto"``.

What variational inference loses: with the score function, the dependence of the choices given an image, what one encoder loses,
and, at equal steps, much to noise. By enumeration nothing.

Data: as of :mod:`pyrolvm_models.vae`.

References:
    Mnih, A., Gregor, K. (2014). Neural variational inference and learning in belief networks. ICML. https://arxiv.org/abs/1402.0030
    Williams, R. J. (1992). Simple statistical gradient-following algorithms. Machine Learning 8, 229-256.
        https://doi.org/10.1007/BF00992696
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _data, _images
from pyrolvm_models._nets import dense, fresh

__all__ = ["discrete_vae"]

ESTIMATORS = ("enumeration", "score")

MOST_CODES = 4_096
"""Codes that are summed over."""


class _Encoder(nn.Module):
    """An independent choice for each part of the code, from the image."""

    def __init__(self, pixels: int, hidden: Sequence[int], latent: int, categories: int) -> None:
        super().__init__()
        self.shape = (latent, categories)
        self.net = dense(pixels, hidden, latent * categories, fresh(), gain=0.1)

    def forward(self, x: Tensor, decoder: nn.Module) -> None:
        logits = self.net(x).reshape(len(x), *self.shape)
        with pyro.plate("data", len(x)):
            pyro.sample("code", dist.Categorical(logits=logits).to_event(1))


def discrete_vae(
    *,
    data: str = "digits",
    split: str = "train",
    images: int | None = None,
    latent: int = 6,
    categories: int = 2,
    estimator: str = "enumeration",
    hidden: int | Sequence[int] = 64,
    seed: int = 0,
) -> lvm.Problem:
    """Binary images under a VAE with discrete codes.

    Args:
        data: ``"digits"``, ``"mnist"``, ``"binarized_mnist"`` or ``"omniglot"``.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        images: Use only the first so many images; all by default.
        latent: Choices that a code is made of.
        categories: What each is among, at least 2.
        estimator: ``"enumeration"`` or ``"score"``.
        hidden: Units of the hidden layers, of the decoder and, in reverse, the encoder.
        seed: Seed of the initial weights.

    Returns:
        The problem.

    Raises:
        ArgumentError: An option is out of range, or there are too many codes to sum over.
    """
    owner = "discrete_vae"
    found, levels, _ = _images.source(owner, data, split, images)
    latent = _data.check_count(owner, "latent", latent)
    categories = _data.check_count(owner, "categories", categories)
    sizes = _images.sizes(owner, "hidden", hidden)
    _images.choose(owner, "estimator", estimator, ESTIMATORS)
    if categories < 2:
        raise lvm.ArgumentError(f"option 'categories' of problem {owner!r} is 1: no choice. Fix: give 2 or more.")
    summed = estimator == "enumeration"
    if summed and categories**latent > MOST_CODES:
        raise lvm.ArgumentError(
            f"problem {owner!r}: {latent} choices among {categories} are {categories**latent:,} codes, more than the {MOST_CODES:,} "
            'that are summed over. Fix: give fewer, or estimator="score".'
        )
    x = _images.values(levels, found.levels, "bernoulli")
    pixels = x.shape[1]
    net = dense(latent * categories, sizes, pixels, torch.Generator().manual_seed(seed))

    def score(problem: lvm.Problem) -> nn.Module:
        """An encoder of independent choices."""
        return _Encoder(pixels, sizes[::-1], latent, categories)

    def logits(decoder: nn.Module, code: Tensor) -> Tensor:
        chosen = (
            F.one_hot(code, categories).to(next(decoder.parameters())).reshape(*code.shape[:-1], latent * categories)
        )
        out: Tensor = decoder(chosen)
        return out

    places = _images.places(found.height, found.width)

    @lvm.model(
        dims={"code": ["data", "choice"], "x": ["data", "pixel"]},
        coords={"pixel": places, "choice": list(range(latent))},
        guide=lvm.Guide("score", score),
        images={"x": (found.height, found.width)},
    )
    def discrete(x: Tensor, decoder: nn.Module) -> None:
        """Binary images ``x`` ``(n, pixels)`` of several choices."""
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            flat = torch.zeros(latent, categories, dtype=x.dtype, device=x.device)
            code = pyro.sample("code", dist.Categorical(logits=flat).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=logits(decoder, code)).to_event(1), obs=x)

    table = torch.tensor(list(itertools.product(range(categories), repeat=latent))) if summed else torch.zeros(1, 1)

    def posterior(problem: lvm.Problem) -> Any:
        """The exact posterior of the code, summed over."""

        def guide(x: Tensor, decoder: nn.Module) -> None:
            pyro.module("decoder", decoder)
            outputs = logits(decoder, table.to(x.device))
            log_p = x @ outputs.mT - F.softplus(outputs).sum(-1)
            with pyro.plate("data", len(x)):
                pyro.sample("code", dist.Categorical(logits=log_p), infer={"enumerate": "parallel"})

        return guide

    @lvm.model(
        dims={"code": ["data"], "x": ["data", "pixel"]},
        coords={"pixel": places},
        guide=lvm.Guide("posterior", posterior),
        images={"x": (found.height, found.width)},
    )
    def enumerated(x: Tensor, decoder: nn.Module) -> None:
        """Binary images ``x`` ``(n, pixels)`` of one of all codes, which is summed out."""
        pyro.module("decoder", decoder)
        outputs = logits(decoder, table.to(x.device))
        with pyro.plate("data", len(x)):
            flat = torch.zeros(len(table), dtype=x.dtype, device=x.device)
            code = pyro.sample("code", dist.Categorical(logits=flat), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Bernoulli(logits=outputs[code]).to_event(1), obs=x)

    return lvm.Problem(enumerated if summed else discrete, x, net)
