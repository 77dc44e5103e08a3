"""Objectives: Pyro's ELBOs, with all particles in one vectorised run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import config_enumerate
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from torch import Tensor
from torch.distributions import kl_divergence

from pyrolvm._base.errors import unknown_name
from pyrolvm._compat.pyro import enumerated_run, is_enumerated, packed_dims, symbol, with_packed_dims
from pyrolvm._methods.fit.objectives.base import (
    PureELBO,
    held_run,
    lanes,
    log_prob_sum,
    log_q_and_score,
    surrogate,
    traces,
)
from pyrolvm._program.agreement import guide_sites
from pyrolvm._program.sites import is_deterministic, is_random
from pyrolvm._program.traces import Trace

__all__ = ["NAMES", "ParticleELBO", "analytic_kl", "factorises"]

NAMES = ("Trace_ELBO", "TraceMeanField_ELBO", "TraceEnum_ELBO", "StickingTheLanding_ELBO")


class ParticleELBO(PureELBO):
    """The reparameterised ELBO of Pyro's ``Trace_ELBO`` family, its particles run at once by ``torch.func.vmap``.

    ELBO = E_q[log p(x, z) - log q(z)], estimated by ``num_particles`` draws z ~ q. Unlike Pyro's
    ``vectorize_particles=True`` it asks nothing of the model's broadcasting; unlike Pyro's loop, sixteen particles cost
    about as much as one. A model that vmap cannot run is looped over.

    Args:
        kind: ``"Trace_ELBO"``; ``"TraceMeanField_ELBO"``, which replaces the draw's log p(z) - log q(z) by the analytic
            -KL(q || p) at every site where one is registered (valid if the guide factorises over sites);
            ``"TraceEnum_ELBO"``, which sums out discrete latents that the guide leaves to the model, and sums over those that the
            guide marks ``infer={"enumerate": "parallel"}``, weighed by their probability; or
            ``"StickingTheLanding_ELBO"``: ``Trace_ELBO`` whose gradient leaves out the guide's score, which is zero on average.
            What is left has no noise where the guide is the posterior. A guide must score values that it did not draw, which
            takes autoregressive ones as many passes as there are unknowns.
        num_particles: draws per step.
        max_plate_nesting: the deepest plate of the model, for enumeration.
        vectorize: whether to use vmap.

    References:
        Kingma and Welling, Auto-Encoding Variational Bayes, https://arxiv.org/abs/1312.6114
        Kucukelbir et al., Automatic Differentiation Variational Inference, https://arxiv.org/abs/1603.00788
        Roeder, Wu, Duvenaud, Sticking the Landing, https://arxiv.org/abs/1703.09194
    """

    def __init__(
        self, kind: str = "Trace_ELBO", *, num_particles: int = 1, max_plate_nesting: int = 0, vectorize: bool = True
    ) -> None:
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting, vectorize=vectorize)
        if kind not in NAMES:
            raise unknown_name("objective", kind, NAMES)
        self.kind = kind
        self._particle = {
            "Trace_ELBO": _trace_elbo,
            "TraceMeanField_ELBO": _mean_field_elbo,
            "TraceEnum_ELBO": self._enumerated_elbo,
            "StickingTheLanding_ELBO": _path_elbo,
        }[kind]

    def particles(
        self, model: Callable[..., object], guide: Callable[..., object], *args: Any, **kwargs: Any
    ) -> Tensor:
        """ELBO estimates, one a particle, differentiable. Shape ``(num_particles,)``.

        Where a guide's density declares a score-function term (the weights of a mixture), its gradient is added with
        the mean of the other particles as its baseline.
        """

        def one() -> tuple[Tensor, Tensor]:
            return self._particle(model, guide, args, kwargs)

        values, scores = lanes(one, self.num_particles, self.vectorize, guide=guide)
        if not scores.requires_grad:
            return torch.as_tensor(values)
        count = len(values)
        others = (values.sum() - values) / (count - 1) if count > 1 else torch.zeros_like(values)
        return surrogate(values, scores * (values - others).detach())

    def _enumerated_elbo(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> tuple[Tensor, Tensor]:
        # This is what Pyro's ELBO does before each run: dimensions left of the plates belong to enumeration, the guide's first.
        summed = poutine.enum(guide, first_available_dim=-1 - self.max_plate_nesting)
        enumerated = poutine.enum(config_enumerate(model, "parallel"))
        run = enumerated_run(enumerated, summed, args, kwargs, max_plate_nesting=self.max_plate_nesting)
        terms = [term for found in run.plain.values() for term in found]
        for found in contract_tensor_tree(run.factors, run.sum_dims).values() if run.factors else ():
            terms += [packed.scale_and_mask(term, scale=run.scale) for term in found]
        weights = _weights(run.guide)
        if weights:
            terms += [packed.neg(node["packed"]["log_prob"]) for node in run.guide.nodes.values() if is_random(node)]
            elbo = torch.stack([_expected(term, weights) for term in terms]).sum()
            return elbo, torch.zeros_like(elbo)
        log_q, score = log_q_and_score(run.guide)
        return torch.stack([torch.as_tensor(term).sum() for term in terms]).sum() - log_q, score


def _weights(guide_trace: Trace) -> dict[str, Any]:
    """The probability of each value of the sites that the guide sums over, packed, by the name of the value's dimension."""
    found = {}
    for node in guide_trace.nodes.values():
        if is_random(node) and is_enumerated(node):
            log_prob = node["packed"]["unscaled_log_prob"]
            found[symbol(node)] = with_packed_dims(log_prob.exp(), packed_dims(log_prob))
    return found


def _expected(term: Any, weights: Mapping[str, Any]) -> Tensor:
    """The sum of a packed term, each value of a dimension that is summed over weighed by its probability."""
    dims = packed_dims(term)
    chosen: dict[str, Any] = {}
    while wanted := set(dims).union(*(packed_dims(w) for w in chosen.values())) & (weights.keys() - chosen.keys()):
        chosen |= {name: weights[name] for name in wanted}
    if not chosen:
        return torch.as_tensor(term.sum())
    inputs = ",".join([dims, *(packed_dims(weight) for weight in chosen.values())])
    return torch.einsum(f"{inputs}->", term, *chosen.values())


def _trace_elbo(
    model: Callable[..., object], guide: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> tuple[Tensor, Tensor]:
    model_trace, guide_trace = traces(model, guide, args, kwargs)
    log_q, score = log_q_and_score(guide_trace)
    return log_prob_sum(model_trace) - log_q, score


def _path_elbo(
    model: Callable[..., object], guide: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> tuple[Tensor, Tensor]:
    model_trace, drawn = traces(model, guide, args, kwargs)
    log_q, score = log_q_and_score(held_run(guide, drawn, args, kwargs))
    return log_prob_sum(model_trace) - log_q, torch.zeros_like(score)


def _mean_field_elbo(
    model: Callable[..., object], guide: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> tuple[Tensor, Tensor]:
    model_trace, guide_trace = traces(model, guide, args, kwargs)
    model_trace.compute_log_prob()
    _, score = log_q_and_score(guide_trace)
    elbo: Tensor | float = 0.0
    for name, node in model_trace.nodes.items():
        if not is_random(node) or is_deterministic(node):
            continue
        partner = guide_trace.nodes.get(name)
        if partner is None or node["is_observed"]:
            elbo = elbo + node["log_prob_sum"]
            continue
        kl = analytic_kl(partner["fn"], node["fn"])
        if kl is None:
            elbo = elbo + node["log_prob_sum"] - partner["log_prob_sum"]
        else:
            elbo = elbo - torch.as_tensor(scale_and_mask(kl, partner["scale"], partner["mask"])).sum()
    for name, node in guide_trace.nodes.items():
        if is_random(node) and name not in model_trace.nodes:
            elbo = elbo - node["log_prob_sum"]
    return torch.as_tensor(elbo), score


def analytic_kl(q: Any, p: Any) -> Tensor | None:
    """KL(q || p) where torch or Pyro know it in closed form.

    That of a q without an edge where p has one is infinite, though q may have no mass beyond it: draws tell.
    """
    if "Delta" in type(q).__name__ or _lacks_an_edge(q, p):
        return None
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _lacks_an_edge(q: Any, p: Any) -> bool:
    """Whether the support of p ends somewhere on a side on which that of q does not; by their kinds, not their values."""
    try:
        supports = [_inner(fn.support) for fn in (q, p)]
    except (NotImplementedError, AttributeError):
        return False
    return any(hasattr(supports[1], edge) and not hasattr(supports[0], edge) for edge in ("lower_bound", "upper_bound"))


def _inner(support: object) -> object:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def factorises(trace: Trace) -> bool:
    """Whether no guide site's distribution depends on the draw of another: each density is blind to the other draws."""
    nodes = {name: node for name, node in trace.nodes.items() if is_random(node)}
    if any("Delta" in type(node["fn"]).__name__ for node in nodes.values()) or len(guide_sites(trace)) < len(nodes):
        return False
    values = [node["value"] for node in nodes.values() if node["value"].requires_grad]
    for node in nodes.values():
        density = node["fn"].log_prob(node["value"].detach()).sum()
        if values and density.requires_grad:
            if any(g is not None for g in torch.autograd.grad(density, values, allow_unused=True, retain_graph=True)):
                return False
    return True
