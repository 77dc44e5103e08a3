"""Names for problems and guides, from this distribution and from any other.

Built-ins and plugins register in the same way, by entry points:

- group ``pyrolvm.models``: name -> a function of keyword options that returns a :class:`~pyrolvm._program.problem.Problem`;
- group ``pyrolvm.guides``: name -> a function of a problem and keyword options that returns a Pyro guide.

How they are found and what happens with broken ones is said in :mod:`pyrolvm._base.entries`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pyrolvm._base.entries import Kind
from pyrolvm._base.errors import ArgumentError, PluginError
from pyrolvm._base.kinds import GUIDES, MODELS
from pyrolvm._program.problem import Problem
from pyrolvm.family.guide import Guide

__all__ = ["GUIDES", "MODELS", "guide", "guides", "problem", "problems"]


def problems(*, ready: bool = False) -> list[str]:
    """The names that :func:`problem` knows.

    >>> "eight_schools" in lvm.problems()

    Args:
        ready: only those that are built without any option, which imports what they stand for; broken ones are left out.
    """
    if ready:
        return [name for name, factory in MODELS.sound() if not _needed(factory, skip=0)]
    return list(MODELS.entries())


def guides() -> list[str]:
    """The names that :func:`guide` knows.

    >>> "full_rank" in lvm.guides()
    """
    return list(GUIDES.entries())


def problem(name: str, /, **options: Any) -> Problem:
    """Builds a registered problem: a model of the zoo, or of a plugin, with its data.

        >>> lvm.problem("eight_schools_noncentered").sites
        >>> lvm.problem("gaussian_mixture", components=4)

    Args:
        name: one of :func:`problems`.
        **options: what the problem's function takes, such as a number of components.

    Raises:
        UnknownNameError: if nothing has that name.
        PluginError: if its distribution is broken.
        ArgumentError: if it has no such option.
    """
    factory = _load(MODELS, name)
    _check_options(f"problem {name!r}", factory, options, skip=0)
    built = factory(**options)
    if not isinstance(built, Problem):
        raise PluginError(
            f"problem {name!r} returned a {type(built).__name__}, expected a Problem. Fix: end its function with "
            "return lvm.Problem(model, *data)."
        )
    return built.renamed(name, source={"name": name, "options": dict(options)})


def guide(name: str, /, **options: Any) -> Guide:
    """A registered guide with its options, as a recipe that builds a fresh guide for each fit.

        >>> fit = lvm.fit(problem, lvm.guide("flow", transforms=2), seed=0)

    Args:
        name: one of :func:`guides`.
        **options: what the guide's function takes besides the problem.

    Raises:
        UnknownNameError: if nothing has that name.
        PluginError: if its distribution is broken.
        ArgumentError: if it has no such option.
    """
    build = _load(GUIDES, name)
    _check_options(f"guide {name!r}", build, options, skip=1)
    return Guide(name, build, options, registered=True)


def _load(kind: Kind[Callable[..., Any]], name: str) -> Callable[..., Any]:
    if not isinstance(name, str):
        raise ArgumentError(
            f"the name of a {kind.word} must be a string, got {name!r}. Fix: use one of {', '.join(kind.entries())}."
        )
    return kind.named(name)


def _check_options(what: str, function: Callable[..., Any], options: Mapping[str, Any], *, skip: int) -> None:
    for name in _needed(function, skip=skip):
        if name not in options:
            raise ArgumentError(f"{what} needs its option {name!r}. Fix: pass {name}=...")
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for option in options:
        if option not in known:
            raise ArgumentError(
                f"{what} has no option {option!r}. Fix: use {', '.join(known) if known else 'no options: it has none'}."
            )


def _needed(function: Callable[..., Any], *, skip: int) -> list[str]:
    """Options without a default."""
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    named = [p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [p.name for p in named if p.default is p.empty]
