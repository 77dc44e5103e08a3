"""Likelihoods of images: from a decoder's outputs to a distribution over all pixels of an image."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models._neighbours import NeighbourBernoulli, offsets
from pyrolvm_models._nets import linear

__all__ = [
    "BINARY",
    "LIKELIHOODS",
    "Bernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Likelihood",
    "LogisticMixture",
    "Neighbours",
    "likelihood",
]

SMALLEST_SCALE = 1e-3
"""Below which no Gaussian scale falls: constant pixels would otherwise have an infinite density."""


class Likelihood(nn.Module):
    """A family for the pixels of an image given a code.

    Attributes:
        per_pixel: Outputs of the decoder for each pixel, side by side.
        pixels: Pixels of an image.
    """

    per_pixel = 1

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """The distribution of images ``(..., pixels)`` given outputs ``(..., pixels * per_pixel)``."""
        raise NotImplementedError

    def parts(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs apart, ``per_pixel`` tensors of shape ``(..., pixels)``."""
        return outputs.reshape(*outputs.shape[:-1], self.pixels, self.per_pixel).unbind(-1)


class Bernoulli(Likelihood):
    """Binary pixels, 0 or 1; the output is the logit."""

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Independent Bernoulli pixels."""
        return dist.Bernoulli(logits=outputs).to_event(1)


class Neighbours(Likelihood):
    """Binary pixels given the code and the pixels around them that come before: the output is added to the logit.

    The code need not say what two or three pixels tell of the next, such as how thick a stroke is.

    Args:
        pixels: Pixels of an image.
        width: Pixels from left to right.
        context: How many rows above and columns aside a pixel sees.
        generator: Source of the initial weights; at first neighbours say nothing.

    References:
        Gulrajani, I. et al. (2017). PixelVAE. ICLR. https://arxiv.org/abs/1611.05013
        Chen, X. et al. (2017). Variational lossy autoencoder. ICLR. https://arxiv.org/abs/1611.02731
    """

    units = 16

    def __init__(self, pixels: int, width: int, context: int, generator: torch.Generator) -> None:
        super().__init__(pixels)
        self.width, self.context = width, context
        self.inward = linear(len(offsets(context)), self.units, generator)
        self.outward = nn.Parameter(torch.zeros(self.units))

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Pixels one after the other."""
        inward: Any = self.inward
        return NeighbourBernoulli(outputs, inward.weight, inward.bias, self.outward, self.width, self.context)


class Gaussian(Likelihood):
    """Real pixels; the first output is the mean.

    Args:
        pixels: Pixels of an image.
        scale: ``"shared"``, one learned standard deviation; ``"pixel"``, one for each pixel; or ``"output"``, a function of the code,
            the second output.

    References:
        Rybkin, O., Daniilidis, K., Levine, S. (2021). Simple and effective VAE training with calibrated decoders.
            https://arxiv.org/abs/2006.13202
    """

    def __init__(self, pixels: int, scale: str) -> None:
        super().__init__(pixels)
        self.per_pixel = 2 if scale == "output" else 1
        if scale != "output":
            self.log_scale = nn.Parameter(torch.full((1 if scale == "shared" else pixels,), -1.0))

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Independent normal pixels."""
        mean, *rest = self.parts(outputs)
        raw = rest[0] if rest else self.log_scale
        return dist.Normal(mean, (SMALLEST_SCALE + raw.exp()).expand(mean.shape)).to_event(1)


class DiscretizedLogistic(dist.TorchDistribution):
    r"""A mixture of logistic densities, integrated over each of the grey levels ``0, ..., levels - 1``.

    .. math:: P(x = l) = \sum_k w_k \bigl[ \sigma((l + \tfrac12 - m_k)/s_k) - \sigma((l - \tfrac12 - m_k)/s_k) \bigr]

    where the lowest level has all mass below it as well, and the highest all above: the probabilities sum to 1.

    Args:
        loc: The :math:`m`, in levels, shape ``(..., components)``.
        log_scale: The logarithms of :math:`s`, in levels, same shape.
        log_weight: Logarithms of the weights, normalised, same shape.
        levels: How many grey levels there are.

    References:
        Salimans, T. et al. (2017). PixelCNN++. https://arxiv.org/abs/1701.05517
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self, loc: Tensor, log_scale: Tensor, log_weight: Tensor, levels: int, *, validate_args: bool | None = None
    ) -> None:
        self.loc, self.log_scale, self.log_weight = torch.broadcast_tensors(loc, log_scale, log_weight)
        self.levels = levels
        super().__init__(self.loc.shape[:-1], torch.Size(), validate_args=validate_args)

    @property
    def support(self) -> Any:
        """Whole levels."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        """The same distribution for each element of a batch."""
        shape = torch.Size(batch_shape) + self.loc.shape[-1:]
        loc, log_scale, log_weight = (part.expand(shape) for part in (self.loc, self.log_scale, self.log_weight))
        return DiscretizedLogistic(loc, log_scale, log_weight, self.levels, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of levels, shape ``(...)``."""
        if self._validate_args:
            self._validate_sample(value)
        rate = (-self.log_scale).exp()
        centred = value.unsqueeze(-1) - self.loc
        upper, lower = rate * (centred + 0.5), rate * (centred - 0.5)
        lowest, highest = (value == 0).unsqueeze(-1), (value == self.levels - 1).unsqueeze(-1)
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(-(u - l))), which loses no digits, and u - l = 1/s.
        inner = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-rate))
        each = torch.where(lowest, F.logsigmoid(upper), torch.where(highest, F.logsigmoid(-lower), inner))
        return torch.logsumexp(each + self.log_weight, -1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Levels of shape ``sample_shape + batch_shape``."""
        shape = torch.Size(sample_shape) + self.loc.shape
        tiny = torch.finfo(self.loc.dtype).eps
        # The largest of the log weights with Gumbel noise is that of a component drawn by its weight.
        noise = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(tiny, 1 - tiny)
        chosen = (self.log_weight - torch.log(-torch.log(noise))).argmax(-1, keepdim=True)
        u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(tiny, 1 - tiny)
        drawn = self.loc + self.log_scale.exp() * (u.log() - torch.log1p(-u))
        return drawn.gather(-1, chosen).squeeze(-1).round().clamp(0, self.levels - 1)


class LogisticMixture(Likelihood):
    """Grey levels; for each component the outputs are its location, log scale and, where there are several, log weight.

    Args:
        pixels: Pixels of an image.
        levels: How many grey levels there are.
        components: How many logistic densities are mixed.
    """

    def __init__(self, pixels: int, levels: int, components: int = 1) -> None:
        super().__init__(pixels)
        self.levels, self.components = levels, components
        self.per_pixel = 2 if components == 1 else 3 * components
        # Components start apart, over the middle of the levels.
        self.register_buffer("start", (torch.arange(components) + 0.5) / components - 0.5)

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Independent discretised mixtures."""
        shaped = outputs.reshape(*outputs.shape[:-1], self.pixels, -1, self.components)
        loc, log_scale = shaped[..., 0, :], shaped[..., 1, :]
        log_weight = torch.zeros_like(loc) if self.components == 1 else shaped[..., 2, :].log_softmax(-1)
        half = (self.levels - 1) / 2
        start: Any = self.start
        return DiscretizedLogistic(
            half + 2 * half * (loc + start), log_scale.clamp(-7, 7), log_weight, self.levels
        ).to_event(1)


LIKELIHOODS = ("bernoulli", "neighbours", "gaussian", "logistic", "logistic_mixture")
"""Families of pixels."""

BINARY = ("bernoulli", "neighbours")
"""Those of pixels that are 0 or 1."""

SCALES = ("shared", "pixel", "output")
"""What the scale of a Gaussian pixel may depend on."""


def likelihood(
    name: str, pixels: int, levels: int, generator: torch.Generator, *, width: int, context: int, scale: str = "shared",
    components: int = 5,
) -> Likelihood:  # fmt: skip
    """One of :data:`LIKELIHOODS`.

    Args:
        name: Which.
        pixels: Pixels of an image.
        levels: Grey levels, for the discretised ones.
        generator: Source of initial weights.
        width: Pixels from left to right.
        context: How far a pixel sees, where it sees its neighbours.
        scale: One of :data:`SCALES`, for the Gaussian.
        components: Components of the mixture.
    """
    if name == "bernoulli":
        return Bernoulli(pixels)
    if name == "neighbours":
        return Neighbours(pixels, width, context, generator)
    if name == "gaussian":
        return Gaussian(pixels, scale)
    return LogisticMixture(pixels, levels, components if name == "logistic_mixture" else 1)


def check_pixels(owner: str, name: str, x: Tensor, levels: int) -> None:
    """Refuses images that a likelihood gives no density.

    Args:
        owner: Name of the caller, for the message.
        name: The likelihood.
        x: Images, shape ``(n, pixels)``.
        levels: Grey levels, for the discretised ones.

    Raises:
        DataError: A value lies outside the likelihood's support, or is not finite.
    """
    if name in BINARY:
        bad, wanted = (x != 0) & (x != 1), "0 or 1"
        fix = 'binarise them, for example (x > 0.5), or use likelihood="gaussian"'
    elif name == "gaussian":
        bad, wanted, fix = ~torch.isfinite(x), "finite", "drop or repair these images"
    else:
        bad, wanted = (x < 0) | (x > levels - 1) | (x != x.round()), f"a whole level from 0 to {levels - 1}"
        fix = 'give grey levels, not intensities, and their number as levels=; or use likelihood="gaussian"'
    if not bool(bad.any()):
        return
    row, pixel = (int(i) for i in bad.nonzero()[0])
    raise lvm.DataError(
        f"{owner}: pixel {pixel} of image {row} is {float(x[row, pixel]):g}, and {int(bad.sum()):,} pixels of "
        f"{int(bad.any(1).sum()):,} images are like it; likelihood {name!r} takes values that are {wanted}. Fix: {fix}."
    )
