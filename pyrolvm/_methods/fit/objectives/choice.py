"""Which objective a fit takes, and why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from pyro import infer, poutine
from pyro.infer import ELBO

from pyrolvm._base.errors import ArgumentError, GuideError, PyrolvmError, unknown_name
from pyrolvm._methods.fit.objectives.annealed import Beta_ELBO
from pyrolvm._methods.fit.objectives.base import PureELBO, traces
from pyrolvm._methods.fit.objectives.particles import NAMES, ParticleELBO, analytic_kl, factorises
from pyrolvm._methods.fit.objectives.weighted import ImportanceWeighted_ELBO
from pyrolvm._program.agreement import guide_sites
from pyrolvm._program.batching import Batch
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_random
from pyrolvm.family.protocol import Hooks

__all__ = ["choose_objective"]

CLASSES: dict[str, type[PureELBO]] = {"ImportanceWeighted_ELBO": ImportanceWeighted_ELBO, "Beta_ELBO": Beta_ELBO}
"""Objectives of ours that go by the name of their class."""


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
        if isinstance(given, PureELBO):
            return _ready(given, problem, guide, batch)
        if type(given) not in (infer.Trace_ELBO, infer.TraceMeanField_ELBO, infer.TraceEnum_ELBO):
            return given, "given by the caller"
        objective, num_particles = type(given).__name__, given.num_particles
    if isinstance(objective, str) and objective in CLASSES:
        objective = CLASSES[objective]
    if isinstance(objective, type) and issubclass(objective, PureELBO) and objective is not ParticleELBO:
        made = objective() if num_particles is None else objective(num_particles=num_particles)
        return _ready(made, problem, guide, batch)
    if isinstance(objective, type) and issubclass(objective, ELBO):
        if objective.__name__ not in NAMES:
            nesting = _nesting(problem)
            return objective(num_particles=num_particles or 1, max_plate_nesting=nesting), "given by the caller"
        objective = objective.__name__
    if not isinstance(objective, str):
        raise ArgumentError(
            f"objective must be a name, a Pyro ELBO class or an ELBO instance, got {type(objective).__name__}. "
            f"Fix: use one of 'auto', {', '.join(map(repr, (*NAMES, *CLASSES)))}."
        )
    if objective != "auto" and objective not in NAMES:
        raise unknown_name("objective", objective, ("auto", *NAMES, *CLASSES))

    trace = _guide_trace(guide, batch)
    drawn = {name: node for name, node in trace.nodes.items() if is_random(node) and not node["fn"].has_rsample}
    summed = [name for name, node in drawn.items() if node["infer"].get("enumerate") == "parallel"]
    scored = [name for name in drawn if name not in summed]
    enumerated = [site.name for site in problem.discrete if site.name not in trace.nodes]
    nesting = _nesting(problem)
    if (enumerated or summed) and objective not in ("auto", "TraceEnum_ELBO"):
        what = f"leaves out the discrete site {enumerated[0]!r}" if enumerated else f"enumerates its site {summed[0]!r}"
        raise GuideError(
            f'guide {what}, which {objective} does not sum out. Fix: use objective="auto" or "TraceEnum_ELBO".'
        )
    if scored and given is not None:
        return given, "given by the caller"
    if scored:
        # Draws that cannot be reparameterised need the score-function terms that Pyro's own classes have.
        name = "TraceEnum_ELBO" if enumerated or summed or objective == "TraceEnum_ELBO" else "TraceGraph_ELBO"
        chosen = getattr(infer, name)(num_particles=num_particles or 1, max_plate_nesting=nesting)
        return chosen, f"{name}: guide site {scored[0]!r} cannot be reparameterised"
    if enumerated:
        kind, why = "TraceEnum_ELBO", f"discrete site {enumerated[0]!r} is summed out"
    elif summed:
        kind, why = "TraceEnum_ELBO", f"the guide sums over its discrete site {summed[0]!r}"
    elif objective != "auto":
        kind, why = objective, "given by the caller"
    elif factorises(trace) and _any_analytic(problem, guide, batch):
        kind, why = "TraceMeanField_ELBO", "the guide factorises and has analytic KL terms"
    elif Hooks(guide).scores_cheaply:
        kind, why = "StickingTheLanding_ELBO", "the guide scores values that it did not draw as fast as its own"
    else:
        kind, why = "Trace_ELBO", "the guide is reparameterised"
    elbo = ParticleELBO(kind, num_particles=num_particles or 16, max_plate_nesting=nesting)
    if not _vectorizes(elbo, problem, guide, batch):
        elbo = ParticleELBO(kind, num_particles=num_particles or 1, max_plate_nesting=nesting, vectorize=False)
        why += "; particles run one by one, since the model or guide reads values or fills tensors in place"
    return elbo, f"{kind}: {why}"


def _ready(elbo: PureELBO, problem: Problem, guide: Callable[..., Any], batch: Batch) -> tuple[ELBO, str]:
    """The objective, tried once; its draws one by one where ``vmap`` cannot run them."""
    why = elbo.about(problem.model, guide, batch)
    if elbo.vectorize and not _vectorizes(elbo, problem, guide, batch):
        elbo = copy.copy(elbo)
        elbo.vectorize = False
        why += "; particles run one by one, since the model or guide reads values or fills tensors in place"
    return elbo, why


def _nesting(problem: Problem) -> int:
    return max((-plate.dim for plate in problem.plates.values() if plate.dim is not None), default=0)


def _guide_trace(guide: Callable[..., Any], batch: Batch) -> Any:
    with batch.active(), torch.random.fork_rng(devices=[]):
        return poutine.trace(guide).get_trace(*batch.args, **batch.kwargs)


def _any_analytic(problem: Problem, guide: Callable[..., Any], batch: Batch) -> bool:
    with batch.active(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        model_trace, guide_trace = traces(problem.model, guide, batch.args, batch.kwargs)
    return any(
        analytic_kl(node["fn"], model_trace.nodes[name]["fn"]) is not None
        for name, node in guide_sites(guide_trace).items()
    )


def _vectorizes(elbo: PureELBO, problem: Problem, guide: Callable[..., Any], batch: Batch) -> bool:
    try:
        with batch.active(), torch.random.fork_rng(devices=[]):
            values = elbo.particles(problem.model, guide, *batch.args, **batch.kwargs)
    except PyrolvmError:
        raise
    except Exception:  # whatever vmap refuses; a real error shows in the plain run
        return False
    return values.dim() == 1
