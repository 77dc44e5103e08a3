"""An encoder network whose Gaussians are refined for each row by some steps of gradient ascent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm import GuideError, Problem
from pyrolvm_guides._checks import at_least, positive
from pyrolvm_guides._joint import EmptyGuide
from pyrolvm_guides._layout import inside
from pyrolvm_guides.amortized import Amortized, encoder_of

__all__ = ["semi_amortized"]


class _SemiAmortized(Amortized):
    def __init__(self, problem: Problem, parts: tuple[Any, ...], steps: int, rate: float, pairs: int) -> None:
        super().__init__(*parts)
        self.steps, self.rate, self.pairs = steps, rate, pairs
        self.__dict__["_model"] = problem.model
        self.learned = tuple(problem.parameters)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        plates = self.layout.open_plates(rows={self.plate: self.features.count(args, kwargs)})
        with plates[self.plate] as indices:
            pass
        if any(name not in pyro.get_param_store() for name in self.learned):
            with poutine.block(), torch.no_grad():  # parameters cannot be made while gradients are taken
                self.__dict__["_model"](*args, **kwargs)
        loc, scale = self.encode(indices, args, kwargs)[:2]
        # What the steps add is held fixed for the gradient: the encoder is then trained where the steps lead, as if it began there.
        shift, stretch = self._refined(loc.detach(), scale.detach(), args, kwargs)
        refined = self.rows(plates, [loc + scale.detach() * shift.detach(), scale * stretch.detach().exp()])
        draw = {}
        for latent in self.layout.latents:
            with inside(plates, latent):
                draw[latent.name] = pyro.sample(latent.name, refined[latent.name])
        return draw

    def _refined(self, loc: Tensor, scale: Tensor, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
        """The shift in units of the encoder's scales, and the log stretch of those, after all steps."""
        noise = torch.randn(self.steps, self.pairs, *loc.shape, dtype=loc.dtype, device=loc.device)
        # Signs have the mean, the variance and the third moment of normal draws, and no noise in their squares: with their opposites
        # they give a Gaussian's bound exactly where the log density is quadratic without cross terms.
        noise = torch.where(noise > 0, 1.0, -1.0).to(loc.dtype)
        noise = torch.cat([noise, -noise], 1)
        step = (torch.zeros_like(loc), torch.zeros_like(loc))

        def bound(step: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
            shift, stretch = step
            total = torch.zeros((), dtype=loc.dtype, device=loc.device)
            for one in noise.unbind(0):
                total = total + self._log_joint(loc + scale * (shift + stretch.exp() * one), args, kwargs)
            return total / (2 * self.pairs) + stretch.sum()

        for k, one in enumerate(noise.unbind(0)):
            gradient = torch.func.grad(bound)(step, one)
            # A bounded step in units of the encoder's scales, so that one rate suits all rows; the last ones settle.
            rate = self.rate * (1 - k / self.steps)
            step = (step[0] + rate * torch.tanh(gradient[0]), step[1] + rate * torch.tanh(gradient[1]))
        return step

    def _log_joint(self, u: Tensor, args: Any, kwargs: Any) -> Tensor:
        """The log joint density of these rows at unconstrained values ``(b, d)``, Jacobians included."""
        values, jacobian = {}, torch.zeros((), dtype=u.dtype, device=u.device)
        local = [latent for latent in self.layout.latents if latent.name in self.local]
        for latent, block in zip(local, u.split(self.sizes, -1), strict=True):
            raw = self._shape(latent, block)
            values[latent.name] = latent.transform(raw)
            jacobian = jacobian + latent.transform.log_abs_det_jacobian(raw, values[latent.name]).sum()
        with poutine.block(), poutine.trace() as traced, poutine.condition(data=values):
            self.__dict__["_model"](*args, **kwargs)
        traced.trace.compute_log_prob()
        # Not scaled to the whole data, which may be others than those that the guide was made for.
        nodes = [node for node in traced.trace.nodes.values() if "unscaled_log_prob" in node]
        terms = [scale_and_mask(node["unscaled_log_prob"], 1.0, node["mask"]).sum() for node in nodes]
        return torch.stack(terms).sum() + jacobian


def semi_amortized(
    problem: Problem,
    *,
    steps: int = 5,
    rate: float = 0.3,
    pairs: int = 1,
    hidden: Sequence[int] = (64, 64),
    network: str = "mlp",
    image: Sequence[int] | None = None,
    plate: str | None = None,
    init_scale: float = 0.1,
    init: Mapping[str, Any] | None = None,
) -> PyroModule:
    r"""An encoder's Gaussian for each row, then some steps of gradient ascent on that row's own evidence bound.

    .. math:: q(z) = \prod_n \mathrm{Normal}\bigl(z_n;\ m_n^{(K)}, \mathrm{diag}\, s_n^{(K)\,2}\bigr), \qquad
        (m_n, \log s_n)^{(k+1)} = (m_n, \log s_n)^{(k)} + \eta_k \tanh \nabla \mathrm{ELBO}_n

    from :math:`(m, s)^{(0)}`, what the encoder says of the row, and in units of :math:`s^{(0)}`. Gradients are of antithetic pairs of
    random signs in place of normal draws, with little noise, so that steps near the optimum are small. It narrows the amortisation
    gap, and keeps codes in use that a strong decoder would ignore while the encoder is poor. Each step costs two gradients of the
    model. The steps are taken for every draw anew, with noise of their own, and their sum is held fixed for the gradient: the encoder
    and the model learn where the steps lead, at first order (the paper differentiates through them). Being random, a row's Gaussian is
    an average over the noise of the steps, so the density that is reported of a draw, which is that given the noise, is an upper bound
    on average of that of the family's mixture: the bound stays a bound.

    *It cannot represent* dependence among the latent variables of a row, or what a Gaussian in unconstrained space is not. All latent
    sites have to be in one plate with data.

    Args:
        problem: the model with its data.
        steps: steps for each row.
        rate: the largest length of the first step, in units of the encoder's scales; that of later ones falls in a line.
        pairs: antithetic pairs of draws of each row for the gradient of a step.
        hidden: sizes of the encoder's hidden layers.
        network: ``"mlp"``, ``"gated"`` or ``"convolutional"``, as in ``amortized``.
        image: height and width of a row, for a convolutional network.
        plate: the plate whose latent variables are encoded; the largest one with latent sites and data if not given.
        init_scale: the initial standard deviation of every unknown.
        init: constrained values to start at, by site name.

    Returns:
        A guide called like the model.

    Raises:
        ArgumentError: if an option is out of range.
        GuideError: if a latent site is outside the plate, or no plate has both latent sites and data.

    References:
        Kim, Wiseman, Miller, Sontag, Rush, *Semi-Amortized Variational Autoencoders*, https://arxiv.org/abs/1802.02550
    """
    at_least("steps", steps)
    at_least("pairs", pairs)
    positive("rate", rate)
    parts = encoder_of(
        problem, "semi_amortized", hidden=hidden, global_family="mean_field", plate=plate, posterior="diagonal", transforms=1,
        components=None, network=network, image=image, init_scale=init_scale, init=init,
    )  # fmt: skip
    if parts is None:
        return EmptyGuide("semi_amortized")
    layout, chosen = parts[:2]
    outside = [latent.name for latent in layout.latents if chosen not in latent.plates]
    if outside or problem.discrete:
        name = outside[0] if outside else problem.discrete[0].name
        raise GuideError(
            f"guide 'semi_amortized' refines rows of plate {chosen!r} one by one, and site {name!r} is "
            f'{"outside it" if outside else "discrete"}, so rows have no bound of their own. Fix: use guide="amortized".'
        )
    return _SemiAmortized(problem, parts, steps, rate, pairs)
