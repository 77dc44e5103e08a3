"""The prior of a problem by itself: its density, its draws, and whether it is a distribution at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._base.errors import ProblemError
from pyrolvm._program.density.target import Points, Target
from pyrolvm._program.density.vectorize import Evaluator
from pyrolvm._program.peeling import innermost, own_masks
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_deterministic, is_random
from pyrolvm._program.traces import Message

__all__ = ["check_proper", "is_masked", "prior_draws", "prior_points", "without_data"]


class _Silence(Messenger):
    """Takes the density of data and factors out of a run."""

    def _pyro_sample(self, msg: Message) -> None:
        if msg["is_observed"] and not is_deterministic(msg):
            msg["mask"] = False


class _Watch(Messenger):
    """Remembers which site is being drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.site = ""

    def _pyro_sample(self, msg: Message) -> None:
        self.site = msg["name"]


def without_data(problem: Problem) -> Problem:
    """The problem with a joint density that is the prior of its latents: what is observed has a density of one."""
    return problem.replace(name=f"the prior of {problem.name}", model=_Silence()(problem.model))


def check_proper(problem: Problem) -> None:
    """Refuses a prior that does not integrate to one, so that there is no marginal likelihood; inside a session.

    Raises:
        ProblemError: naming the site.
    """
    trace = problem.whole.trace(problem)
    for site in problem.latents:
        node = trace.nodes[site.name]
        fn, masked = innermost(node["fn"]), is_masked(node)
        if isinstance(fn, dist.ImproperUniform) or (masked and not site.is_discrete):
            why = "a flat prior, which" if isinstance(fn, dist.ImproperUniform) else "a prior that is masked out, which"
            raise ProblemError(
                f"site {site.name!r} of {problem.name} has {why} has no integral, so the marginal likelihood of the data is not "
                f"defined. Fix: give {site.name!r} a proper prior, for example a wide Normal."
            )
        scale = torch.as_tensor(node["scale"])
        if not bool((scale == 1).all()):
            raise ProblemError(
                f"the prior of site {site.name!r} of {problem.name} is scaled by {float(scale.reshape(-1)[0]):.4g}, so it does not "
                "integrate to one and the marginal likelihood of the data is not defined. Fix: leave poutine.scale out."
            )


def prior_draws(problem: Problem, count: int, *, looped: int | None = None) -> dict[str, Tensor]:
    """Draws of all latents from the prior, each of shape ``(count, ...)``; inside a session.

    Args:
        problem: the model with its data.
        count: how many.
        looped: how many at most where the model is run draw by draw.

    Raises:
        ProblemError: if a site cannot be sampled.
    """
    watch = _Watch()

    def one() -> dict[str, Tensor]:
        with poutine.block(), poutine.trace() as tracer, watch, problem.whole.active():
            problem.model(*problem.whole.args, **problem.whole.kwargs)
        nodes: dict[str, Any] = {name: node for name, node in tracer.trace.nodes.items() if is_random(node)}
        return {site.name: nodes[site.name]["value"] for site in problem.latents}

    try:
        with torch.no_grad():
            lanes = torch.zeros(count, dtype=problem.dtype, device=problem.device)
            many = Evaluator(lambda _: one(), {"lane": lanes}, what="prior draws")
            return many({"lane": lanes[:looped] if many.way == "loop" else lanes})
    except NotImplementedError as error:
        raise ProblemError(
            f"site {watch.site!r} of {problem.name} cannot be sampled, so its prior cannot be drawn from "
            f"({error or 'not implemented'}). Fix: give its distribution a sample method, or use method='bridge'."
        ) from None


def prior_points(problem: Problem, target: Target, count: int, *, looped: int | None = None) -> Points:
    """Draws from the prior in the coordinates of a target, shape ``(count, n)``; inside a session.

    Args:
        problem: the model with its data.
        target: a density of its continuous latents.
        count: how many.
        looped: as for :func:`prior_draws`.

    Raises:
        ProblemError: if a site cannot be sampled.
    """
    drawn = prior_draws(problem, count, looped=looped)
    return target.points({site.name: drawn[site.name] for site in problem.continuous})


def is_masked(node: Mapping[str, Any]) -> bool:
    """Whether some of a site's density is masked out."""
    return any(_masks(mask) for mask in (node["mask"], *own_masks(node["fn"])))


def _masks(mask: object) -> bool:
    return mask is not None and mask is not True and not bool(torch.as_tensor(mask).all())
