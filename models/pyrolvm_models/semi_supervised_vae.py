r"""Semi-supervised VAE (M2): images of which a few have labels; the labels of the others are summed over.

    y ~ Categorical(1/C, ..., 1/C)                    C classes: observed for labelled images, latent for the others
    z ~ Normal(0, I)                                  ``latent`` dimensions: what the class does not say
    x ~ Bernoulli(logit = decoder(z, y))

Graph: ``z -> x <- y``, in one plate ``labelled`` and one ``unlabelled``. The guide is ``q(y | x)``, a classifier, and ``q(z | x, y)``;
for unlabelled images the bound is summed over all classes rather than drawn: no gradient of a score function is needed,

    U(x) = sum_y q(y | x) [ELBO(x, y) - log q(y | x)].

Labelled images do not train ``q(y | x)`` by themselves, so the paper adds ``alpha log q(y | x)`` for them: here the site ``label``. It
makes the classifier a part of the model. ``alpha = weight * images / labelled images``; the bound that is reported has that term too,
and with ``weight=0`` it is one of ``log p(x, y) + log p(x)`` alone. Read predictions off with :func:`classify`.

What variational inference loses: as a VAE; and the classifier of the guide is all that is left of ``p(y | x)``: where the decoder does
not need the class, its posterior tells nothing about it, and clusters need not be classes. ``guide="auto"`` is the pair above; take
minibatches of the unlabelled, ``batch_plate="unlabelled"``, with all labelled images in each.

Data: as of :mod:`pyrolvm_models.vae`; of the images of each class the first few keep their labels.

References:
    Kingma, D. P. et al. (2014). Semi-supervised learning with deep generative models. NeurIPS. https://arxiv.org/abs/1406.5298
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _data, _images
from pyrolvm_models._likelihoods import check_pixels
from pyrolvm_models._nets import dense, fresh

__all__ = ["classify", "semi_supervised", "semi_supervised_vae"]


class _Encoder(nn.Module):
    """``q(y | x)``, the model's classifier, and ``q(z | x, y)``."""

    def __init__(self, pixels: int, classes: int, hidden: Sequence[int], latent: int) -> None:
        super().__init__()
        self.classes = classes
        self.code = dense(pixels + classes, hidden, 2 * latent, fresh(), gain=0.1)

    def forward(self, images: Tensor, y: Tensor, others: Tensor, decoder: nn.Module, classifier: nn.Module) -> None:
        pyro.module("classifier", classifier)
        with pyro.plate("labelled", len(images)):
            pyro.sample("z_labelled", self._code(images, y))
        with pyro.plate("unlabelled", len(others)):
            guess = dist.Categorical(logits=classifier(others))
            drawn = pyro.sample("y_unlabelled", guess, infer={"enumerate": "parallel"})
            pyro.sample("z_unlabelled", self._code(others, drawn))

    def _code(self, x: Tensor, y: Tensor) -> dist.TorchDistribution:
        shown = F.one_hot(y, self.classes).to(x)
        batch = torch.broadcast_shapes(x.shape[:-1], shown.shape[:-1])
        both = torch.cat([x.expand(*batch, x.shape[-1]), shown.expand(*batch, self.classes)], -1)
        loc, raw = self.code(both).chunk(2, -1)
        return dist.Normal(loc, F.softplus(raw) + 1e-3).to_event(1)


def classify(fit: lvm.Fit, x: Any) -> Tensor:
    """Probability of each class, by the fitted classifier.

    Args:
        fit: A fit of a problem of this module.
        x: Images, shape ``(n, pixels)``.

    Returns:
        Shape ``(n, classes)``.

    Raises:
        UnknownNameError: ``fit`` is of another model.
        DataError: Images have another number of pixels than those of the fit.
    """
    classifier, problem = fit.module("classifier"), fit.attached
    images, pixels = torch.as_tensor(x).to(problem.dtype), problem.arguments["images"].shape[-1]
    if images.dim() != 2 or images.shape[-1] != pixels:
        raise lvm.DataError(
            f"classify: x has shape {tuple(images.shape)}, expected (images, {pixels}). Fix: give rows of pixels."
        )
    with torch.no_grad():
        return torch.softmax(classifier(images), -1)


def semi_supervised_vae(
    *,
    data: str = "digits",
    split: str = "train",
    images: int | None = None,
    labels: int = 100,
    latent: int = 8,
    hidden: int | Sequence[int] = 128,
    weight: float = 0.1,
    seed: int = 0,
) -> lvm.Problem:
    """Digits of which a hundred have labels, under the model M2.

    Args:
        data: ``"digits"``, ``"mnist"`` or ``"omniglot"``; ``"binarized_mnist"`` has no labels.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        images: Use only the first so many images; all by default.
        labels: How many images keep their label, the same number of each class.
        latent: Dimensions of a code.
        hidden: Units of the hidden layers of the decoder, the encoder and the classifier.
        weight: How much the labels train the classifier.
        seed: Seed of the initial weights.

    Returns:
        The problem.

    Raises:
        ArgumentError: An option is out of range, or the images have no labels.
        DataError: A class has no image.
    """
    owner = "semi_supervised_vae"
    found, levels, known = _images.source(owner, data, split, images)
    if known is None:
        raise lvm.ArgumentError(f'{found.name} has no labels. Fix: use data="mnist" or "digits".')
    count = _data.check_count(owner, "labels", labels, len(levels) - 1)
    numbers, classes = _images.labels_of(owner, known, len(levels))
    each, rest = divmod(count, classes)
    fewest = int(torch.bincount(numbers).min())
    if rest or each > fewest:
        raise lvm.ArgumentError(
            f"option 'labels' of problem {owner!r} is {labels}; the {classes} classes get the same number each, and the smallest has "
            f"{fewest} images. Fix: give a multiple of {classes} up to {classes * fewest}."
        )
    rank = torch.stack([(numbers == c).cumsum(0) for c in range(classes)])[numbers, torch.arange(len(numbers))]
    seen = rank <= each
    x = _images.values(levels, found.levels, "bernoulli")
    return semi_supervised(
        x[seen], numbers[seen], x[~seen], classes=classes, latent=latent, hidden=hidden, weight=weight, seed=seed,
        places=_images.places(found.height, found.width),
    )  # fmt: skip


def semi_supervised(
    labelled: Any,
    y: Any,
    unlabelled: Any,
    *,
    classes: int | None = None,
    latent: int = 8,
    hidden: int | Sequence[int] = 128,
    weight: float = 0.1,
    seed: int = 0,
    places: Sequence[str] | None = None,
) -> lvm.Problem:
    """Binary images of your own, of which some have labels, under M2; for the options see :func:`semi_supervised_vae`.

    Args:
        labelled: Images with a label, ``(n, pixels)`` or ``(n, height, width)``, 0 or 1.
        y: Their labels, shape ``(n,)``, whole numbers from 0; every class has at least one.
        unlabelled: Images without, ``(m, pixels)`` or ``(m, height, width)``, 0 or 1.
        classes: How many classes there are; by default one more than the highest label.
        latent: Dimensions of a code.
        hidden: Units of the hidden layers.
        weight: How much the labels train the classifier, at least 0.
        seed: Seed of the initial weights.
        places: Names of the pixels.

    Returns:
        The problem.

    Raises:
        ArgumentError: An option is out of range.
        DataError: A label is out of range, a class is empty, or a pixel is neither 0 nor 1.
    """
    owner = "semi_supervised_vae"
    latent = _data.check_count(owner, "latent", latent)
    sizes = _images.sizes(owner, "hidden", hidden)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise lvm.ArgumentError(
            f"option 'weight' of problem {owner!r} is {weight!r}. Fix: give a finite number of at least 0."
        )
    first, height, width = _images.pixels_of(owner, labelled, None, None)
    second, *other = _images.pixels_of(owner, unlabelled, None, None)
    if first.shape[1] != second.shape[1]:
        raise lvm.DataError(
            f"{owner}: labelled images have {height} x {width} pixels, unlabelled ones {other[0]} x {other[1]}. Fix: use one size."
        )
    for images in (first, second):
        check_pixels(owner, "bernoulli", images, 2)
    numbers, count = _images.labels_of(owner, y, len(first), classes)
    pixels = first.shape[1]
    generator = torch.Generator().manual_seed(seed)
    alpha = weight * (len(first) + len(second)) / len(first)

    def guide(problem: lvm.Problem) -> nn.Module:
        """A classifier, and codes given class and image."""
        return _Encoder(pixels, count, sizes[::-1], latent)

    dims: Mapping[str, Sequence[str]] = {
        "z_labelled": ["labelled", "latent"], "z_unlabelled": ["unlabelled", "latent"], "x_labelled": ["labelled", "pixel"],
        "x_unlabelled": ["unlabelled", "pixel"],
    }  # fmt: skip

    @lvm.model(
        dims=dims,
        coords={"pixel": list(places or range(pixels)), "latent": list(range(latent))},
        guide=lvm.Guide("m2", guide),
    )
    def m2(images: Tensor, y: Tensor, others: Tensor, decoder: nn.Module, classifier: nn.Module) -> None:
        """``images`` with labels ``y`` and ``others`` without, each of a class and a code."""
        pyro.module("decoder", decoder)
        pyro.module("classifier", classifier)
        flat = torch.zeros(count, dtype=images.dtype, device=images.device)
        codes = dist.Normal(0.0, 1.0).expand([latent]).to_event(1)

        def image(z: Tensor, y: Tensor) -> dist.TorchDistribution:
            shown = F.one_hot(y, count).to(z)
            batch = torch.broadcast_shapes(z.shape[:-1], shown.shape[:-1])
            both = torch.cat([z.expand(*batch, latent), shown.expand(*batch, count)], -1)
            return dist.Bernoulli(logits=decoder(both)).to_event(1)

        with pyro.plate("labelled", len(images)):
            z = pyro.sample("z_labelled", codes)
            pyro.sample("y", dist.Categorical(logits=flat), obs=y)
            pyro.sample("x_labelled", image(z, y), obs=images)
            if alpha:
                with poutine.scale(scale=alpha):
                    pyro.sample("label", dist.Categorical(logits=classifier(images)), obs=y)
        with pyro.plate("unlabelled", len(others)):
            z = pyro.sample("z_unlabelled", codes)
            drawn = pyro.sample("y_unlabelled", dist.Categorical(logits=flat), infer={"enumerate": "parallel"})
            pyro.sample("x_unlabelled", image(z, drawn), obs=others)

    net = dense(latent + count, sizes, pixels, generator)
    return lvm.Problem(m2, first, numbers, second, net, dense(pixels, sizes[::-1], count, generator))
