"""Draws from a fitted guide, with their exact log density."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._base import runtime
from pyrolvm._base.errors import FitError, GuideError
from pyrolvm._base.explain import explained
from pyrolvm._program.agreement import guide_sites, wide_sites
from pyrolvm._program.density import Evaluator, Joint, map_draws
from pyrolvm._program.prediction import Hide
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_random
from pyrolvm._program.unused import Given
from pyrolvm.family.guide import Guide
from pyrolvm.family.protocol import Hooks

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["draw_guide", "rebuild", "registered", "stored"]


def registered(guide: Callable[..., object], name: str, problem: Problem | None = None) -> Callable[..., object]:
    """Makes Pyro know the parameters of a plain ``nn.Module`` guide, which it would otherwise never train.

    Sites of ``problem`` that are drawn after inference are taken out of the guide, and entries that have no density are not its own.
    """
    if problem is not None and (problem.predicted or problem.unused):
        return _Changed(registered(guide, name), [Hide(problem.hidden), Given(problem.unused)])
    if not isinstance(guide, torch.nn.Module) or isinstance(guide, pyro.nn.PyroModule):
        return guide
    return _Registered(guide, name)


class _Changed:
    """A guide whose sites are changed by handlers."""

    def __init__(self, guide: Callable[..., object], handlers: Sequence[Messenger]) -> None:
        self.guide, self._handlers = guide, tuple(handlers)

    def __call__(self, *args: Any, **kwargs: Any) -> object:
        with ExitStack() as stack:
            for handler in self._handlers:
                stack.enter_context(handler)
            return self.guide(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        if "guide" not in self.__dict__:  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.__dict__["guide"], name)


class _Registered:
    def __init__(self, guide: torch.nn.Module, name: str) -> None:
        self.guide, self.name = guide, name

    def __call__(self, *args: Any, **kwargs: Any) -> object:
        return pyro.module(self.name, self.guide)(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        if "guide" not in self.__dict__:  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.__dict__["guide"], name)


def rebuild(problem: Problem, recipe: Guide) -> Callable[..., object]:
    """The fitted guide again, inside a session that was opened with the fitted parameters."""
    built = recipe.build(problem)
    guide = registered(built, recipe.name, None if recipe.registered else problem)
    if isinstance(built, torch.nn.Module):
        runtime.fill_buffers("guide", built)
        built.eval()
    with problem.whole.active(), torch.no_grad():
        guide(*problem.args, **problem.kwargs)
    return finalized(problem, guide)


def finalized(problem: Problem, guide: Callable[..., object]) -> Callable[..., object]:
    """What the guide becomes once its optimisation is over: itself, unless it says otherwise."""
    finalize = Hooks(guide).finalize
    if finalize is None:
        return guide
    with problem.whole.active():
        done: Callable[..., object] = finalize(*problem.args, **problem.kwargs)
    return done


def draw_guide(
    problem: Problem, guide: Callable[..., object], count: int, *, looped: int | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Draws from a guide.

    Args:
        problem: what it is a guide of.
        guide: the guide.
        count: how many draws.
        looped: how many at most where it runs them one by one, and fewer where a budget has no time for all; ``None`` for as many
            as ``count`` says, whatever they take.

    Returns:
        Values by latent site, each of shape ``(count, ...)``, and log q of each draw, shape ``(count,)``; it is infinite where the
        draw lies outside the model's support, so that its weight is zero.

    Raises:
        GuideError: if a site comes and goes from draw to draw.
        FitError: if the guide fails, or its log density is not finite at its own draws.
    """
    weighed = Hooks(guide).weighed
    if weighed is not None:
        return _weighed_draws(problem, weighed, count)

    def one() -> dict[str, Tensor]:
        with problem.whole.active():
            trace = poutine.trace(guide).get_trace(*problem.args, **problem.kwargs)
        trace.compute_log_prob()
        terms = [torch.as_tensor(node["log_prob_sum"]) for node in trace.nodes.values() if is_random(node)]
        values = {f"z/{name}": node["value"] for name, node in guide_sites(trace).items()}
        return values | {"log_q": torch.stack(terms).sum() if terms else torch.zeros(())}

    with torch.no_grad():
        try:
            with explained(f"the fitted guide for {problem.name!r}", FitError):
                lanes = torch.zeros(count, dtype=problem.dtype, device=problem.device)
                many = Evaluator(lambda _: one(), {"lane": lanes}, what="guide")
                if looped is not None:
                    lanes = lanes[: many.affordable({"lane": lanes}, looped)[0]]
                found = many({"lane": lanes})
        except FitError as error:
            if isinstance(error.__cause__, KeyError):
                site = str(error.__cause__.args[0]).removeprefix("z/")
                raise GuideError(
                    f"the guide for {problem.name!r} leaves site {site!r} out of some of its {count} draws. "
                    "Fix: sample every latent site in every run."
                ) from error
            raise
        values = {name.removeprefix("z/"): value for name, value in found.items() if name != "log_q"}
        log_q = _without_outside(problem, guide, values, found["log_q"])
    if not bool(torch.isfinite(log_q).any()):
        raise FitError(
            f"the guide's log density is not finite at any of its own {len(log_q)} draws for {problem.name!r}. "
            "Fix: lower learning_rate or set clip_norm, and look at the loss trace."
        )
    return values, log_q


def _without_outside(
    problem: Problem, guide: Callable[..., object], values: dict[str, Tensor], log_q: Tensor
) -> Tensor:
    """Log q, infinite at draws of which a value lies outside the support that the site has in the model given the others."""
    with problem.whole.active():
        wide = wide_sites(problem, poutine.trace(guide).get_trace(*problem.args, **problem.kwargs))
    if not wide:
        return log_q

    def inside(draw: dict[str, Tensor]) -> dict[str, Tensor]:
        model = poutine.condition(problem.model, data=draw)
        with problem.whole.active(), poutine.trace() as tracer:
            model(*problem.args, **problem.kwargs)
        nodes: dict[str, Any] = {name: tracer.trace.nodes[name] for name in wide}
        return {name: nodes[name]["fn"].support.check(draw[name]).all() for name in wide}

    kept = torch.stack(list(map_draws(inside, values).values())).all(0)
    return torch.where(kept, log_q, torch.full_like(log_q, torch.inf))


def _weighed_draws(problem: Problem, weighed: Any, count: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draws of a guide that evaluates its own density faster than Pyro does."""
    seed = int(torch.randint(2**31, ()))
    held, target = weighed(problem, count, seed=seed)
    order = np.random.default_rng(seed).permutation(count)  # evenly spread points come in an order
    values = target.draws(held.points[order])
    joint = Joint(problem)
    with torch.no_grad():
        log_p = map_draws(lambda one: {"log_p": joint.log_p(one)}, values)["log_p"]
    # Both densities have the Jacobian of the coordinates in common, which is not known where the model has none.
    known = np.isfinite(held.log_p)
    jacobian = np.where(known, held.log_p, 0.0)[order]
    finite = torch.as_tensor(known[order], device=log_p.device) & torch.isfinite(log_p)
    log_q = torch.as_tensor(held.log_q[order] - jacobian).to(log_p)
    return values, log_q + torch.where(finite, log_p, torch.zeros_like(log_p))


def numpy(values: Mapping[str, Tensor]) -> dict[str, Any]:
    """The values as NumPy arrays on the CPU."""
    return {name: value.detach().cpu().numpy() for name, value in values.items()}


def stored(data: xr.DataTree, n: int, seed: int) -> xr.Dataset:
    """``n`` stored draws, without repetition as long as there are enough."""
    stacked = data["posterior"].to_dataset().stack(sample=("chain", "draw"))
    total = stacked.sizes["sample"]
    chosen = np.random.default_rng(seed).choice(total, size=n, replace=n > total)
    picked = stacked.isel(sample=chosen).drop_vars(["sample", "chain", "draw"]).rename(sample="draw")
    return picked.expand_dims("chain").transpose("chain", "draw", ...).assign_coords(chain=[0], draw=np.arange(n))
