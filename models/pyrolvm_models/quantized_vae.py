r"""VAE with a learned codebook: an image is a few choices among embeddings that are learned, and an autoregressive prior says which.

    c_n1, ..., c_nS ~ p(c_1) p(c_2 | c_1) ... p(c_S | c_<S)            S choices among C, from a masked network
    x_n             ~ Bernoulli(logit = decoder(e_1[c_n1], ..., e_S[c_nS]))

Graph: ``c_ns -> x_n <- codebook`` with a plate over the data. The guide's encoder puts S points among the embeddings of the codebook,
and chooses one of these with a probability that falls with the squared distance, so that encoder and decoder share what a choice means:

    q(c_ns = c | x_n) ~ exp(-w |encoder_s(x_n) - e_s[c]|^2)

Draws are one-hot, and their gradient is taken as that of the probabilities (straight through). As ``w`` grows the choice is the nearest
embedding, which is the quantisation of van den Oord et al. (2017); here ``w`` is learned, and the bound holds as it stands. Their two
stages, codes first and a prior of them afterwards, are one: the prior is learned with the rest.

What variational inference loses: the dependence of the choices given an image, and what a gradient with a bias does not find. Choices
that no image uses stay unused.

Data: as of :mod:`pyrolvm_models.vae`.

References:
    van den Oord, A., Vinyals, O., Kavukcuoglu, K. (2017). Neural discrete representation learning. NeurIPS.
        https://arxiv.org/abs/1711.00937
    Sonderby, C. K., Poole, B., Mnih, A. (2017). Continuous relaxation training of discrete latent variable image models. Bayesian Deep
        Learning workshop, NeurIPS.
    Bengio, Y., Leonard, N., Courville, A. (2013). Estimating or propagating gradients through stochastic neurons.
        https://arxiv.org/abs/1308.3432
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
from pyrolvm_models._nets import dense, fresh

__all__ = ["CausalChoices", "Codebook", "quantized_vae"]


class CausalChoices(dist.TorchDistribution):
    """One-hot choices that depend on those before them: ``logits_s = bias_s + sum over t < s of weight_st[:, c_t]``.

    Args:
        bias: shape ``(s, c)``.
        weight: shape ``(s * c, s * c)``; what a choice has of itself and later ones is left out.
        batch_shape: independent copies.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.one_hot, 1)
    has_rsample = False

    def __init__(self, bias: Tensor, weight: Tensor, batch_shape: Any = ()) -> None:
        self.bias = bias
        steps, choices = bias.shape
        place = torch.arange(steps, device=weight.device).repeat_interleave(choices)
        self.weight = weight * (place[:, None] > place).to(weight)
        super().__init__(torch.Size(batch_shape), bias.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CausalChoices:
        """The same law for another number of independent copies."""
        return CausalChoices(self.bias, self.weight, batch_shape)

    def _logits(self, value: Tensor) -> Tensor:
        """Logits of each choice given those before it."""
        seen: Tensor = F.linear(value.flatten(-2), self.weight)
        return (seen.unflatten(-1, self.bias.shape) + self.bias).log_softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of choices ``(..., s, c)``, shape ``(...)``."""
        return (value * self._logits(value)).sum((-1, -2))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Choices of shape ``sample_shape + batch_shape + (s, c)``."""
        drawn: list[Tensor] = []
        blank = self.bias.new_zeros(torch.Size(sample_shape) + self.batch_shape + self.bias.shape)
        for step in range(len(self.bias)):
            seen = torch.stack(drawn, -2) if drawn else blank[..., :0, :]
            logits = self._logits(torch.cat([seen, blank[..., step:, :]], -2))[..., step, :]
            drawn.append(dist.OneHotCategorical(logits=logits, validate_args=False).sample())
        return torch.stack(drawn, -2)


class Codebook(nn.Module):
    """Embeddings, the prior of choices among them, and the decoder.

    Args:
        steps: choices of an image.
        choices: what each is among.
        width: numbers of an embedding.
        hidden: units of the decoder's layers.
        pixels: of an image.
        generator: source of the initial weights.
    """

    def __init__(
        self, steps: int, choices: int, width: int, hidden: Sequence[int], pixels: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.shape = (steps, choices)
        self.embeddings = nn.Parameter(torch.randn(steps, choices, width, generator=generator))
        self.bias = nn.Parameter(torch.zeros(steps, choices))
        self.weight = nn.Parameter(torch.zeros(steps * choices, steps * choices))
        self.decoder = dense(steps * width, hidden, pixels, generator)

    def forward(self, chosen: Tensor) -> Tensor:
        """Logits of the pixels of one-hot choices ``(..., s, c)``."""
        embedded = (chosen.unsqueeze(-1) * self.embeddings).sum(-2)
        out: Tensor = self.decoder(embedded.flatten(-2))
        return out


class _Nearest(nn.Module):
    """The guide: choices by distance of the encoder's points from the embeddings."""

    def __init__(self, pixels: int, hidden: Sequence[int], steps: int, width: int) -> None:
        super().__init__()
        self.shape = (steps, width)
        self.net = dense(pixels, hidden, steps * width, fresh())
        self.log_weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, codebook: Any) -> None:
        pyro.module("codebook", codebook)
        points = self.net(x).unflatten(-1, self.shape).unsqueeze(-2)
        away = (points - codebook.embeddings).square().sum(-1)
        with pyro.plate("data", len(x)):
            law = dist.OneHotCategoricalStraightThrough(logits=-self.log_weight.exp() * away)
            pyro.sample("code", law.to_event(1))


def quantized_vae(
    *,
    data: str = "digits",
    split: str = "train",
    images: int | None = None,
    steps: int = 8,
    choices: int = 8,
    width: int = 4,
    hidden: int | Sequence[int] = 64,
    seed: int = 0,
) -> lvm.Problem:
    """Binary images under a VAE with a learned codebook and an autoregressive prior of codes.

    Args:
        data: ``"digits"``, ``"mnist"``, ``"binarized_mnist"`` or ``"omniglot"``.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        images: Use only the first so many images; all by default.
        steps: Choices that a code is made of.
        choices: Embeddings that each is among, at least 2.
        width: Numbers of an embedding.
        hidden: Units of the hidden layers, of the decoder and, in reverse, the encoder.
        seed: Seed of the initial weights.

    Returns:
        The problem.

    Raises:
        ArgumentError: An option is out of range.
    """
    owner = "quantized_vae"
    found, levels, _ = _images.source(owner, data, split, images)
    for option, count in (("steps", steps), ("choices", choices), ("width", width)):
        _data.check_count(owner, option, count)
    if choices < 2:
        raise lvm.ArgumentError(f"option 'choices' of problem {owner!r} is 1: no choice. Fix: give 2 or more.")
    sizes = _images.sizes(owner, "hidden", hidden)
    x = _images.values(levels, found.levels, "bernoulli")
    pixels = x.shape[1]
    codebook = Codebook(steps, choices, width, sizes, pixels, torch.Generator().manual_seed(seed))

    def nearest(problem: lvm.Problem) -> nn.Module:
        """An encoder whose points choose embeddings by distance."""
        return _Nearest(pixels, sizes[::-1], steps, width)

    @lvm.model(
        dims={"code": ["data", "step", "choice"], "x": ["data", "pixel"]},
        coords={
            "pixel": _images.places(found.height, found.width), "step": list(range(steps)), "choice": list(range(choices)),
        },
        guide=lvm.Guide("nearest", nearest),
        images={"x": (found.height, found.width)},
    )  # fmt: skip
    def quantized(x: Tensor, codebook: Any) -> None:
        """Binary images ``x`` ``(n, pixels)`` of a few choices among learned embeddings."""
        pyro.module("codebook", codebook)
        prior = CausalChoices(codebook.bias, codebook.weight)
        with pyro.plate("data", len(x)):
            code = pyro.sample("code", prior)
            pyro.sample("x", dist.Bernoulli(logits=codebook(code)).to_event(1), obs=x)

    return lvm.Problem(quantized, x, codebook)
