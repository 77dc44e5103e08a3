"""What sites, plates, dimensions and labels are called in a result, where all of them share one name space."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from pyrolvm._base.errors import ProblemError
from pyrolvm._program.program import Program
from pyrolvm._runs.attributes import said

__all__ = ["Dimensions", "check_storable", "dump_names", "read_names", "variable"]

SAMPLE_DIMS = ("chain", "draw", "sample")
"""Dimensions of all variables; the last is what ArviZ calls both together."""


def variable(site: str, *, beside: Iterable[str] = SAMPLE_DIMS) -> str:
    """The name of a site in a DataTree.

    There ``/`` separates groups, and ``pyro.poutine.scope`` makes sites with it; names of dots alone are the group itself
    and the one above in a file; and a site that is called like a dimension of every variable would vanish in its place.

    Args:
        site: the name in the program.
        beside: the dimensions that every variable has.
    """
    name = site.replace("/", ".")
    return f"{name}_site" if not name.strip(".") or name in beside else name


class Dimensions:
    """Names of dimensions: one that is called like a variable is renamed, and no two are renamed alike.

    Args:
        problem: the problem whose dimensions they are.
    """

    def __init__(self, problem: Program) -> None:
        named = [*problem.sites, *problem.arguments, *problem.quantities]
        self._taken = {*map(variable, named), *SAMPLE_DIMS}
        self._shown: dict[str, str] = {}
        self._labels = problem.coords
        dims = [*problem.plates, *(dim for names in problem.dims.values() for dim in names)]
        dims += [dim for names in problem.info.dims.values() for dim in names]
        for dim in sorted(dict.fromkeys(dims), key=lambda dim: variable(dim) != dim or dim in self._taken):
            self(dim)  # those that keep their names come first

    def __call__(self, dim: str) -> str:
        """The name of a dimension in a result."""
        if dim not in self._shown:
            shown, others = variable(dim, beside=()), set(self._shown.values())
            while shown in self._taken or shown in others:
                shown = f"{shown}_plate"
            self._shown[dim] = shown
        return self._shown[dim]

    def coords(self) -> dict[str, list[object]]:
        """Labels by the names that their dimensions have in a result."""
        return {self(dim): labels for dim, labels in self._labels.items()}


def dump_names(names: Iterable[str]) -> str:
    """Names of sites as one attribute: separated by commas, or as JSON where a name has a comma of its own."""
    listed = [*names]
    return json.dumps(listed, ensure_ascii=False) if any("," in name for name in listed) else ", ".join(listed)


def read_names(text: object) -> tuple[str, ...]:
    """What :func:`dump_names` wrote; nothing where there is nothing."""
    given = str(text or "")
    if given.startswith('["'):
        return said({"names": given}, "names", lambda names: tuple(map(str, names)), ())
    return tuple(given.split(", ")) if given else ()


def check_storable(problem: str, sites: Iterable[str], plates: Iterable[str], quantities: Mapping[str, object]) -> None:
    """Refuses names that no result can hold.

    Args:
        problem: its name, for errors.
        sites: names of sites.
        plates: names of plates.
        quantities: quantities by name.

    Raises:
        ProblemError: if a name is no text that a file takes, or two variables would have the same name in a result.
    """
    shown: dict[str, str] = {}
    for kind, names in (("site", sites), ("plate", plates), ("quantity", quantities)):
        for name in names:
            if not isinstance(name, str) or not name or "\0" in name or not _is_text(name):
                raise ProblemError(
                    f"a {kind} of {problem} is called {name!r}, which no file can hold. Fix: name it in letters, such as 'x'."
                )
            other = shown.setdefault(variable(name), name) if kind != "plate" else name
            if other != name:
                raise ProblemError(
                    f"{problem} has {other!r} and {name!r}, which would both be called {variable(name)!r} in a result: '/' is "
                    f"written as '.' there, and {', '.join(SAMPLE_DIMS)} get '_site'. Fix: rename one of them."
                )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
