"""What makes guides: classes, partial applications, functions of the model and lists, as Pyro's users pass them around."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide, AutoGuideList, AutoLaplaceApproximation
from pyro.poutine.guide import GuideMessenger

from pyrolvm._base.bijections import Image
from pyrolvm._base.errors import ArgumentError, GuideError, PyrolvmError
from pyrolvm._base.explain import told
from pyrolvm._base.passing import passed_over
from pyrolvm._compat.pyro import autoguide_model, give_autoguide_model, returned
from pyrolvm._program.agreement import guide_sites
from pyrolvm._program.problem import Problem
from pyrolvm._program.starting import Supported, is_circle
from pyrolvm.family.guide import Guide

__all__ = ["made"]

PyroGuide = Callable[..., Any]

POLISH = 200
"""Steps of L-BFGS from where a fit ended to the mode."""


def made(guide: Any, problem: Problem) -> Guide | None:
    """The recipe behind an object that is a guide, or makes one.

    =========================================== ======================================================================
    given                                       each fit gets
    =========================================== ======================================================================
    an ``nn.Module``, such as an AutoGuide      a copy of it
    a class of guides                           an instance, made of the model, or of nothing where it takes no model
    ``functools.partial`` of one of these       the same, with its arguments
    a list of guides                            an ``AutoGuideList``; one of them may be a class, which takes the rest of the sites
    a function that returns a guide             that guide: it is called with the model, or with nothing where it takes nothing
    a function that samples                     itself, a guide as it is
    =========================================== ======================================================================

    ``AutoLaplaceApproximation`` becomes the Gaussian around its mode once that is found.

    Returns:
        ``None`` if it is none of these.
    """
    if isinstance(guide, torch.nn.Module):
        return Guide(type(guide).__name__, functools.partial(_copied, guide))
    if isinstance(guide, Sequence) and not isinstance(guide, str) and guide:
        parts = list(guide)
        if any(isinstance(part, str) or not callable(part) for part in parts):
            return None
        return Guide("AutoGuideList", functools.partial(_listed, parts))
    if inspect.isclass(guide):
        if _required(guide) > 1 or not any("__call__" in vars(base) for base in guide.__mro__):
            return None
        return Guide(guide.__name__, functools.partial(_instance, guide))
    if isinstance(guide, functools.partial) and inspect.isclass(_innermost(guide)):
        inner = _innermost(guide)
        return Guide(inner.__name__, _Partial(guide), dict(guide.keywords))
    if not callable(guide):
        return None
    name = str(getattr(_innermost(guide), "__name__", type(guide).__name__))
    if _makes_guides(guide, problem):
        return Guide(name, functools.partial(_instance, guide))
    return Guide(name, lambda problem: guide)


@dataclass(frozen=True)
class _Partial:
    """A partial application of a class; its keywords are the recipe's options, so that tables show them."""

    given: functools.partial[Any]

    def __call__(self, problem: Problem, **options: Any) -> PyroGuide:
        return _instance(functools.partial(self.given.func, *self.given.args, **options), problem)


def _innermost(guide: Any) -> Any:
    while isinstance(guide, functools.partial):
        guide = guide.func
    return guide


def _instance(maker: Callable[..., Any], problem: Problem) -> PyroGuide:
    """What a class or function makes of the model, ready to be fitted."""
    guide = maker() if _required(maker) == 0 and not _takes_model(maker) else maker(_read(problem.model, problem))
    if isinstance(guide, Sequence) and not isinstance(guide, str):
        return _listed(list(guide), problem)
    return _ready(guide)


def _read(model: Callable[..., Any], problem: Problem) -> Callable[..., Any]:
    """A model as guides read it: latents that declare another support than they have, declare that."""
    supports = [getattr(site.support, "base_constraint", site.support) for site in problem.continuous]
    if not any(is_circle(support) or isinstance(support, Image) for support in supports):
        return model
    read: Callable[..., Any] = Supported()(model)
    return read


def _copied(guide: torch.nn.Module, problem: Problem) -> PyroGuide:
    clone = _copy_module(guide)
    for part in [m for m in clone.modules() if isinstance(m, AutoGuide)]:
        model = autoguide_model(part)
        give_autoguide_model(part, None if model is None else _read(model, problem))
    return _ready(clone)


def _ready(guide: Any) -> PyroGuide:
    """The guide; a Laplace approximation says what it becomes at its mode."""
    if isinstance(guide, GuideMessenger):
        raise GuideError(
            f"{type(guide).__name__} runs the model itself, observations included, so what it draws has no density of its own. "
            'Fix: use the AutoGuide of that family, such as AutoNormal, or guide="structured".'
        )
    if isinstance(guide, AutoLaplaceApproximation):
        guide.finalize = functools.partial(_gaussian, guide)
    found: PyroGuide = guide
    return found


def _gaussian(guide: AutoLaplaceApproximation, *args: Any, **kwargs: Any) -> PyroGuide:
    """The Gaussian at the mode; the mode itself, a point estimate, where the curvature there is none of a Gaussian."""
    try:
        with torch.enable_grad():
            _climb(guide, args, kwargs)
            return guide.laplace_approximation(*args, **kwargs)
    except (
        RuntimeError,
        ValueError,
    ):  # a curvature that is not positive definite; the verdict then says that it is a point
        return guide


def _climb(guide: AutoLaplaceApproximation, args: Any, kwargs: Any) -> None:
    """Goes the rest of the way to the mode, where the curvature is that of a maximum."""
    point, before = guide.loc, guide.loc.detach().clone()
    optimiser = torch.optim.LBFGS([point], max_iter=POLISH, line_search_fn="strong_wolfe")

    def closure() -> float:
        drawn = poutine.trace(guide).get_trace(*args, **kwargs)
        joint = poutine.trace(poutine.replay(guide.model, trace=drawn)).get_trace(*args, **kwargs)
        loss = drawn.log_prob_sum() - joint.log_prob_sum()
        (point.grad,) = torch.autograd.grad(loss, [point])
        return float(loss.detach())

    optimiser.step(closure)
    point.grad = None
    if not bool(torch.isfinite(point).all()):
        with torch.no_grad():
            point.copy_(before)


def _required(maker: Callable[..., Any]) -> int:
    """How many positional arguments it has to be given."""
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def _takes_model(maker: Callable[..., Any]) -> bool:
    """Whether a model may be given, though it need not."""
    try:
        first = next(iter(inspect.signature(maker).parameters.values()), None)
    except (TypeError, ValueError):
        return True
    return first is not None and (first.name == "model" or first.kind is first.VAR_POSITIONAL)


def _makes_guides(function: Callable[..., Any], problem: Problem) -> bool:
    """Whether a function makes guides rather than being one.

    One that runs with the model's arguments, as a guide does, and samples or returns no guide, is a guide. Otherwise it makes guides if
    it takes one argument, or none, and what it returns for the model is called like a guide.
    """
    with problem.session(seed=0), problem.whole.active(), torch.no_grad():
        try:
            trace = poutine.trace(function).get_trace(*problem.args, **problem.kwargs)
        except Exception:
            passed_over("no guide, or a wrong one, which the check of guides explains")
            trace = None
    if trace is not None:
        return not guide_sites(trace) and _is_guide(returned(trace))
    if _required(function) > 1:
        return False
    with problem.session(seed=0):
        try:
            found = function() if _required(function) == 0 and not _takes_model(function) else function(problem.model)
        except Exception:
            passed_over("not a maker either")
            return False
    return _is_guide(found)


def _is_guide(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_guide(part) for part in value)
    return isinstance(value, torch.nn.Module) or inspect.isfunction(value) or inspect.ismethod(value)


def _listed(parts: list[Any], problem: Problem) -> PyroGuide:
    """An ``AutoGuideList`` of guides; a class or what else makes guides takes the sites that the others leave."""
    if len(parts) == 1:
        return _part(parts[0], _read(problem.model, problem))
    makers = [part for part in parts if _is_maker(part)]
    if len(makers) > 1:
        raise ArgumentError(
            f"{len(makers)} of the {len(parts)} guides of the list are classes, so it is not said which sites each draws. Fix: make "
            'them of a part of the model, as in AutoNormal(poutine.block(model, expose=["a"])), all but one at most.'
        )
    rest = problem.model
    if makers:  # copies are run, since a module that has run by itself cannot become a part
        drawn = {name for part in parts if not _is_maker(part) for name in _drawn(_part(part, rest), problem)}
        rest = poutine.block(problem.model, hide=sorted(drawn))
    whole = AutoGuideList(problem.model)
    for part in parts:
        whole.append(_part(part, rest))
    return whole


def _is_maker(part: Any) -> bool:
    return inspect.isclass(part) or inspect.isclass(_innermost(part))


def _part(part: Any, model: Callable[..., Any]) -> Any:
    if isinstance(part, torch.nn.Module):
        return _copy_module(part)
    return part(model) if _is_maker(part) else part


def _drawn(guide: PyroGuide, problem: Problem) -> list[str]:
    with problem.session(seed=0), problem.whole.active(), torch.no_grad():
        try:
            return list(guide_sites(poutine.trace(guide).get_trace(*problem.args, **problem.kwargs)))
        except PyrolvmError:
            raise
        except Exception as error:
            raise GuideError(
                f"a guide of the list fails: {told(error)} Fix: call it with the model's arguments by itself, and look at that line."
            ) from error


def _copy_module(guide: torch.nn.Module) -> torch.nn.Module:
    """A copy of a module guide with parameters of its own."""
    parts = [m for m in guide.modules() if isinstance(m, AutoGuide)]
    # AutoGuide drops its model and its master when it is copied, in the original too: put both back.
    kept = [(autoguide_model(part), part.master) for part in parts]
    try:
        clone = copy.deepcopy(guide)
    finally:
        for part, (model, master) in zip(parts, kept, strict=True):
            part.master = master
            give_autoguide_model(part, model)
    for part, (model, _) in zip((m for m in clone.modules() if isinstance(m, AutoGuide)), kept, strict=True):
        give_autoguide_model(part, model)
    return clone
