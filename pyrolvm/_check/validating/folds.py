"""Which rows are held out together, and the problems without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, ProblemError, unknown_name
from pyrolvm._base.numerics import Array
from pyrolvm._check.predict.arguments import Arguments
from pyrolvm._check.predict.making import made
from pyrolvm._check.predict.running import observed_values
from pyrolvm._program.missing import is_missing
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import plate_of_rows

__all__ = ["Fold", "folds_of", "held_arguments", "row_count", "without"]


@dataclass(frozen=True)
class Fold:
    """Rows that are held out together.

    Attributes:
        label: what the fold is called.
        rows: their numbers.
    """

    label: str
    rows: Array


def row_count(problem: Problem, plate: str | None) -> int:
    """How many rows the data have: those of their plate, or, where there is none, of the one argument that is observed.

    Raises:
        ProblemError: if nothing says what a row is.
    """
    found = plate_of_rows(problem, plate)
    if found is not None and not found.subsampled:
        return found.size
    seen = observed_values(problem)
    lengths = {
        len(value)
        for value in problem.arguments.values()
        if isinstance(value, Tensor) and value.dim() and any(value.numel() == one.numel() for one in seen.values())
    }
    if len(lengths) != 1:
        raise ProblemError(
            f"nothing says what a row of the data of {problem.name} is. Fix: put the observations into one "
            '`with pyro.plate("data", len(y)):`, or name theirs, plate="data".'
        )
    return lengths.pop()


def folds_of(
    problem: Problem, count: int, folds: int | None, groups: str | Sequence[object] | None, seed: int
) -> list[Fold]:
    """The folds of so many rows.

    Args:
        problem: the problem.
        count: how many rows it has.
        folds: how many folds; ``None`` for one for each group.
        groups: a plate, or a label for each row.
        seed: deals rows, or groups, to folds.

    Raises:
        ArgumentError: if there are fewer rows or groups than folds, or nothing says which rows belong to a group.
    """
    labels, names = _labels(problem, count, groups)
    number = len(names) if folds is None else folds
    if groups is not None and len(names) < 2:
        raise ArgumentError(
            f"all {count} rows are of one group, {names[0]!r}, so that none would be left to fit. Fix: pass folds= without groups."
        )
    if not 2 <= number <= len(names):
        what = "rows" if groups is None else "groups"
        raise ArgumentError(
            f"folds must be from 2 to {len(names)}, the number of {what}, got {number}. Fix: pass for example "
            f"folds={min(10, len(names))}."
        )
    if folds is None:
        return [Fold(name, np.flatnonzero(labels == i)) for i, name in enumerate(names)]
    order = np.random.default_rng(seed % 2**63).permutation(len(names))
    dealt = np.empty(len(names), dtype=int)
    dealt[order] = np.arange(len(names)) % number
    return [Fold(f"fold {k}", np.flatnonzero(dealt[labels] == k)) for k in range(number)]


def _labels(problem: Problem, count: int, groups: str | Sequence[object] | None) -> tuple[Array, list[str]]:
    """The group of each row as a number, and what groups are called."""
    if groups is None:
        return np.arange(count), [f"row {i}" for i in range(count)]
    if isinstance(groups, str):
        given = _members(problem, count, groups)
        known = problem.coords.get(groups)
        values, labels = np.unique(given, return_inverse=True)
        return labels, [f"{groups} {known[i] if known is not None and i < len(known) else i}" for i in values.tolist()]
    if len(groups) != count:
        raise ArgumentError(
            f"groups has {len(groups)} labels, and there are {count} rows. Fix: pass one for each row, or the name of a plate."
        )
    lost = next((i for i, one in enumerate(groups) if is_missing(one)), None)
    if lost is not None:
        raise ArgumentError(f"groups has no label for row {lost}. Fix: give one to each row, such as 'unknown'.")
    named, labels = np.unique(np.array([str(one) for one in groups]), return_inverse=True)
    return labels, [str(one) for one in named]


def _members(problem: Problem, count: int, name: str) -> Array:
    """The member of a plate that each row belongs to: the row itself, or what an argument of whole numbers says.

    Raises:
        ArgumentError: if no argument, or more than one, could say it.
    """
    if name not in problem.plates:
        raise unknown_name(f"plate of {problem.name}", name, problem.plates)
    plate = problem.plates[name]
    if plate.size == count and any(name in site.plates for site in problem.observed):
        return np.arange(count)
    found = {
        argument: value
        for argument, value in problem.arguments.items()
        if isinstance(value, Tensor) and value.shape == (count,) and _indexes(value, plate.size)
    }
    if len(found) != 1:
        what = f"{len(found)} arguments ({', '.join(found)})" if found else "no argument"
        raise ArgumentError(
            f"{what} of {problem.name} could say which member of plate {name!r} each of {count} rows belongs to. "
            "Fix: pass groups= as a label for each row."
        )
    return next(iter(found.values())).cpu().numpy()


def _indexes(value: Tensor, size: int) -> bool:
    whole = not value.is_floating_point() and value.dtype != torch.bool
    return whole and int(value.min()) >= 0 and int(value.max()) < size


def without(problem: Problem, count: int, rows: Array) -> Problem:
    """The problem without those rows."""
    kept = np.setdiff1d(np.arange(count), rows)
    values = {name: _part(value, count, kept) for name, value in problem.arguments.items()}
    asked = Arguments(
        values, values, len(problem.args), frozenset(), frozenset(), codes=problem.codes, observed=frozenset()
    )
    return made(problem, values, asked)


def held_arguments(problem: Problem, count: int, rows: Array) -> tuple[tuple[object, ...], dict[str, object]]:
    """The arguments of those rows, by position and by name."""
    return (
        tuple(_part(value, count, rows) for value in problem.args),
        {name: _part(value, count, rows) for name, value in problem.kwargs.items()},
    )


def _part(value: object, count: int, rows: Array) -> object:
    if isinstance(value, Tensor) and value.dim() and len(value) == count:
        return value[torch.as_tensor(rows, device=value.device)]
    return value
