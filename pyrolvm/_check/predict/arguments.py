"""New arguments of a model: which are given, which are observations to be predicted, and what stands for those meanwhile."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, DataError, unknown_name
from pyrolvm._check.predict.coding import coded_anew, taken_apart, without_observed
from pyrolvm._check.predict.running import observed_values
from pyrolvm._program.columns import Columns
from pyrolvm._program.data import to_tensors
from pyrolvm._program.labels import Code
from pyrolvm._program.missing import REMEDY, as_nan
from pyrolvm._program.problem import Problem

__all__ = ["Arguments", "Behind", "arguments", "behind", "of_new_rows"]


@dataclass(frozen=True)
class Arguments:
    """Arguments for every parameter of the model.

    Attributes:
        values: by name, in the order of the problem's own.
        other: the same with other stand-ins for what is left out, to find out what depends on them.
        positional: how many are positional.
        left_out: the names of observations that are to be predicted.
        given: the names that were given anew.
        codes: what the numbers of columns of labels and dates stand for, labels that are new among them.
        observed: the names of all observations.
    """

    values: Mapping[str, object]
    other: Mapping[str, object]
    positional: int
    left_out: frozenset[str]
    given: frozenset[str]
    codes: Mapping[str, Code]
    observed: frozenset[str]


@dataclass(frozen=True)
class Behind:
    """Arguments of the fit's rows with the new ones behind them.

    Attributes:
        arguments: these.
        before: rows of the fit.
        after: rows that are new.
        whole: whether they were given like this, so that all rows are asked for.
    """

    arguments: Arguments
    before: int
    after: int
    whole: bool


@contextmanager
def of_new_rows() -> Iterator[None]:
    """Says what can be done about values that are missing of new rows, where errors speak of a fit's.

    Raises:
        DataError: that one, in place of the fit's.
    """
    try:
        yield
    except DataError as error:
        found, _, remedy = str(error).partition(" Fix: ")
        if remedy != REMEDY:
            raise
        raise DataError(
            f"{found.removesuffix('.')}, in what is to be predicted. Fix: of covariates, fill them in or drop those rows; of "
            "observations that are labels, predict those rows in a call of their own without the argument, and score the others."
        ) from error


def arguments(problem: Problem, args: Sequence[object], kwargs: Mapping[str, object], rows: int | None) -> Arguments:
    """Completes new arguments: observations that are left out get stand-ins of their shape, what carries no rows stays as it was.

    Args:
        problem: what was fitted.
        args: new values by position.
        kwargs: new values by name; ``None`` for an observation that is to be predicted.
        rows: rows to predict, where no argument tells.

    Raises:
        ArgumentError: if there is no such argument, one with a value for each row is missing, or lengths do not go together.
    """
    names = list(problem.arguments)
    positional = len(problem.args)
    args, kwargs = taken_apart(problem, args, kwargs)
    if len(args) > positional:
        raise ArgumentError(
            f"{problem.name} takes {positional} argument{'s' * (positional != 1)} by position, got {len(args)}. "
            f"Fix: pass new values of {', '.join(names)}."
        )
    new = dict(zip(names, args, strict=False))
    further = _defaults(problem)
    for name, value in kwargs.items():
        if name not in problem.arguments and name not in further:
            raise unknown_name(f"argument of {problem.name}", name, [*names, *further])
        if name in new:
            raise ArgumentError(f"argument {name!r} is given twice. Fix: give it once.")
        new[name] = value
    seen = _observations(problem)
    new = {name: as_nan(value) if name in seen and name not in problem.codes else value for name, value in new.items()}
    given, codes = coded_anew(problem, {name: value for name, value in new.items() if value is not None})
    columns: set[str] = set()
    for name, value in new.items():
        if value is None and name not in seen:
            raise ArgumentError(
                f"argument {name!r} is None, but it is no observation of {problem.name} "
                f"(those are {', '.join(sorted(seen)) or 'none of its arguments'}). Fix: pass its new value."
            )
    lengths = _lengths(problem, {name: value for name, value in given.items() if name in problem.arguments}, rows)
    values: dict[str, object] = {}
    other: dict[str, object] = {}
    for name, old in problem.arguments.items():
        if name in given and isinstance(old, Columns) and isinstance(given[name], Columns):
            observed = observed_values(problem)
            values[name], absent = without_observed(given[name], old, observed, rolled=False)
            other[name], _ = without_observed(given[name], old, observed, rolled=True)
            columns |= {f"{name}[{column!r}]" for column in absent}
        elif name in given:
            values[name] = other[name] = given[name]
        elif name in seen:
            values[name], other[name] = _stand_ins(old, lengths.get(_rows(old), rows or _rows(old)))
        elif given and _rows(old) in lengths:
            raise ArgumentError(
                f"argument {name!r} of {problem.name} has a value for each of {_rows(old)} rows, as "
                f"{_alike(problem, given, old)!r} has, and is not given. Fix: pass {name}=... for the new rows."
            )
        else:
            values[name] = other[name] = old
    for name in given.keys() - problem.arguments.keys():
        values[name] = other[name] = given[name]
    return Arguments(
        values, other, positional, frozenset((seen - given.keys()) | columns), frozenset(given), codes, frozenset(seen)
    )


def behind(problem: Problem, asked: Arguments, rows: int | None) -> Behind | None:
    """The same arguments with the fit's rows in front; ``None`` where nothing says what new rows are.

    Arguments that begin with the fit's own rows are the whole series already.
    """
    lengths = {_rows(problem.arguments[name]) for name in asked.observed if name in problem.arguments}
    if len(lengths) != 1 or 0 in lengths:
        return None
    (before,) = lengths
    by_row = [name for name, old in problem.arguments.items() if _rows(old) == before]
    told = [name for name in by_row if name in asked.given]
    if not told and rows is None:
        return None
    new = {name: _like(name, asked.values[name], problem.arguments[name]) for name in by_row}
    sizes = {len(value) for value in new.values()}
    if len(sizes) != 1 or any(
        one.shape[1:] != _as_tensor(problem.arguments[name]).shape[1:] for name, one in new.items()
    ):
        return None
    whole = bool(told) and all(_begins(new[name], _as_tensor(problem.arguments[name])) for name in told)
    after = sizes.pop() - (before if whole else 0)
    if not after:
        return None
    values, other = dict(asked.values), dict(asked.other)
    for name, value in new.items():
        old = _as_tensor(problem.arguments[name])
        first, second = value[-after:], _like(name, asked.other[name], old)[-after:]
        values[name], other[name] = torch.cat([old, first]), torch.cat([old, second])
    return Behind(replace(asked, values=values, other=other), before, after, whole)


def _as_tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _like(name: str, value: object, old: object) -> Tensor:
    """A new value as a tensor of the old one's type."""
    like, found = _as_tensor(old), to_tensors({name: value})[name]
    return torch.as_tensor(found).to(dtype=like.dtype, device=like.device)


def _begins(new: Tensor, old: Tensor) -> bool:
    return len(new) >= len(old) and new.shape[1:] == old.shape[1:] and torch.equal(new[: len(old)], old)


def _rows(value: object) -> int:
    """The length of a tensor; 0 of anything that has none."""
    return len(value) if isinstance(value, Tensor) and value.dim() else 0


def _alike(problem: Problem, given: Mapping[str, object], old: object) -> str:
    return next(name for name in given if _rows(problem.arguments.get(name)) == _rows(old))


def _defaults(problem: Problem) -> list[str]:
    """The model's arguments that the fit left at their defaults."""
    try:
        parameters = inspect.signature(problem.function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        p.name
        for p in parameters
        if p.default is not p.empty and p.kind is not p.POSITIONAL_ONLY and p.name not in problem.arguments
    ]


def _observations(problem: Problem) -> set[str]:
    """The arguments by which observed values change: those that are observed, whole or in pieces."""
    seen = observed_values(problem)
    found = set()
    for name, value in problem.arguments.items():
        if not isinstance(value, Tensor) or not value.dim() or not len(value):
            continue
        if any(value.shape == one.shape and torch.equal(value.to(one.dtype), one) for one in seen.values()):
            found.add(name)
        elif _moves(problem, name, _changed(value), seen):
            found.add(name)
    return found


def _moves(problem: Problem, name: str, value: Tensor, seen: Mapping[str, Tensor]) -> bool:
    """Whether an observed value is another one where an argument is."""
    names = list(problem.arguments)
    place = names.index(name)
    args = tuple(value if i == place else one for i, one in enumerate(problem.args))
    kwargs = {key: value if key == name else one for key, one in problem.kwargs.items()}
    try:
        there = observed_values(problem, args, kwargs)
    except (RuntimeError, ValueError, IndexError, KeyError):  # such values are refused: they are not what is observed
        return False
    return any(
        one.shape == there[site].shape and not torch.equal(one, there[site])
        for site, one in seen.items()
        if site in there
    )


def _lengths(problem: Problem, given: Mapping[str, Any], rows: int | None) -> dict[int, int]:
    """What became of each length of the old arguments.

    Raises:
        ArgumentError: if arguments of one length have several now, or one has none.
    """
    found: dict[int, tuple[int, str]] = {}
    for name, value in given.items():
        before = _rows(problem.arguments[name])
        try:
            now = len(value) if before else 0
        except TypeError as error:
            raise ArgumentError(
                f"argument {name!r} is a single value, and had {before} rows in the fit. Fix: pass one for each new row, [{value}]."
            ) from error
        if before and before in found and found[before][0] != now:
            raise ArgumentError(
                f"arguments {found[before][1]!r} and {name!r} had {before} rows both, and now have {found[before][0]} and {now}. "
                "Fix: pass as many rows of each."
            )
        if before:
            found[before] = now, name
    if rows is not None and any(now != rows for now, _ in found.values()):
        now, name = next((now, name) for now, name in found.values() if now != rows)
        raise ArgumentError(f"rows={rows} is given beside {name!r}, which has {now}. Fix: leave rows out.")
    return {before: now for before, (now, _) in found.items()}


def _stand_ins(old: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Values for so many rows, of those that were observed, in two orders that differ wherever values do."""
    if not old.dim():
        return old, old
    if old.is_floating_point() and bool(torch.isnan(old).any()):  # what is missing is to be predicted as well
        old = torch.where(torch.isnan(old), old[~torch.isnan(old)][0], old)
    index = torch.arange(rows, device=old.device) % len(old)
    return old[index], _changed(old)[index]


def _changed(value: Tensor) -> Tensor:
    """Other values of the same kind, each row another one: that of the next row that differs, or, where all are alike, a new one."""
    rows, place = value.unique(dim=0, return_inverse=True)
    if len(rows) > 1:
        found: Tensor = rows[(place + 1) % len(rows)]
        return found
    return ~value if value.dtype == torch.bool else value + 1
