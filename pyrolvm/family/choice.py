"""Whatever the user names as a guide becomes a recipe for one."""

from __future__ import annotations

import inspect
from typing import Any

from pyrolvm._base.errors import ArgumentError, GuideError
from pyrolvm._base.habits import belongs_to
from pyrolvm._program.problem import Problem
from pyrolvm.family import registry
from pyrolvm.family.factories import made
from pyrolvm.family.guide import NO_LATENTS, Guide

__all__ = ["choose", "resolve"]

FULL_RANK_UNKNOWNS = 200
"""Up to so many unknowns ``guide="auto"`` is a Gaussian with full covariance."""


def resolve(guide: object, problem: Problem) -> Guide:
    """The recipe behind whatever was given as a guide.

    Args:
        guide: a registered name; ``"auto"``, the guide that the model names, else one chosen by :func:`choose`, or one that draws
            nothing where the model has no latents; a :class:`Guide`, a Pyro guide function, an ``AutoGuide`` class or instance, any
            ``nn.Module`` that is called like a guide, or what makes one of these of the model
            (:func:`~pyrolvm.family.factories.made`).
        problem: the problem it is for.

    Raises:
        ArgumentError: if it is none of these.
        GuideError: if the model has no latents for a named guide to draw.
        UnknownNameError: if no guide has that name.
    """
    if isinstance(guide, str) and guide == "auto" and problem.info.guide is not None:
        guide = problem.info.guide
    if isinstance(guide, Guide):
        return guide
    if not problem.latents and isinstance(guide, str):
        if guide not in ("auto", NO_LATENTS):
            raise GuideError(
                f"{problem.name} has no latent site, so guide {guide!r} has nothing to draw. "
                "Fix: leave guide out; its parameters are then fitted by maximum likelihood."
            )
        return Guide(NO_LATENTS, lambda problem: _nothing)
    if isinstance(guide, str):
        return registry.guide(choose(problem) if guide == "auto" else guide)
    found = made(guide, problem)
    if found is None:
        hint = belongs_to(guide)
        shown = guide.__name__ if inspect.isclass(guide) else repr(guide)[:100]
        shown += f"; {hint}" if hint else ""
        raise ArgumentError(
            f"guide must be a name, a Pyro guide function, an AutoGuide class or instance, a list of them, or a function of the "
            f"model that makes one, got {shown}. Fix: use one of {', '.join(registry.guides())}, or write def guide(*args) with "
            "the model's arguments."
        )
    return found


def choose(problem: Problem) -> str:
    """The name of the family that ``guide="auto"`` takes.

    A full-rank Gaussian up to a few hundred unknowns, where its covariance is cheap and its error small; amortized where the
    model has learnable parameters and local latents, as a VAE has; beyond, one structured by the plates where globals and rows of
    a plate are latent, and mean-field where they are not.
    """
    local = any(site.plates for site in problem.continuous)
    if problem.parameters and local and problem.observed:
        return "amortized"
    if 0 < problem.unconstrained_size <= FULL_RANK_UNKNOWNS:
        return "full_rank"
    levels = {frozenset(site.plates) for site in problem.continuous}
    return "structured" if any(outer < inner for outer in levels for inner in levels) else "mean_field"


def _nothing(*args: Any, **kwargs: Any) -> None:
    """The guide of a model without latents."""
