r"""VAE of several stochastic layers: codes of codes, with a guide that corrects the model's own guess on the way down.

    z_L ~ Normal(0, I)
    z_l ~ Normal(m_l(z_{l+1}), s_l(z_{l+1}))      l = L-1..1, ``latent[l-1]`` dimensions each
    x   ~ Bernoulli(logit = decoder(z_1))

Graph: ``z_L -> ... -> z_1 -> x`` with a plate over the data. All networks are learnable parameters.

The guide ``inference="ladder"`` reads the image upwards into a Gaussian ``Normal(a_l, b_l)`` for each layer, then comes down: at each
layer it multiplies that Gaussian with the model's own ``Normal(m_l(z_{l+1}), s_l(z_{l+1}))``, so that precisions add and the mean is
their weighted mean. ``inference="bottom_up"`` is the plain hierarchical VAE, ``q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1})``. Both
are ``guide="auto"``.

What variational inference loses: upwards, the top layers have to be inferred from noisy draws of those below, and the bound is
highest early on where they are ignored: they collapse and stay so. The ladder gives each layer its own view of the image, and
trains them; the verdict counts the active units of each. Layers are Gaussian with diagonal covariance given those above.

Data: as of :mod:`pyrolvm_models.vae`.

References:
    Sonderby, C. K. et al. (2016). Ladder variational autoencoders. NeurIPS. https://arxiv.org/abs/1602.02282
    Rezende, D. J., Mohamed, S., Wierstra, D. (2014). Stochastic backpropagation and approximate inference in
        deep generative models. ICML. https://arxiv.org/abs/1401.4082
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _images
from pyrolvm_models._nets import dense, fresh

__all__ = ["Generative", "ladder_vae"]

INFERENCES = ("ladder", "bottom_up")

SMALLEST = 1e-3
"""Below which no standard deviation of a layer falls."""


def _gaussian(out: Tensor) -> tuple[Tensor, Tensor]:
    loc, raw = out.chunk(2, -1)
    return loc, SMALLEST + F.softplus(raw)


def _narrow(out: Tensor) -> tuple[Tensor, Tensor]:
    """A Gaussian of the guide: its scale starts at an eighth, so that codes say something before the model can ignore them."""
    loc, raw = out.chunk(2, -1)
    return loc, SMALLEST + F.softplus(raw - 2)


class Generative(nn.Module):
    """The networks of the model.

    Args:
        latent: Dimensions of each layer's code, from the image upwards.
        hidden: Hidden units of each network.
        pixels: Pixels of an image.
        generator: Source of the initial weights.
    """

    def __init__(self, latent: Sequence[int], hidden: Sequence[int], pixels: int, generator: torch.Generator) -> None:
        super().__init__()
        pairs = list(zip(latent[1:], latent[:-1], strict=True))
        self.steps = nn.ModuleList([dense(above, hidden, 2 * below, generator) for above, below in pairs])
        self.decoder = dense(latent[0], hidden, pixels, generator)

    def below(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of layer ``layer`` (0 is next to the image) given the code ``z`` of the one above."""
        return _gaussian(self.steps[layer](z))

    def forward(self, z: Tensor) -> Tensor:
        """Logits of the pixels given the lowest code."""
        logits: Tensor = self.decoder(z)
        return logits


class _Ladder(nn.Module):
    """The two guides; networks upwards are of their own, those downwards are the model's."""

    def __init__(self, latent: Sequence[int], hidden: Sequence[int], x: Tensor, ladder: bool) -> None:
        super().__init__()
        generator = fresh()
        self.latent, self.ladder, pixels = tuple(latent), ladder, x.shape[1]
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("sd", x.std(0, correction=0).clamp(min=0.1))
        width = hidden[-1]
        if ladder:
            sizes = (pixels, *([width] * len(latent)))
            self.up = nn.ModuleList([dense(n, hidden, width, generator) for n in sizes[:-1]])
            self.heads = nn.ModuleList([dense(width, (), 2 * size, generator, gain=3.0) for size in latent])
        else:
            inputs = (pixels, *latent[:-1])
            pairs = zip(inputs, latent, strict=True)
            self.heads = nn.ModuleList([dense(n, hidden, 2 * size, generator, gain=3.0) for n, size in pairs])

    def forward(self, x: Tensor, generative: Generative) -> None:
        pyro.module("generative", generative)
        mean, sd = (getattr(self, name) for name in ("mean", "sd"))
        shown = (x - mean) / sd
        with pyro.plate("data", len(x)):
            if not self.ladder:
                z = shown
                for layer, head in enumerate(self.heads):
                    z = pyro.sample(f"z{layer + 1}", dist.Normal(*_narrow(head(z))).to_event(1))
                return
            seen, units = [], shown
            for up, head in zip(self.up, self.heads, strict=True):
                units = torch.tanh(up(units))
                seen.append(_narrow(head(units)))
            top = len(self.latent) - 1
            z = pyro.sample(f"z{top + 1}", dist.Normal(*seen[top]).to_event(1))
            for layer in range(top - 1, -1, -1):
                (loc, scale), (mean, sd) = seen[layer], generative.below(layer, z)
                precision = scale**-2 + sd**-2
                both = (loc * scale**-2 + mean * sd**-2) / precision
                z = pyro.sample(f"z{layer + 1}", dist.Normal(both, precision**-0.5).to_event(1))


def ladder_vae(
    *,
    data: str = "digits",
    split: str = "train",
    images: int | None = None,
    latent: Sequence[int] = (8, 4),
    hidden: int | Sequence[int] = 64,
    inference: str = "ladder",
    seed: int = 0,
) -> lvm.Problem:
    """Binary images under a VAE of several stochastic layers, with the ladder as its guide.

    Args:
        data: ``"digits"``, ``"mnist"``, ``"binarized_mnist"`` or ``"omniglot"``.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        images: Use only the first so many images; all by default.
        latent: Dimensions of each layer's code, from the image upwards; at least two layers.
        hidden: Units of the hidden layers of each network.
        inference: ``"ladder"`` or ``"bottom_up"``: what ``guide="auto"`` is.
        seed: Seed of the initial weights.

    Returns:
        The problem, with sites ``z1`` (next to the image), ``z2``, ...

    Raises:
        ArgumentError: An option is out of range.
    """
    found, levels, _ = _images.source("ladder_vae", data, split, images)
    sizes = _images.sizes("ladder_vae", "latent", latent)
    widths = _images.sizes("ladder_vae", "hidden", hidden)
    _images.choose("ladder_vae", "inference", inference, INFERENCES)
    if len(sizes) < 2:
        raise lvm.ArgumentError(
            f"option 'latent' of problem 'ladder_vae' is {latent!r}, one layer. Fix: give two or more, or use problem 'vae'."
        )
    x = _images.values(levels, found.levels, "bernoulli")
    pixels = x.shape[1]
    top = len(sizes) - 1

    def guide(problem: lvm.Problem) -> nn.Module:
        """Encodes each layer from the data and, in a ladder, from the model's guess."""
        return _Ladder(sizes, widths, problem.args[0], inference == "ladder")

    dims = {f"z{i + 1}": ["data", f"latent{i + 1}"] for i in range(len(sizes))}
    coords: dict[str, list[Any]] = {f"latent{i + 1}": list(range(size)) for i, size in enumerate(sizes)}

    @lvm.model(
        dims={**dims, "x": ["data", "pixel"]},
        coords={**coords, "pixel": _images.places(found.height, found.width)},
        guide=lvm.Guide(inference, guide),
        images={"x": (found.height, found.width)},
    )
    def ladder(x: Tensor, generative: Generative) -> None:
        """Binary images ``x`` ``(n, pixels)`` of codes that have codes."""
        pyro.module("generative", generative)
        with pyro.plate("data", len(x)):
            z = pyro.sample(f"z{top + 1}", dist.Normal(0.0, 1.0).expand([sizes[top]]).to_event(1))
            for layer in range(top - 1, -1, -1):
                z = pyro.sample(f"z{layer + 1}", dist.Normal(*generative.below(layer, z)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=generative(z)).to_event(1), obs=x)

    return lvm.Problem(ladder, x, Generative(sizes, widths, pixels, torch.Generator().manual_seed(seed)))
