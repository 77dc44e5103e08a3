"""Which objective a fit takes, and why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from pyro import infer, poutine
from pyro.infer import ELBO
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, GuideError, PyrolvmError
from pyrolvm._base.kinds import OBJECTIVE_WORDS, OBJECTIVES
from pyrolvm._base.passing import passed_over
from pyrolvm._compat.python import replaced
from pyrolvm._methods.fit.objectives.annealed import Beta_ELBO
from pyrolvm._methods.fit.objectives.base import PureELBO, traces
from pyrolvm._methods.fit.objectives.particles import ParticleELBO, analytic_kl, factorises
from pyrolvm._methods.fit.objectives.weighted import ImportanceWeighted_ELBO
from pyrolvm._program.agreement import guide_sites
from pyrolvm._program.batching import Batch
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_random
from pyrolvm.family.protocol import Hooks

__all__ = ["Chosen", "choose_objective"]

_E = TypeVar("_E", bound=ELBO)

CLASSES: dict[str, type[PureELBO]] = {"ImportanceWeighted_ELBO": ImportanceWeighted_ELBO, "Beta_ELBO": Beta_ELBO}
"""Objectives of ours that go by the name of their class."""

ONE_BY_ONE = "; particles run one by one, since the model or guide reads values or fills tensors in place"

OURS = ("auto", *OBJECTIVE_WORDS)

STOCK = (infer.Trace_ELBO, infer.TraceMeanField_ELBO, infer.TraceEnum_ELBO)
"""What these estimate particle by particle, ours estimate at once."""


class Chosen(NamedTuple):
    """An objective.

    Attributes:
        elbo: as Pyro takes it.
        why: why it is this one.
        tried: estimates of a trial run with the session's random numbers; ``None`` where there was none.
    """

    elbo: ELBO
    why: str
    tried: Tensor | None = None


def choose_objective(
    objective: Any,
    problem: Problem,
    guide: Callable[..., Any],
    batch: Batch,
    num_particles: int | None,
    ran: tuple[Any, Any] | None = None,
) -> Chosen:
    """The ELBO to use, and why.

    Args:
        objective: ``"auto"``, one of the names or one that a distribution registers, a Pyro ELBO class, or an ELBO instance. One
            of the named classes stands for its estimator and number of particles; any other is used as it is.
        problem: the problem.
        guide: its guide, already checked and initialised.
        batch: data for a trial run.
        num_particles: draws a step; ``None`` for 16 where they run at once and 1 where they do not.
        ran: traces of the guide on the batch and of the model at its draw, where there are such.

    Raises:
        ArgumentError: if it is none of these, or no loss can be taken of it.
        GuideError: if the guide cannot be trained by it.
        UnknownNameError: if no objective has that name.
        PluginError: if one that is registered is broken.
    """
    if isinstance(objective, str) and objective not in OURS:
        chosen = choose_objective(OBJECTIVES.named(objective, *OURS), problem, guide, batch, num_particles, ran)
        return replaced(chosen, why=f"{objective}: {chosen.why}")
    given = objective if isinstance(objective, ELBO) else None
    if given is not None:
        if isinstance(given, PureELBO):
            return _ready(given, problem, guide, batch)
        if type(given) not in STOCK:
            return Chosen(_complete(given), "given by the caller")
        objective, num_particles = type(given).__name__, given.num_particles
    if isinstance(objective, str) and objective in CLASSES:
        objective = CLASSES[objective]
    if isinstance(objective, type) and issubclass(objective, PureELBO) and objective is not ParticleELBO:
        return _ready(
            _made(objective, {"num_particles": num_particles} if num_particles else {}), problem, guide, batch
        )
    if isinstance(objective, type) and issubclass(objective, ELBO):
        if objective not in STOCK:
            words = {"num_particles": num_particles or 1, "max_plate_nesting": _nesting(problem)}
            return Chosen(_complete(_made(objective, words)), "given by the caller")
        objective = objective.__name__
    if not isinstance(objective, str):
        raise ArgumentError(
            f"objective must be a name, a Pyro ELBO class or an ELBO instance, got {type(objective).__name__}. "
            f"Fix: use one of {', '.join(map(repr, OURS))}."
        )

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
        return Chosen(given, "given by the caller")
    if scored:
        # Draws that cannot be reparameterised need the score-function terms that Pyro's own classes have.
        name = "TraceEnum_ELBO" if enumerated or summed or objective == "TraceEnum_ELBO" else "TraceGraph_ELBO"
        found = getattr(infer, name)(num_particles=num_particles or 1, max_plate_nesting=nesting)
        return Chosen(found, f"{name}: guide site {scored[0]!r} cannot be reparameterised")
    if enumerated:
        kind, why = "TraceEnum_ELBO", f"discrete site {enumerated[0]!r} is summed out"
    elif summed:
        kind, why = "TraceEnum_ELBO", f"the guide sums over its discrete site {summed[0]!r}"
    elif objective != "auto":
        kind, why = objective, "given by the caller"
    elif factorises(trace) and _any_analytic(problem, guide, batch, ran):
        kind, why = "TraceMeanField_ELBO", "the guide factorises and has analytic KL terms"
    elif Hooks(guide).scores_cheaply:
        kind, why = "StickingTheLanding_ELBO", "the guide scores values that it did not draw as fast as its own"
    else:
        kind, why = "Trace_ELBO", "the guide is reparameterised"
    elbo = ParticleELBO(kind, num_particles=num_particles or 16, max_plate_nesting=nesting)
    tried = _tried(elbo, problem, guide, batch)
    if tried is None:
        elbo = ParticleELBO(kind, num_particles=num_particles or 1, max_plate_nesting=nesting, vectorize=False)
        why += ONE_BY_ONE
    return Chosen(elbo, f"{kind}: {why}", tried)


def _made(kind: type[_E], words: dict[str, int]) -> _E:
    """An objective of that class."""
    try:
        return kind(**words)
    except TypeError as error:
        raise ArgumentError(
            f"objective {kind.__name__} cannot be made with {', '.join(words) or 'nothing'}: {error}. Fix: let it take num_particles= "
            "and max_plate_nesting= and have all methods, as pyro.infer.Trace_ELBO, or build on pyrolvm.plugins.PureELBO."
        ) from error


def _complete(elbo: ELBO) -> ELBO:
    """The objective, if it has what a step on stock Pyro calls."""
    lacking = [name for name in ("loss", "loss_and_grads") if not callable(getattr(elbo, name, None))]
    if lacking:
        raise ArgumentError(
            f"objective {type(elbo).__name__} has no {' and no '.join(lacking)}, so no step can be taken. Fix: write what is missing "
            "as pyro.infer.Trace_ELBO has it, or build on pyrolvm.plugins.PureELBO, which asks for particles() alone."
        )
    return elbo


def _ready(elbo: PureELBO, problem: Problem, guide: Callable[..., Any], batch: Batch) -> Chosen:
    """The objective, tried once; its draws one by one where ``vmap`` cannot run them."""
    why = elbo.about(problem.model, guide, batch)
    tried = _tried(elbo, problem, guide, batch) if elbo.vectorize else None
    if elbo.vectorize and tried is None:
        elbo = copy.copy(elbo)
        elbo.vectorize = False
        why += ONE_BY_ONE
    return Chosen(elbo, why, tried)


def _nesting(problem: Problem) -> int:
    return max((-plate.dim for plate in problem.plates.values() if plate.dim is not None), default=0)


def _guide_trace(guide: Callable[..., Any], batch: Batch) -> Any:
    with batch.active(), torch.random.fork_rng(devices=[]):
        return poutine.trace(guide).get_trace(*batch.args, **batch.kwargs)


def _any_analytic(problem: Problem, guide: Callable[..., Any], batch: Batch, ran: tuple[Any, Any] | None) -> bool:
    if ran is None:
        with batch.active(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            model_trace, guide_trace = traces(problem.model, guide, batch.args, batch.kwargs)
    else:
        guide_trace, model_trace = ran
    return any(
        analytic_kl(node["fn"], model_trace.nodes[name]["fn"]) is not None
        for name, node in guide_sites(guide_trace).items()
    )


def _tried(elbo: PureELBO, problem: Problem, guide: Callable[..., Any], batch: Batch) -> Tensor | None:
    """Estimates by draws at once; ``None`` where ``vmap`` cannot run them, and no random numbers are then taken."""
    before = torch.random.get_rng_state()
    try:
        with batch.active():
            values = elbo.particles(problem.model, guide, *batch.args, **batch.kwargs)
        if values.dim() == 1:
            return values.detach()
    except PyrolvmError:
        raise
    except Exception:
        passed_over("whatever vmap refuses; a real error shows in the plain run")
    torch.random.set_rng_state(before)
    return None
