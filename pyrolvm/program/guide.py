"""Guides as recipes: whatever the user names as a guide becomes something that builds a fresh one for each fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyrolvm.errors import ArgumentError, GuideError
from pyrolvm.habits import belongs_to
from pyrolvm.pickling import Portable
from pyrolvm.program.explain import explained

if TYPE_CHECKING:
    from pyrolvm.program.problem import Problem

__all__ = ["Guide", "choose", "resolve"]

PyroGuide = Callable[..., Any]

NO_LATENTS = "none"
"""The guide of a model without latents, which draws nothing."""

FULL_RANK_UNKNOWNS = 200
"""Up to so many unknowns ``guide="auto"`` is a Gaussian with full covariance."""


@dataclass(frozen=True)
class Guide(Portable):
    """A named recipe for a variational family; builds a fresh Pyro guide for each fit.

    Attributes:
        name: what the family is called in tables.
        construct: a function of a problem and of ``options`` that returns a Pyro guide: anything that is called as
            ``guide(*args, **kwargs)`` with the model's arguments and samples its latent sites. A guide may have a method
            ``finalize(*args, **kwargs)``, called once after the optimisation, that returns the guide to draw from.
        options: keyword arguments for ``construct``.
        registered: whether ``name`` and ``options`` are enough to find it again.
    """

    name: str
    construct: Callable[..., PyroGuide]
    options: Mapping[str, Any] = field(default_factory=dict)
    registered: bool = False

    def build(self, problem: Problem) -> PyroGuide:
        """A fresh Pyro guide for ``problem``.

        Raises:
            GuideError: if the family cannot represent this problem at all.
        """
        with explained(f"guide {self.name!r} for {problem.name!r}", GuideError):
            built = self.construct(problem, **self.options)
        if not callable(built):
            raise GuideError(
                f"guide {self.name!r} built a {type(built).__name__}, expected something to call. "
                "Fix: return the Pyro guide, a function or module that takes the model's arguments."
            )
        return built

    @property
    def doc(self) -> str:
        """What the family says about itself."""
        return inspect.getdoc(self.construct) or ""

    def __str__(self) -> str:
        options = ", ".join(f"{key}={_shown(value)}" for key, value in self.options.items())
        return f"{self.name}({options})" if options else self.name


def _shown(value: Any) -> str:
    """A value in words that are the same in every process: functions by their names."""
    return str(value.__name__) if callable(value) and hasattr(value, "__name__") else repr(value)


def resolve(guide: Any, problem: Problem) -> Guide:
    """The recipe behind whatever was given as a guide.

    Args:
        guide: a registered name; ``"auto"``, the guide that the model names, else one chosen by :func:`choose`, or one that draws
            nothing where the model has no latents; a :class:`Guide`, a Pyro guide function, an ``AutoGuide`` class or instance, any
            ``nn.Module`` that is called like a guide, or what makes one of these of the model
            (:func:`~pyrolvm.program.factories.made`).
        problem: the problem it is for.

    Raises:
        ArgumentError: if it is none of these.
        GuideError: if the model has no latents for a named guide to draw.
        UnknownNameError: if no guide has that name.
    """
    from pyrolvm import registry

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
    from pyrolvm.program.factories import made

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
