"""Objectives: Pyro's ELBOs, with all particles in one vectorised run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import infer, poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import ELBO, config_enumerate
from pyro.infer.traceenum_elbo import TraceEnum_ELBO, _compute_model_factors
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from pyrolvm.capture.vmap import vmapped
from pyrolvm.errors import ArgumentError, GuideError, unknown_name
from pyrolvm.program.agreement import guide_sites
from pyrolvm.program.batching import Batch
from pyrolvm.program.inspection import is_deterministic, is_random
from pyrolvm.program.problem import Problem

__all__ = ["ParticleELBO", "choose_objective"]

NAMES = ("Trace_ELBO", "TraceMeanField_ELBO", "TraceEnum_ELBO", "StickingTheLanding_ELBO")


class ParticleELBO(ELBO):
    """The reparameterised ELBO of Pyro's ``Trace_ELBO`` family, its particles run at once by ``torch.func.vmap``.

    ELBO = E_q[log p(x, z) - log q(z)], estimated by ``num_particles`` draws z ~ q. Unlike Pyro's
    ``vectorize_particles=True`` it asks nothing of the model's broadcasting; unlike Pyro's loop, sixteen particles cost
    about as much as one. A model that vmap cannot run is looped over.

    Args:
        kind: ``"Trace_ELBO"``; ``"TraceMeanField_ELBO"``, which replaces the draw's log p(z) - log q(z) by the analytic
            -KL(q || p) at every site where one is registered (valid if the guide factorises over sites);
            ``"TraceEnum_ELBO"``, which sums out discrete latents that the guide leaves to the model; or
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
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)
        if kind not in NAMES:
            raise unknown_name("objective", kind, NAMES)
        self.kind = kind
        self.vectorize = vectorize
        self._particle = {
            "Trace_ELBO": _trace_elbo,
            "TraceMeanField_ELBO": _mean_field_elbo,
            "TraceEnum_ELBO": self._enumerated_elbo,
            "StickingTheLanding_ELBO": _path_elbo,
        }[kind]

    def particles(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """ELBO estimates, one a particle, differentiable. Shape ``(num_particles,)``.

        Where a guide's density declares a score-function term (the weights of a mixture), its gradient is added with
        the mean of the other particles as its baseline.
        """

        def one(_: Any) -> tuple[Tensor, Tensor]:
            return self._particle(model, guide, args, kwargs)

        if self.vectorize:
            values, scores = vmapped(one)(torch.zeros(self.num_particles))
        else:
            pairs = [one(None) for _ in range(self.num_particles)]
            values, scores = (torch.stack(column) for column in zip(*pairs, strict=True))
        if not scores.requires_grad:
            return torch.as_tensor(values)
        count = len(values)
        others = (values.sum() - values) / (count - 1) if count > 1 else torch.zeros_like(values)
        term = scores * (values - others).detach()
        return torch.as_tensor(values + (term - term.detach()))

    # The three methods of Pyro's ELBO interface.

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the ELBO, differentiable. Shape ``()``."""
        return -self.particles(model, guide, *args, **kwargs).mean()

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO; adds its gradient to the parameters' ``grad``."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return _traces(model, guide, args, kwargs)

    def _enumerated_elbo(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
        inner = TraceEnum_ELBO(max_plate_nesting=self.max_plate_nesting)
        # This is what Pyro's ELBO does before each run: dimensions left of the plates belong to enumeration.
        enumerated = poutine.enum(config_enumerate(model, "parallel"), first_available_dim=-1 - self.max_plate_nesting)
        model_trace, guide_trace = inner._get_trace(enumerated, guide, args, kwargs)
        plain, factors, _, sum_dims, scale = _compute_model_factors(model_trace, guide_trace)
        elbo = torch.stack([term.sum() for terms in plain.values() for term in terms]).sum()
        for terms in contract_tensor_tree(factors, sum_dims).values() if factors else ():
            for term in terms:
                elbo = elbo + torch.as_tensor(packed.scale_and_mask(term, scale=scale)).sum()
        log_q, score = _log_q(guide_trace)
        return elbo - log_q, score


def _traces(model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    return model_trace, guide_trace


def _log_prob_sum(trace: Any) -> Tensor:
    trace.compute_log_prob()
    return _sum(trace)


def _sum(trace: Any) -> Tensor:
    terms = [node["log_prob_sum"] for node in trace.nodes.values() if is_random(node) and not is_deterministic(node)]
    return torch.stack([torch.as_tensor(term) for term in terms]).sum() if terms else torch.zeros(())


def _log_q(guide_trace: Any) -> tuple[Tensor, Tensor]:
    """The guide's log density at its draw, and the sum of its score-function terms (zero if it has none)."""
    guide_trace.compute_score_parts()  # which sets the log densities too
    log_q = _sum(guide_trace)
    parts = [node["score_parts"].score_function for node in guide_trace.nodes.values() if is_random(node)]
    scores = [torch.as_tensor(part).sum() for part in parts if not is_identically_zero(part)]
    return log_q, torch.stack(scores).sum() if scores else torch.zeros_like(log_q)


def _trace_elbo(model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    model_trace, guide_trace = _traces(model, guide, args, kwargs)
    log_q, score = _log_q(guide_trace)
    return _log_prob_sum(model_trace) - log_q, score


class _Held(Messenger):
    """Hides from the gradient that a guide has parameters."""

    def _pyro_post_param(self, msg: Any) -> None:
        held = msg["value"].detach()
        if hasattr(msg["value"], "unconstrained"):  # which plates that pick rows of it look at
            held.unconstrained = msg["value"].unconstrained
        msg["value"] = held


def _path_elbo(model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    model_trace, drawn = _traces(model, guide, args, kwargs)
    with _Held():
        again = poutine.trace(poutine.replay(guide, trace=drawn)).get_trace(*args, **kwargs)
    log_q, score = _log_q(again)
    return _log_prob_sum(model_trace) - log_q, torch.zeros_like(score)


def _mean_field_elbo(model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    model_trace, guide_trace = _traces(model, guide, args, kwargs)
    model_trace.compute_log_prob()
    _, score = _log_q(guide_trace)
    elbo: Tensor | float = 0.0
    for name, node in model_trace.nodes.items():
        if not is_random(node) or is_deterministic(node):
            continue
        partner = guide_trace.nodes.get(name)
        if partner is None or node["is_observed"]:
            elbo = elbo + node["log_prob_sum"]
            continue
        kl = _analytic_kl(partner["fn"], node["fn"])
        if kl is None:
            elbo = elbo + node["log_prob_sum"] - partner["log_prob_sum"]
        else:
            elbo = elbo - torch.as_tensor(scale_and_mask(kl, partner["scale"], partner["mask"])).sum()
    for name, node in guide_trace.nodes.items():
        if is_random(node) and name not in model_trace.nodes:
            elbo = elbo - node["log_prob_sum"]
    return torch.as_tensor(elbo), score


def _analytic_kl(q: Any, p: Any) -> Tensor | None:
    """KL(q || p) where torch or Pyro know it in closed form."""
    if "Delta" in type(q).__name__:
        return None
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


# --- choosing ---------------------------------------------------------------------------------------------------------


def choose_objective(
    objective: Any, problem: Problem, guide: Callable[..., Any], batch: Batch, num_particles: int | None
) -> tuple[ELBO, str]:
    """The ELBO to use, and why.

    Args:
        objective: ``"auto"``, one of the names, a Pyro ELBO class, or an ELBO instance. One of the named classes stands for its
            estimator and number of particles; any other is used as it is.
        problem: the problem.
        guide: its guide, already checked and initialised.
        batch: data for a trial run.
        num_particles: draws a step; ``None`` for 16 where they run at once and 1 where they do not.

    Raises:
        ArgumentError: if it is none of these.
        GuideError: if the guide cannot be trained by it.
    """
    given = objective if isinstance(objective, ELBO) else None
    if given is not None:
        # What Pyro's own class would estimate, particle by particle, ours estimates at once.
        if type(given) not in (infer.Trace_ELBO, infer.TraceMeanField_ELBO, infer.TraceEnum_ELBO):
            return given, "given by the caller"
        objective, num_particles = type(given).__name__, given.num_particles
    if isinstance(objective, type) and issubclass(objective, ELBO):
        if objective.__name__ not in NAMES:
            nesting = _nesting(problem)
            return objective(num_particles=num_particles or 1, max_plate_nesting=nesting), "given by the caller"
        objective = objective.__name__
    if not isinstance(objective, str):
        raise ArgumentError(
            f"objective must be a name, a Pyro ELBO class or an ELBO instance, got {type(objective).__name__}. "
            f"Fix: use one of 'auto', {', '.join(map(repr, NAMES))}."
        )
    if objective != "auto" and objective not in NAMES:
        raise unknown_name("objective", objective, ("auto", *NAMES))

    trace = _guide_trace(guide, batch)
    scored = [name for name, node in trace.nodes.items() if is_random(node) and not node["fn"].has_rsample]
    enumerated = [site.name for site in problem.discrete if site.name not in trace.nodes]
    nesting = _nesting(problem)
    if enumerated and objective not in ("auto", "TraceEnum_ELBO"):
        raise GuideError(
            f"guide leaves out the discrete site {enumerated[0]!r}, which {objective} does not sum out. "
            'Fix: use objective="auto" or "TraceEnum_ELBO".'
        )
    if scored and given is not None:
        return given, "given by the caller"
    if scored:
        # Draws that cannot be reparameterised need the score-function terms that Pyro's own classes have.
        name = "TraceEnum_ELBO" if enumerated or objective == "TraceEnum_ELBO" else "TraceGraph_ELBO"
        chosen = getattr(infer, name)(num_particles=num_particles or 1, max_plate_nesting=nesting)
        return chosen, f"{name}: guide site {scored[0]!r} cannot be reparameterised"
    if enumerated:
        kind, why = "TraceEnum_ELBO", f"discrete site {enumerated[0]!r} is summed out"
    elif objective != "auto":
        kind, why = objective, "given by the caller"
    elif _factorises(trace) and _any_analytic_kl(problem, guide, batch):
        kind, why = "TraceMeanField_ELBO", "the guide factorises and has analytic KL terms"
    elif getattr(guide, "scores_cheaply", False):
        kind, why = "StickingTheLanding_ELBO", "the guide scores values that it did not draw as fast as its own"
    else:
        kind, why = "Trace_ELBO", "the guide is reparameterised"
    elbo = ParticleELBO(kind, num_particles=num_particles or 16, max_plate_nesting=nesting)
    if not _vectorizes(elbo, problem, guide, batch):
        elbo = ParticleELBO(kind, num_particles=num_particles or 1, max_plate_nesting=nesting, vectorize=False)
        why += "; particles run one by one, since the model or guide reads values or fills tensors in place"
    return elbo, f"{kind}: {why}"


def _nesting(problem: Problem) -> int:
    return max((-plate.dim for plate in problem.plates.values() if plate.dim is not None), default=0)


def _guide_trace(guide: Callable[..., Any], batch: Batch) -> Any:
    with batch.active(), torch.random.fork_rng(devices=[]):
        return poutine.trace(guide).get_trace(*batch.args, **batch.kwargs)


def _factorises(trace: Any) -> bool:
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


def _any_analytic_kl(problem: Problem, guide: Callable[..., Any], batch: Batch) -> bool:
    with batch.active(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        model_trace, guide_trace = _traces(problem.model, guide, batch.args, batch.kwargs)
    return any(
        _analytic_kl(node["fn"], model_trace.nodes[name]["fn"]) is not None
        for name, node in guide_sites(guide_trace).items()
    )


def _vectorizes(elbo: ParticleELBO, problem: Problem, guide: Callable[..., Any], batch: Batch) -> bool:
    try:
        with batch.active(), torch.random.fork_rng(devices=[]):
            values = elbo.particles(problem.model, guide, *batch.args, **batch.kwargs)
    except Exception:  # whatever vmap refuses; a real error shows in the plain run
        return False
    return values.shape == (elbo.num_particles,)
