"""A mixture of Gaussians over all latent variables."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, pi
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.score_parts import ScoreParts
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm import Problem
from pyrolvm_guides._checks import at_least, positive
from pyrolvm_guides._frame import wants_frame
from pyrolvm_guides._joint import EmptyGuide, JointGuide
from pyrolvm_guides._layout import Layout
from pyrolvm_guides._params import learnable, learnable_positive
from pyrolvm_guides._reading import read_layout

__all__ = ["GaussianMixture", "mixture"]

MAX_TRIANGULAR = 200


class GaussianMixture(dist.TorchDistribution):
    r"""Gaussians :math:`\mathrm{Normal}(m_k, L_k L_k^\top)` with weights :math:`w_k`; the density is the marginal one.

    Draws are differentiable in :math:`m_k, L_k`, for a component picked without gradient, which makes their gradients
    exact. The gradient with respect to the weights needs the score function: :meth:`score_parts` gives it the way Pyro
    asks for it, and in the density of its own draws the weights are constants (their gradient has mean zero there).

    Args:
        logits: unnormalised log weights, shape ``(k,)``.
        loc: shape ``(k, d)``.
        scale: shape ``(k, d)``, positive.
        tril: unit lower triangular factors, shape ``(k, d, d)``, or ``None`` for the identity;
            :math:`L_k = \mathrm{diag}(s_k)\, T_k`.
        batch_shape: independent copies.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        tril: Tensor | None,
        batch_shape: torch.Size | tuple[int, ...] = (),
    ) -> None:
        self.logits, self.loc, self.scale, self.tril = logits, loc, scale, tril
        self._drawn: Tensor | None = None
        super().__init__(torch.Size(batch_shape), loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GaussianMixture:
        """The same law for another number of independent copies."""
        return GaussianMixture(self.logits, self.loc, self.scale, self.tril, batch_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        """Draws ``(*sample_shape, *batch_shape, d)``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        noise = torch.randn(shape + self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
        uniform = torch.rand((*shape, len(self.logits)), dtype=self.loc.dtype, device=self.loc.device)
        tiny = torch.finfo(self.loc.dtype).tiny
        gumbel = -torch.log((-torch.log(uniform.clamp(min=tiny))).clamp(min=tiny))
        picked = (self.logits.detach() + gumbel).argmax(-1, keepdim=True)
        chosen = (picked == torch.arange(len(self.logits), device=self.loc.device)).to(self.loc.dtype)
        turned = noise if self.tril is None else torch.einsum("...k,kij,...j->...i", chosen, self.tril, noise)
        draw = chosen @ self.loc + (chosen @ self.scale) * turned
        self._drawn = draw
        return draw

    def log_prob(self, value: Tensor) -> Tensor:
        """The exact marginal log density, shape ``(...)`` for values of shape ``(..., d)``."""
        logits = self.logits.detach() if value is self._drawn else self.logits
        return (logits.log_softmax(-1) + self._component_log_prob(value)).logsumexp(-1)

    def score_parts(self, x: Tensor, *args: Any, **kwargs: Any) -> ScoreParts:
        """The density of a draw, and the score function term through which the weights learn."""
        log_prob = (self.logits.detach().log_softmax(-1) + self._component_log_prob(x)).logsumexp(-1)
        parts = self._component_log_prob(x).detach()
        score = (self.logits.log_softmax(-1) + parts).logsumexp(-1)
        return ScoreParts(log_prob, score, log_prob)

    def _component_log_prob(self, value: Tensor) -> Tensor:
        """Log densities of every component, shape ``(..., k)``."""
        noise = (value[..., None, :] - self.loc) / self.scale
        if self.tril is not None:
            columns = noise[..., None]
            noise = torch.linalg.solve_triangular(self.tril, columns, upper=False, unitriangular=True)[..., 0]
        dim = value.shape[-1]
        return -0.5 * (noise * noise).sum(-1) - self.scale.log().sum(-1) - 0.5 * dim * log(2 * pi)


class _Mixture(JointGuide):
    def __init__(
        self, layout: Layout, init_scale: float, framed: Problem | None, components: int, init_spread: float
    ) -> None:
        super().__init__("mixture", layout, init_scale, framed)
        start, dim = self.start, layout.size
        away = torch.randn(components, dim, dtype=start.dtype, device=start.device)
        away = (away - away.mean(0)) * (init_spread * self.spread.clamp(max=2.0))
        self.logits = learnable(start.new_zeros(components))
        self.loc = learnable(start + away)
        self.scale = learnable_positive(torch.full_like(away, self.initial_scale))
        self.triangular = 1 < dim <= MAX_TRIANGULAR
        if self.triangular:
            self.tril = learnable(start.new_zeros(components, dim, dim))
            self.register_buffer("lower", start.new_ones(dim, dim).tril(-1))
            self.register_buffer("unit", torch.eye(dim, dtype=start.dtype, device=start.device))

    def posterior(self) -> dist.TorchDistribution:
        tril = self.tril * self.lower + self.unit if self.triangular else None
        return GaussianMixture(self.logits, self.loc, self.scale, tril)


def mixture(
    problem: Problem,
    *,
    components: int = 4,
    init_spread: float = 1.0,
    init_scale: float = 0.1,
    precondition: str = "auto",
    init: Mapping[str, Any] | None = None,
) -> PyroModule:
    r"""A mixture of Gaussians with full covariances over all latent variables in unconstrained space.

    .. math:: q(z) = \sum_{k=1}^K w_k \, \mathrm{Normal}(z;\ m_k,\ L_k L_k^\top)

    The log density is that of the mixture, not of the draw together with its component. Locations and covariances
    learn by reparametrised gradients; the weights learn by the score function, as Pyro's ``score_parts`` states it.
    Covariances are diagonal beyond 200 unknowns. Components start apart by the spread of the prior.

    *It cannot represent* tails heavier than a Gaussian's, nor more modes than components. The objective is content
    with some of the modes: components that start far from a mode seldom find it, so raise ``init_spread`` or
    ``components`` where several are expected. It refuses minibatches of latent plates.

    Args:
        problem: the model with its data.
        components: the number of Gaussians :math:`K`.
        init_spread: how far apart locations start, in prior standard deviations (at most 2 units each).
        init_scale: the initial standard deviation of every component.
        precondition: ``"frame"`` trains in coordinates in which the posterior is nearly standard normal, found by ascents and
            natural gradients before the first step; ``"none"`` in plain unconstrained space; ``"auto"`` takes the frame up to
            500 unknowns (that of a sample of rows beyond 50,000 observed numbers), unless ``init`` says where to start or the
            model has parameters.
        init: constrained values to start around, by site name; other sites start around their prior median.

    Returns:
        A guide called like the model.

    Raises:
        ArgumentError: if an option is out of range.
        GuideError: if the model subsamples a plate of latent sites.

    References:
        Jaakkola and Jordan, *Improving the Mean Field Approximation via the Use of Mixture Distributions*, 1998;
        Morningstar et al., *Automatic Differentiation Variational Inference with Mixtures*,
        https://arxiv.org/abs/2003.01687
    """
    count = at_least("components", components)
    spread = positive("init_spread", init_spread)
    scale = positive("init_scale", init_scale)
    layout = read_layout(problem, init=init)
    framed = problem if wants_frame(precondition, problem, init) else None
    return _Mixture(layout, scale, framed, count, spread) if layout.latents else EmptyGuide("mixture")
