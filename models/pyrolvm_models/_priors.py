"""Priors of codes: the standard normal one, and learned ones that follow where the encoder puts the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor, nn

from pyrolvm_models._nets import dense, initialised

__all__ = ["PRIORS", "Autoregressive", "Flow", "MaskedNetwork", "Mixture", "Prior", "Standard", "Vamp", "prior"]

PRIORS = ("standard", "mixture", "vamp", "flow", "autoregressive")
"""Families of densities of codes."""

LOG_SCALE = 3.0
"""Bound on the log scale of one layer of a flow."""


class Prior(nn.Module):
    """A density of codes, learned or not.

    Args:
        latent: Dimensions of a code.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent

    def forward(self) -> dist.TorchDistribution:
        """The distribution of a code, event shape ``(latent,)``."""
        raise NotImplementedError


class Standard(Prior):
    """Independent standard normal dimensions."""

    def forward(self) -> dist.TorchDistribution:
        """``Normal(0, I)``."""
        return dist.Normal(0.0, 1.0).expand([self.latent]).to_event(1)


class GaussianMixture(dist.TorchDistribution):
    """A mixture of diagonal Gaussians, of which draws are not differentiable: those of a prior need not be.

    Args:
        log_weight: Logarithms of the weights, normalised, shape ``(k,)``.
        loc: Locations, shape ``(k, d)``.
        scale: Standard deviations, shape ``(k, d)``.
        batch_shape: Independent copies.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, log_weight: Tensor, loc: Tensor, scale: Tensor, batch_shape: Any = ()) -> None:
        self.log_weight, self.loc, self.scale = log_weight, loc, scale
        super().__init__(torch.Size(batch_shape), loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GaussianMixture:
        """The same law for another number of independent copies."""
        return GaussianMixture(self.log_weight, self.loc, self.scale, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of vectors ``(..., d)``, shape ``(...)``."""
        away = (value.unsqueeze(-2) - self.loc) / self.scale
        each = -0.5 * (away * away).sum(-1) - self.scale.log().sum(-1) - 0.5 * value.shape[-1] * math.log(2 * math.pi)
        return torch.logsumexp(each + self.log_weight, -1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Vectors of shape ``sample_shape + batch_shape + (d,)``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        like: Any = {"dtype": self.loc.dtype, "device": self.loc.device}
        tiny = torch.finfo(self.loc.dtype).eps
        # The largest of the log weights with Gumbel noise is that of a component drawn by its weight.
        noise = torch.rand((*shape, len(self.loc)), **like).clamp(tiny, 1 - tiny)
        chosen = (self.log_weight - torch.log(-torch.log(noise))).argmax(-1)
        return self.loc[chosen] + self.scale[chosen] * torch.randn(shape + self.event_shape, **like)


class Mixture(Prior):
    """A mixture of diagonal Gaussians, all learned.

    Args:
        latent: Dimensions of a code.
        components: Gaussians.
        generator: Source of the initial locations, which are standard normal.
    """

    def __init__(self, latent: int, components: int, generator: torch.Generator) -> None:
        super().__init__(latent)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent, generator=generator))
        self.log_scale = nn.Parameter(torch.zeros(components, latent))

    def forward(self) -> dist.TorchDistribution:
        """The mixture."""
        return GaussianMixture(self.logits.log_softmax(-1), self.loc, self.log_scale.exp())


class Vamp(Prior):
    r"""The variational mixture of posteriors: what the encoder says of learned pseudo-inputs.

    .. math:: p(z) = \tfrac1K \sum_k q_\phi(z \mid u_k)

    Args:
        latent: Dimensions of a code.
        encoder: The network of the guide, from images to location and log scale; it is shared.
        start: The pseudo-inputs at first, shape ``(k, pixels)``: some of the images.

    References:
        Tomczak, J., Welling, M. (2018). VAE with a VampPrior. AISTATS. https://arxiv.org/abs/1705.07120
    """

    def __init__(self, latent: int, encoder: nn.Module, start: Tensor) -> None:
        super().__init__(latent)
        self.encoder = encoder
        self.pseudo_inputs = nn.Parameter(start.detach().clone())

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of codes of images ``(..., pixels)``, each ``(..., latent)``."""
        loc, raw = self.encoder(x).chunk(2, -1)
        return loc, F.softplus(raw) + 1e-4

    def forward(self) -> dist.TorchDistribution:
        """The mixture over pseudo-inputs."""
        loc, scale = self.encode(self.pseudo_inputs)
        return GaussianMixture(loc.new_full((len(loc),), -math.log(len(loc))), loc, scale)


class FromNoise(dist.TorchDistribution):
    """The law of the image of standard normal noise under a bijection that is scored backwards.

    Args:
        bijection: Has ``to_noise(z)``, which returns noise and the log determinant of that map, and ``from_noise(noise)``.
        latent: Dimensions.
        batch_shape: Independent copies.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, bijection: Any, latent: int, like: Tensor, batch_shape: Any = ()) -> None:
        self.bijection, self.like = bijection, like
        super().__init__(torch.Size(batch_shape), torch.Size((latent,)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FromNoise:
        """The same law for another number of independent copies."""
        return FromNoise(self.bijection, self.event_shape[0], self.like, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """The exact log density, shape ``(...)``."""
        noise, log_det = self.bijection.to_noise(value)
        normal: Tensor = dist.Normal(torch.zeros_like(noise), 1.0).log_prob(noise).sum(-1)
        return normal + log_det

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Codes of shape ``sample_shape + batch_shape + (latent,)``."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        noise = torch.randn(shape, dtype=self.like.dtype, device=self.like.device)
        codes: Tensor = self.bijection.from_noise(noise)
        return codes


class MaskedNetwork(nn.Module):
    """A perceptron of one hidden layer whose outputs for coordinate ``i`` see coordinates before ``i`` alone.

    Args:
        size: Coordinates.
        hidden: Hidden units.
        outputs: Outputs of each coordinate, side by side.
        generator: Source of the initial weights; those of the last layer are small.

    References:
        Germain, M. et al. (2015). MADE. ICML. https://arxiv.org/abs/1502.03509
    """

    def __init__(self, size: int, hidden: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.outputs = outputs
        self.first = initialised(nn.utils.skip_init(nn.Linear, size, hidden), size, generator)
        self.last = initialised(nn.utils.skip_init(nn.Linear, hidden, size * outputs), hidden, generator, 0.1)
        degree = torch.arange(hidden) % max(size - 1, 1)
        place = torch.arange(size)
        self.register_buffer("see", (degree[:, None] >= place[None, :]).to(torch.get_default_dtype()))
        given = place.repeat_interleave(outputs)
        self.register_buffer("tell", (given[:, None] > degree[None, :]).to(torch.get_default_dtype()))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., size)`` to ``(..., size, outputs)``."""
        first, last, see, tell = (getattr(self, name) for name in ("first", "last", "see", "tell"))
        units = torch.tanh(F.linear(x, first.weight * see, first.bias))
        out: Tensor = F.linear(units, last.weight * tell, last.bias)
        return out.reshape(*x.shape, self.outputs)


class Autoregressive(Prior):
    r"""Each dimension is Gaussian given those before it: :math:`z_i \sim N(m_i(z_{<i}), e^{2 a_i(z_{<i})})`.

    Layers of it, in turns forwards and backwards, are a masked autoregressive flow. Densities take one pass, draws ``latent`` ones.

    Args:
        latent: Dimensions of a code.
        layers: How many of them.
        hidden: Hidden units of each network.
        generator: Source of the initial weights.

    References:
        Papamakarios, G., Pavlakou, T., Murray, I. (2017). Masked autoregressive flow. https://arxiv.org/abs/1705.07057
        Chen, X. et al. (2017). Variational lossy autoencoder. ICLR. https://arxiv.org/abs/1611.02731
    """

    def __init__(self, latent: int, layers: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__(latent)
        self.layers = nn.ModuleList([MaskedNetwork(latent, hidden, 2, generator) for _ in range(layers)])

    def to_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Noise of codes, and the log determinant of that map."""
        total = z.new_zeros(z.shape[:-1])
        for layer in self.layers:
            shift, log_scale = _shift_and_log_scale(layer(z))
            z = ((z - shift) * (-log_scale).exp()).flip(-1)
            total = total - log_scale.sum(-1)
        return z, total

    def from_noise(self, noise: Tensor) -> Tensor:
        """Codes of noise."""
        for layer in reversed(list(self.layers)):
            noise = noise.flip(-1)
            z = noise
            for _ in range(self.latent):  # after pass i the first i dimensions are exact
                shift, log_scale = _shift_and_log_scale(layer(z))
                z = shift + log_scale.exp() * noise
            noise = z
        return noise

    def forward(self) -> dist.TorchDistribution:
        """The law of codes."""
        return FromNoise(self, self.latent, next(self.parameters()))


class Flow(Prior):
    """RealNVP: layers that scale and shift one half of the dimensions by functions of the other half.

    Densities and draws take one pass.

    Args:
        latent: Dimensions of a code, at least 2.
        layers: How many.
        hidden: Hidden units of each network.
        generator: Source of the initial weights.

    References:
        Dinh, L., Sohl-Dickstein, J., Bengio, S. (2017). Density estimation using Real NVP. ICLR. https://arxiv.org/abs/1605.08803
        Huang, C.-W. et al. (2017). Learnable explicit density for continuous latent space. https://arxiv.org/abs/1710.02248
    """

    def __init__(self, latent: int, layers: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__(latent)
        self.cut = latent // 2
        kept = [self.cut if i % 2 == 0 else latent - self.cut for i in range(layers)]
        self.layers = nn.ModuleList(
            [dense(n, [hidden], 2 * (latent - n), generator, gain=0.1) for n in kept],
        )

    def _halves(self, i: int, z: Tensor) -> tuple[Tensor, Tensor]:
        first, second = z[..., : self.cut], z[..., self.cut :]
        return (first, second) if i % 2 == 0 else (second, first)

    @staticmethod
    def _joined(i: int, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([kept, moved] if i % 2 == 0 else [moved, kept], -1)

    def to_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Noise of codes, and the log determinant of that map."""
        total = z.new_zeros(z.shape[:-1])
        for i, layer in enumerate(self.layers):
            kept, moved = self._halves(i, z)
            shift, log_scale = _shift_and_log_scale(layer(kept).reshape(*moved.shape, 2))
            z = self._joined(i, kept, (moved - shift) * (-log_scale).exp())
            total = total - log_scale.sum(-1)
        return z, total

    def from_noise(self, noise: Tensor) -> Tensor:
        """Codes of noise."""
        for i, layer in reversed(list(enumerate(self.layers))):
            kept, moved = self._halves(i, noise)
            shift, log_scale = _shift_and_log_scale(layer(kept).reshape(*moved.shape, 2))
            noise = self._joined(i, kept, shift + log_scale.exp() * moved)
        return noise

    def forward(self) -> dist.TorchDistribution:
        """The law of codes."""
        return FromNoise(self, self.latent, next(self.parameters()))


def _shift_and_log_scale(out: Tensor) -> tuple[Tensor, Tensor]:
    shift, raw = out.unbind(-1)
    return shift, LOG_SCALE * torch.tanh(raw / LOG_SCALE)


def prior(
    name: str, latent: int, *, components: int, layers: int, hidden: Sequence[int], generator: torch.Generator
) -> Prior:
    """One of :data:`PRIORS` but ``"vamp"``, which needs the encoder.

    Args:
        name: Which.
        latent: Dimensions of a code.
        components: Gaussians of a mixture.
        layers: Layers of a flow.
        hidden: Hidden units of its networks.
        generator: Source of initial weights.
    """
    if name == "mixture":
        return Mixture(latent, components, generator)
    if name == "flow":
        return Flow(latent, layers, max(hidden), generator)
    if name == "autoregressive":
        return Autoregressive(latent, layers, max(hidden), generator)
    return Standard(latent)
