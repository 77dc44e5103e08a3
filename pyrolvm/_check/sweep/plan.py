"""What a sweep is to do: labels, methods, seeds, and a name for each cell that says what goes into it."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyrolvm._base.errors import ArgumentError, checked_seed, positive_int, unknown_name
from pyrolvm._check.calibrate.methods import Method
from pyrolvm._methods.table import by_name
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm.family import registry
from pyrolvm.family.choice import resolve
from pyrolvm.family.guide import Guide

__all__ = ["Cell", "Plan", "plan"]


@dataclass(frozen=True)
class Cell:
    """One problem, one method, one seed.

    Attributes:
        key: the beginning of a sha256 of all that the cell's result depends on.
    """

    problem: str
    method: str
    seed: int
    key: str

    def __str__(self) -> str:
        return f"{self.method} on {self.problem}, seed {self.seed}"

    def as_dict(self) -> dict[str, object]:
        """The cell as JSON types."""
        return {"problem": self.problem, "method": self.method, "seed": self.seed, "key": self.key}


@dataclass(frozen=True)
class Plan:
    """Cells in the order in which they are run, with the problems and methods behind their labels."""

    cells: tuple[Cell, ...]
    problems: Mapping[str, Problem]
    methods: Mapping[tuple[str, str], Method]


def plan(
    problems: object,
    guides: object,
    seeds: object,
    settings: Mapping[str, Mapping[str, object]] | None,
    options: Mapping[str, object],
) -> Plan:
    """Checks what was asked for, and names its cells.

    Raises:
        ArgumentError: if there is nothing to do, or two things have one label.
        UnknownNameError: if there is no such problem, method or option.
    """
    found = {label: _problem(given) for label, given in _labelled("problems", problems, _problem_label).items()}
    methods = _labelled("guides", guides, _method_label)
    settings = dict(settings or {})
    for label in settings:
        if label not in methods:
            raise unknown_name("guide or method of this sweep", label, methods)
    numbers = _seeds(seeds)
    chosen = {
        (problem, label): _method(given, found[problem], label, settings.get(label, {}), options)
        for problem in found
        for label, given in methods.items()
    }
    _check_taken(options, chosen.values())
    cells = [
        Cell(problem, label, seed, key[:32])
        for (problem, label), method in chosen.items()
        for seed in numbers
        for key in [_identity(found[problem], method, seed)]
    ]
    return Plan(tuple(cells), found, chosen)


def _identity(problem: Problem, method: Method, seed: int) -> str:
    """A sha256 of what the result of a cell depends on: data, code, options, seed and the versions that compute it."""
    return hashlib.sha256(json.dumps(method.identity(problem, seed), sort_keys=True).encode()).hexdigest()


def _labelled(what: str, given: object, label: Any) -> dict[str, object]:
    """The things that were given, by label."""
    if isinstance(given, Mapping):
        named = [(str(name), value) for name, value in given.items()]
    else:
        listed = list(given) if isinstance(given, list | tuple | set | frozenset) else [given]
        named = [(label(value), value) for value in listed]
    if not named:
        raise ArgumentError(f"{what} is empty, so there is nothing to run. Fix: pass at least one.")
    found: dict[str, object] = {}
    for name, value in named:
        if name in found:
            raise ArgumentError(
                f"two {what} are called {name!r}. Fix: pass a dict that gives each a label of its own, such as "
                f"{{'{name} a': ..., '{name} b': ...}}."
            )
        found[name] = value
    return found


def _problem_label(given: object) -> str:
    return given.name if isinstance(given, Problem) else str(getattr(given, "__name__", given))


def _problem(given: Any) -> Problem:
    if isinstance(given, str):
        return registry.problem(given)
    check_problem(given)
    return given


def _method_label(given: object) -> str:
    if isinstance(given, str | Guide):
        return str(given)
    return str(getattr(given, "__name__", type(given).__name__))


def _method(
    given: object, problem: Problem, label: str, own: Mapping[str, object], shared: Mapping[str, object]
) -> Method:
    """A method with its own options, and those of the shared ones that it takes."""
    if isinstance(given, str) and given == "auto":  # what fit calls so; calibrate means infer
        given = resolve("auto", problem)
    if isinstance(given, str) and given not in (*by_name(), *registry.guides()):
        raise unknown_name("guide or method", given, [*by_name(), *registry.guides()])
    for name in (*own, *shared):
        if name in ("out", "resume", "seed", "progress", "callbacks"):
            raise ArgumentError(f"{name} cannot be set for the cells of a sweep. Fix: leave it out.")
    bare = Method.of(given, problem, {}, caller="sweep")
    taken = {name: value for name, value in shared.items() if _takes(bare, name)}
    return Method.of(given, problem, {**taken, **own}, caller="sweep")


def _takes(method: Method, name: str) -> bool:
    known = method.parameters
    return name in known or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())


def _check_taken(options: Mapping[str, object], methods: Iterable[Method]) -> None:
    methods = list(methods)
    for name in options:
        if not any(_takes(method, name) for method in methods):
            raise unknown_name(
                "option of these methods",
                name,
                sorted(
                    {known for method in methods for known in method.parameters}
                    - {"problem", "guide", "out", "resume", "seed"}
                ),
            )


def _seeds(given: object) -> tuple[int, ...]:
    if isinstance(given, Iterable) and not isinstance(given, str):
        numbers = [checked_seed(seed) for seed in given]
        if not numbers:
            raise ArgumentError("seeds is empty, so there is nothing to run. Fix: pass for example seeds=[0].")
        return tuple(dict.fromkeys(numbers))
    return tuple(range(positive_int("seeds", given)))
