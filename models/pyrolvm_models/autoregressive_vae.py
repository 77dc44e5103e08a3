r"""VAE with an autoregressive decoder: pixels that see the pixels before them as well as the code, and a posterior that collapses.

    z_n  ~ Normal(0, I)                                          ``latent`` dimensions
    x_nj ~ Bernoulli(logit = d(z_n)_j + v_j . h_j)               j = 1..P pixels, row by row
    h_j  = tanh(W_j x_n,<j + U_j z_n)                            ``units`` for each pixel

Graph: ``z_n -> x_nj <- x_n,<j`` with a plate over the data. With ``context=None`` pixel ``j`` sees all pixels before it, and hidden
units of all of them: a masked autoencoder (MADE) given a code. With ``context=r`` it sees those up to ``r`` rows above and ``r``
columns aside, and its own hidden units; with ``context=0`` none, which is the plain VAE with a linear decoder beside ``d``.

What variational inference loses: the code itself. A decoder that can describe an image without it does, since whatever the guide's
Gaussian misses of the true posterior is paid for as divergence, and early in training the code is noise. The posterior of every
unit becomes the prior: the verdict says so, and ``lvm.gaps`` measures each unit. Three remedies: a shorter ``context``, so that
what is global in an image has to come from the code (Chen et al. 2017); an objective that gives the first nats of divergence free,
or weighs it less at first; and a guide refined beyond the encoder, ``"semi_amortized"`` (Kim et al. 2018).

Data: as of :mod:`pyrolvm_models.vae`.

References:
    Germain, M. et al. (2015). MADE. ICML. https://arxiv.org/abs/1502.03509
    Gulrajani, I. et al. (2017). PixelVAE. ICLR. https://arxiv.org/abs/1611.05013
    Chen, X. et al. (2017). Variational lossy autoencoder. ICLR. https://arxiv.org/abs/1611.02731
    Kim, Y. et al. (2018). Semi-amortized variational autoencoders. ICML. https://arxiv.org/abs/1802.02550
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _data, _images
from pyrolvm_models._nets import dense, linear
from pyrolvm_models.likelihoods import InOrder, drawn

__all__ = ["CausalBernoulli", "PixelDecoder", "autoregressive_vae"]


class PixelDecoder(nn.Module):
    """The networks of the model.

    Args:
        latent: Dimensions of a code.
        hidden: Hidden units of the network from code to logits.
        height: Pixels from top to bottom.
        width: Pixels from left to right.
        units: Hidden units of each pixel.
        context: How many rows and columns a pixel sees back; ``None`` for all pixels before it.
        generator: Source of the initial weights.
    """

    see: Tensor
    tell: Tensor

    def __init__(
        self, latent: int, hidden: Sequence[int], height: int, width: int, units: int, context: int | None,
        generator: torch.Generator,
    ) -> None:  # fmt: skip
        super().__init__()
        pixels = height * width
        self.units = units
        self.decoder = dense(latent, hidden, pixels, generator)
        self.given = linear(latent, pixels * units, generator)
        self.first = linear(pixels, pixels * units, generator)
        self.last = linear(pixels * units, pixels, generator)
        place = torch.arange(pixels)
        row, column = place // width, place % width
        before = place[:, None] > place[None, :]
        mine = torch.eye(pixels, dtype=torch.bool)
        if context is not None:
            near = (row[:, None] - row).abs().le(context) & (column[:, None] - column).abs().le(context)
            before &= near
        tell = mine if context is not None else before | mine
        dtype = torch.get_default_dtype()
        self.register_buffer("see", before.repeat_interleave(units, 0).to(dtype))
        self.register_buffer("tell", tell.repeat_interleave(units, 1).to(dtype))

    def forward(self, z: Tensor) -> CausalBernoulli:
        """The distribution of images ``(..., pixels)`` given codes ``(..., latent)``."""
        first: Any = self.first
        last: Any = self.last
        return CausalBernoulli(
            self.decoder(z) + last.bias, self.given(z) + first.bias, first.weight * self.see, last.weight * self.tell
        )


class CausalBernoulli(dist.TorchDistribution):
    """Binary vectors whose elements depend on those before them through one layer of tanh units.

    A density takes one pass over all elements, and so does a draw, one block of units after the other.

    Args:
        logits: What is added to each element's logit, shape ``(..., p)``.
        offsets: What is added to each unit's input, shape ``(..., p * units)``.
        inward: Weights from elements to units, shape ``(p * units, p)``; units of element ``j`` see those before ``j``.
        outward: Weights from units to logits, shape ``(p, p * units)``; element ``j`` sees units of elements up to ``j``.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.boolean, 1)
    has_rsample = False

    def __init__(
        self, logits: Tensor, offsets: Tensor, inward: Tensor, outward: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.logits, self.offsets, self.inward, self.outward = logits, offsets, inward, outward
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CausalBernoulli:
        """The same distribution for each element of a batch."""
        batch = torch.Size(batch_shape)
        logits, offsets = (part.expand(batch + part.shape[-1:]) for part in (self.logits, self.offsets))
        return CausalBernoulli(logits, offsets, self.inward, self.outward, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of vectors ``(..., p)``, shape ``(...)``."""
        if self._validate_args:
            self._validate_sample(value)
        units = torch.tanh(F.linear(value, self.inward) + self.offsets)
        logits = self.logits + F.linear(units, self.outward)
        return (value * logits - F.softplus(logits)).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Vectors of shape ``sample_shape + batch_shape + (p,)``."""
        return drawn(self.expand(torch.Size(sample_shape) + self.batch_shape).in_order())

    def in_order(self) -> InOrder:
        """The distribution of each element given those before it, which are sent."""
        count = self.logits.shape[-1]
        block = self.offsets.shape[-1] // count
        offsets = self.offsets.expand(*self.logits.shape[:-1], count * block)
        before: list[Tensor] = []
        units: list[Tensor] = []
        for j in range(count):
            into = slice(j * block, (j + 1) * block)
            raw = offsets[..., into]
            if before:
                raw = raw + F.linear(torch.stack(before, -1), self.inward[into, :j])
            units.append(torch.tanh(raw))
            seen = F.linear(torch.cat(units, -1), self.outward[j : j + 1, : (j + 1) * block])[..., 0]
            before.append((yield dist.Bernoulli(logits=self.logits[..., j] + seen, validate_args=False)))


def autoregressive_vae(
    *,
    data: str = "digits",
    split: str = "train",
    images: int | None = None,
    latent: int = 8,
    hidden: int | Sequence[int] = 64,
    units: int = 4,
    context: int | None = None,
    seed: int = 0,
) -> lvm.Problem:
    """Binary images under a VAE whose decoder sees the pixels before: its posterior collapses unless ``context`` is short.

    Args:
        data: ``"digits"``, ``"mnist"``, ``"binarized_mnist"`` or ``"omniglot"``.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        images: Use only the first so many images; all by default.
        latent: Dimensions of a code.
        hidden: Units of the hidden layers from code to logits, and of the encoder.
        units: Hidden units of each pixel that see the pixels before.
        context: How many rows and columns a pixel sees back, 0 for none; ``None`` for all pixels before it.
        seed: Seed of the initial weights.

    Returns:
        The problem.

    Raises:
        ArgumentError: An option is out of range.
    """
    found, levels, _ = _images.source("autoregressive_vae", data, split, images)
    latent = _data.check_count("autoregressive_vae", "latent", latent)
    units = _data.check_count("autoregressive_vae", "units", units)
    sizes = _images.sizes("autoregressive_vae", "hidden", hidden)
    if context is not None and (isinstance(context, bool) or not isinstance(context, int) or context < 0):
        raise lvm.ArgumentError(
            f"option 'context' of problem 'autoregressive_vae' is {context!r}. Fix: give 0, 1, 2, ..., or None for all pixels."
        )
    x = _images.values(levels, found.levels, "bernoulli")
    generator = torch.Generator().manual_seed(seed)

    @lvm.model(
        dims={"z": ["data", "latent"], "x": ["data", "pixel"]},
        coords={"pixel": _images.places(found.height, found.width), "latent": list(range(latent))},
        guide=lvm.guide("amortized", hidden=sizes[::-1]),
        images={"x": (found.height, found.width)},
    )
    def autoregressive(x: Tensor, decoder: PixelDecoder) -> None:
        """Binary images ``x`` ``(n, pixels)``, each pixel given a code and the pixels before it."""
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([latent]).to_event(1))
            pyro.sample("x", decoder(z), obs=x)

    return lvm.Problem(
        autoregressive, x, PixelDecoder(latent, sizes, found.height, found.width, units, context, generator)
    )
