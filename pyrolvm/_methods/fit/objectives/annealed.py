"""The ELBO with its divergence weighted: beta, annealing over steps, and free bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, GuideError, positive_int
from pyrolvm._methods.fit.objectives.base import PureELBO, lanes, log_q_and_score, surrogate, traces
from pyrolvm._methods.fit.objectives.particles import analytic_kl, factorises
from pyrolvm._methods.fit.objectives.structure import sites
from pyrolvm._program.batching import Batch
from pyrolvm._program.traces import Trace

__all__ = ["Beta_ELBO", "Warmup"]


@dataclass(frozen=True)
class Warmup:
    """A weight that rises in a line from ``start`` to ``end`` over ``steps`` steps and stays there; ``cycles`` times from anew.

    A cycle rises over its first half, and rests over its second one, where there are several.

    References:
        Bowman et al., Generating Sentences from a Continuous Space, https://arxiv.org/abs/1511.06349
        Fu et al., Cyclical Annealing Schedule, https://arxiv.org/abs/1903.10145
    """

    steps: int
    start: float = 0.0
    end: float = 1.0
    cycles: int = 1

    def __post_init__(self) -> None:
        positive_int("steps", self.steps)
        positive_int("cycles", self.cycles)

    def __call__(self, step: Tensor) -> Tensor:
        """The weight at a step, both of shape ``()``."""
        share = step / self.steps
        if self.cycles > 1:
            turns = (share * self.cycles).clamp(max=float(self.cycles))
            share = torch.where(turns < self.cycles, 2 * (turns - turns.floor()), torch.ones_like(turns))
        return self.start + (self.end - self.start) * share.clamp(0.0, 1.0)


class Beta_ELBO(PureELBO):
    r"""The ELBO with a weight on the divergence from the prior, and a floor under each unit's.

    .. math:: \mathbb{E}_q \log p(x \mid z) - \beta \sum_j N \max\Bigl(\lambda, \frac1N \sum_n \mathrm{KL}_{nj}\Bigr)

    for units j of the latent sites and rows n of their plates. It is a lower bound of the evidence for beta >= 1, and of nothing for
    beta < 1; where beta ends at 1, as in an annealing, the end is the ELBO. A floor keeps a unit from being switched off: up to
    :math:`\lambda` nats of it are free, since they cost what nothing costs. With rows in minibatches the mean is that of the batch.

    Divergences are analytic, unit by unit, where the guide factorises over sites and torch knows them; elsewhere they are estimated by
    the draw, and a unit is an event of a site.

    Args:
        num_particles: draws a step.
        beta: a number; or a function of the step, a tensor of shape ``()``, to one, such as :class:`Warmup`.
        free_bits: the floor in nats for each unit.
        max_plate_nesting: as for Pyro's.
        vectorize: whether to make the draws at once by ``vmap``.

    Raises:
        ArgumentError: if a number is negative.

    References:
        Higgins et al., beta-VAE, https://openreview.net/forum?id=Sy2fzU9gl
        Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, https://arxiv.org/abs/1606.04934
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        beta: float | Callable[[Tensor], Tensor] = 1.0,
        free_bits: float = 0.0,
        max_plate_nesting: int = 0,
        vectorize: bool = True,
    ) -> None:
        count = positive_int("num_particles", num_particles)
        super().__init__(num_particles=count, max_plate_nesting=max_plate_nesting, vectorize=vectorize)
        for name, value in (("beta", beta), ("free_bits", free_bits)):
            if callable(value):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                fix = "Fix: pass a number of at least zero" + (", or lvm.Warmup(steps)." if name == "beta" else ".")
                raise ArgumentError(f"{name} must be a finite number of at least zero, got {value!r}. {fix}")
        self.beta, self.free_bits = beta, float(free_bits)
        if callable(beta):
            self.clock = torch.zeros(())
        self._read: tuple[object, object, bool] | None = None

    def about(self, model: Callable[..., object], guide: Callable[..., object], batch: Batch) -> str:
        """The weight and the floor."""
        with batch.active():
            analytic = self._factorises(model, guide, batch.args, batch.kwargs)
        weight = f"{self.beta:g}" if isinstance(self.beta, int | float) else str(self.beta)
        kind = "analytic where known" if analytic else "by the draw"
        floor = f", at least {self.free_bits:g} nats a unit" if self.free_bits else ""
        return f"{type(self).__name__}: divergence {kind}, weighted by {weight}{floor}"

    def weight(self) -> float | Tensor:
        """Beta at this step."""
        if not callable(self.beta):
            return self.beta
        assert self.clock is not None
        return self.beta(self.clock)

    def particles(
        self, model: Callable[..., object], guide: Callable[..., object], *args: Any, **kwargs: Any
    ) -> Tensor:
        """One estimate a draw. Shape ``(num_particles,)``."""
        analytic = self._factorises(model, guide, args, kwargs)
        counts: dict[str, object] = {}

        def one() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            model_trace, guide_trace = traces(model, guide, args, kwargs)
            model_trace.compute_log_prob()
            _, score = log_q_and_score(guide_trace)
            observed = [node["log_prob_sum"] for _, node in sites(model_trace) if node["is_observed"]]
            units: dict[str, Tensor] = {}
            for name, node in sites(guide_trace):
                units[name], counts[name] = _divergence(name, node, model_trace, analytic)
            likelihood = (
                torch.stack([torch.as_tensor(term) for term in observed]).sum() if observed else torch.zeros(())
            )
            return likelihood, score, units

        values, scores, units = lanes(one, self.num_particles, self.vectorize, guide=guide)
        beta = self.weight()
        for name, kl in units.items():
            if self.free_bits:
                kl = torch.where(kl.mean(0) > self.free_bits, kl, torch.full_like(kl, self.free_bits))
            values = values - beta * (counts[name] * kl).sum(-1)
        if not scores.requires_grad:
            return torch.as_tensor(values)
        total = len(values)
        others = (values.sum() - values) / (total - 1) if total > 1 else torch.zeros_like(values)
        return surrogate(values, scores * (values - others).detach())

    def _factorises(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> bool:
        """Whether divergences may be analytic; read from one run, and remembered while model and guide are the same objects."""
        known = self._read
        if known is None or known[0] is not model or known[1] is not guide:
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                model_trace, guide_trace = traces(model, guide, args, kwargs)
                apart = factorises(guide_trace)
            extra = [name for name, _ in sites(guide_trace) if name not in model_trace.nodes]
            if extra and self.free_bits:
                raise GuideError(
                    f"free_bits is a floor under the divergence of each site, and guide site {extra[0]!r} is none of the model's. "
                    "Fix: use a guide that samples the model's sites from distributions of their own, such as mean_field or amortized."
                )
            known = (model, guide, apart)
            self._read = known
        return known[2]


def _divergence(name: str, node: Mapping[str, Any], model_trace: Trace, analytic: bool) -> tuple[Tensor, Any]:
    """The mean divergence of each unit of a site over its rows, and how many rows a unit stands for."""
    q, partner = node["fn"], model_trace.nodes.get(name)
    term: Tensor | None = None
    deep = 0
    if analytic and partner is not None:
        p = partner["fn"]
        a, b, deep = _unwrapped(q, p)
        term = analytic_kl(a, b)
        if term is None:
            term, deep = analytic_kl(q, p), 0
    if term is None:
        deep = 0
        term = torch.as_tensor(q.log_prob(node["value"]))
        if partner is not None:
            term = term - partner["fn"].log_prob(node["value"])
    batch = term.shape[: term.dim() - deep]
    mask, rows = node["mask"], float(math.prod(batch))
    if mask is not None and not isinstance(mask, bool):
        spread = mask.expand(batch)
        term = scale_and_mask(term, 1.0, spread.reshape(*batch, *[1] * deep))
        return term.reshape(-1, *term.shape[len(batch) :]).sum(0).reshape(-1) / rows, node["scale"] * rows
    return term.reshape(-1, *term.shape[len(batch) :]).mean(0).reshape(-1), node["scale"] * rows


def _unwrapped(q: object, p: object) -> tuple[object, object, int]:
    """Both without what makes units into events, where that is the same in both."""
    deep = 0
    independent = torch.distributions.Independent
    while isinstance(q, independent) and isinstance(p, independent):
        if q.reinterpreted_batch_ndims != p.reinterpreted_batch_ndims:
            break
        deep += q.reinterpreted_batch_ndims
        q, p = q.base_dist, p.base_dist
    if any(isinstance(fn, dist.MaskedDistribution) for fn in (q, p)):
        return q, p, 0
    return q, p, deep
