"""Names for problems and guides, from this distribution and from any other.

Built-ins and plugins register in the same way, by entry points:

- group ``pyrolvm.models``: name -> a function of keyword options that returns a :class:`~pyrolvm._program.problem.Problem`;
- group ``pyrolvm.guides``: name -> a function of a problem and keyword options that returns a Pyro guide.

An entry point is imported when its name is asked for, not before. One that cannot be imported is reported then, by
name and distribution, and disturbs nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pyrolvm._base.errors import ArgumentError, PluginError, unknown_name
from pyrolvm._program.problem import Problem
from pyrolvm.family.guide import Guide

__all__ = ["Entry", "entries", "guide", "guides", "problem", "problems"]

MODELS = "pyrolvm.models"
GUIDES = "pyrolvm.guides"
_KIND = {MODELS: "problem", GUIDES: "guide"}


@dataclass(frozen=True)
class Entry:
    """A registered name, not yet imported."""

    name: str
    target: str
    distribution: str
    point: EntryPoint

    def load(self) -> Callable[..., Any]:
        """Imports what the name stands for.

        Raises:
            PluginError: if the import fails or does not give a function.
        """
        try:
            loaded = self.point.load()
        except Exception as error:
            raise PluginError(
                f"{self.name!r} of distribution {self.distribution!r} ({self.target}) cannot be imported: "
                f"{type(error).__name__}: {error}. Fix: repair or uninstall {self.distribution}."
            ) from error
        if not callable(loaded):
            raise PluginError(
                f"{self.name!r} of distribution {self.distribution!r} ({self.target}) is a {type(loaded).__name__}, expected a "
                f"function. Fix: point the entry point at a function, see docs/write-a-plugin.md."
            )
        return loaded


def entries(group: str) -> dict[str, Entry]:
    """Every registered name of ``group``, sorted, without importing any of them."""
    found: dict[str, Entry] = {}
    for point in entry_points(group=group):
        distribution = point.dist.name if point.dist is not None else "unknown"
        # The zoo of this distribution keeps its names whatever else is installed.
        if point.name not in found or distribution == "pyrolvm":
            found[point.name] = Entry(point.name, point.value, distribution, point)
    return dict(sorted(found.items()))


def problems() -> list[str]:
    """The names that :func:`problem` knows."""
    return list(entries(MODELS))


def guides() -> list[str]:
    """The names that :func:`guide` knows."""
    return list(entries(GUIDES))


def problem(name: str, /, **options: Any) -> Problem:
    """Builds a registered problem: a model of the zoo, or of a plugin, with its data.

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


def _load(group: str, name: str) -> Callable[..., Any]:
    known = entries(group)
    if not isinstance(name, str):
        raise ArgumentError(
            f"the name of a {_KIND[group]} must be a string, got {name!r}. Fix: use one of {', '.join(known)}."
        )
    if name not in known:
        raise unknown_name(_KIND[group], name, known)
    return known[name].load()


def _check_options(what: str, function: Callable[..., Any], options: Mapping[str, Any], *, skip: int) -> None:
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    for p in parameters:
        if p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in options:
            raise ArgumentError(f"{what} needs its option {p.name!r}. Fix: pass {p.name}=...")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for option in options:
        if option not in known:
            raise ArgumentError(
                f"{what} has no option {option!r}. Fix: use {', '.join(known) if known else 'no options: it has none'}."
            )
