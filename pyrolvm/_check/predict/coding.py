"""New arguments by the codes of the fit: tables taken apart, labels and dates as the numbers that they were there."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import ArgumentError
from pyrolvm._program.columns import Columns
from pyrolvm._program.frames import column_names, columns_by_name, designed, is_table
from pyrolvm._program.labels import Code, Levels, coded, coded_again
from pyrolvm._program.problem import Problem

__all__ = ["coded_anew", "labels_along", "taken_apart", "without_observed"]


def taken_apart(
    problem: Problem, args: Sequence[object], kwargs: Mapping[str, object]
) -> tuple[Sequence[object], dict[str, object]]:
    """New arguments, where a table stands for those that the fit took from one; columns that are no arguments are left aside."""
    if not (problem.by_name and len(args) == 1 and is_table(args[0])):
        return args, dict(kwargs)
    columns = designed(problem.program, args[0]) or columns_by_name(args[0])
    return (), {**{n: columns[n] for n in problem.arguments if n in columns and n not in kwargs}, **kwargs}


def coded_anew(problem: Problem, given: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Code]]:
    """New values by the codes of the fit, and the codes with the levels that the fit did not have.

    Raises:
        ArgumentError: if a level is new and the number of members is an argument that is not given, or labels or dates are given for
            what was numbers.
    """
    codes = dict(problem.codes)

    def one(label: str, value: object, old: object = None) -> object:
        if type(value) is dict and isinstance(old, dict):
            return {key: one(f"{label}[{key!r}]", item, old.get(key)) for key, item in value.items()}
        if type(value) in (list, tuple) and isinstance(old, list | tuple) and isinstance(value, list | tuple):
            each = zip(value, [*old, *[None] * len(value)], strict=False)
            return type(value)(one(f"{label}[{i}]", item, before) for i, (item, before) in enumerate(each))
        if value is None:
            return value
        if label not in codes:
            _check_numbers(label, value, old)
            return value
        found = coded_again(label, value, codes[label])
        if found is None:
            return value
        codes[label] = found[1]
        return found[0]

    values: dict[str, object] = {}
    for name, value in given.items():
        if is_table(value) and isinstance(problem.arguments.get(name), Columns):
            columns = {c: columns_by_name(value)[c] for c in column_names(value)}
            values[name] = Columns({c: one(f"{name}[{c!r}]", column) for c, column in columns.items()})
        else:
            values[name] = one(name, value, problem.arguments.get(name))
    _check_room(problem, codes, values)
    return values, codes


def _check_numbers(label: str, value: object, old: object) -> None:
    """Refuses labels and dates for what was numbers in the fit: nothing says which numbers they stand for."""
    if not isinstance(old, Tensor) or isinstance(value, Tensor):
        return
    if isinstance(value, list | tuple) and all(isinstance(item, str | datetime.date | None) for item in value):
        value = np.array(value, dtype=object)
    found = coded(label, value, gaps=True)
    if found is not None:
        what = "labels" if isinstance(found[1], Levels) else "dates"
        raise ArgumentError(
            f"argument {label!r} holds {what}, and held numbers in the fit: nothing says which numbers they stand for. Fix: pass "
            "numbers, or give the fit labels or dates too."
        )


def _check_room(problem: Problem, codes: Mapping[str, Code], given: Mapping[str, object]) -> None:
    """Refuses a level that is new where the number of members stays what it was."""
    for dim, label in problem.labelled.items():
        before, now = problem.codes[label], codes[label]
        if not isinstance(before, Levels) or not isinstance(now, Levels) or len(before.labels) == len(now.labels):
            continue
        size = next(
            n for s, dims in problem.dims.items() for d, n in zip(dims, problem.sites[s].shape, strict=True) if d == dim
        )
        counts = [n for n, v in problem.arguments.items() if type(v) is int and v == size and n not in given]
        if counts:
            new = ", ".join(repr(one) for one in now.labels[len(before.labels) :][:3])
            raise ArgumentError(
                f"{label!r} has {len(now.labels) - len(before.labels)} labels that the fit did not have ({new}): new members of "
                f"{dim!r}, of which {problem.name} had {size}. Fix: pass their number, {counts[0]}={max(size, len(now.labels))}."
            )


def without_observed(
    value: Columns, old: Columns, seen: Mapping[str, Tensor], rolled: bool
) -> tuple[Columns, list[object]]:
    """A table with stand-ins for observed columns that are left out, and their names."""
    rows, filled, left = len(value), dict(value), []
    for column, before in old.items():
        if column in value or not isinstance(before, Tensor) or not rows:
            continue
        if any(before.shape == one.shape and torch.equal(before.to(one.dtype), one) for one in seen.values()):
            other = before.roll(1, 0) if rolled else before
            if rolled and torch.equal(other, before):
                other = before + 1
            filled[column] = other[torch.arange(rows, device=before.device) % len(before)]
            left.append(column)
    return Columns(filled), left


def labels_along(old: Problem, codes: Mapping[str, Code], sizes: Mapping[str, int]) -> dict[str, list[object]]:
    """Labels of the dimensions of a problem with new arguments: those of the codes, and those that stay."""
    found = {}
    for dim, labels in old.coords.items():
        code = codes.get(old.labelled.get(dim, "")) if dim not in old.info.coords else None
        if isinstance(code, Levels) and dim in sizes:
            found[dim] = code.along(sizes[dim])
        elif sizes.get(dim, len(labels)) == len(labels):
            found[dim] = labels
    return found
