"""Tables of pandas, polars and pyarrow as arguments of a model: their columns by name, or whole."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from pyrolvm._base.errors import ProblemError
from pyrolvm._program.arrays import columns_of, is_number_column
from pyrolvm._program.binding import called_of, function_of
from pyrolvm._program.columns import Columns
from pyrolvm._program.usage import NamedIndex

__all__ = [
    "DESIGN",
    "asked_by_name",
    "by_name",
    "column_names",
    "columns_by_name",
    "designed",
    "is_table",
    "with_columns",
]


def is_table(value: object) -> bool:
    """Whether a value is a data frame or an Arrow table."""
    if type(value).__module__.partition(".")[0] not in ("pandas", "polars", "pyarrow"):
        return False
    columns = getattr(value, "columns", None)
    return columns is not None and getattr(value, "ndim", 2) == 2 and not callable(columns)


def column_names(table: Any) -> list[object]:
    """The names of a table's columns."""
    return list(table.column_names if hasattr(table, "column_names") else table.columns)


def _columns(table: Any) -> Iterator[tuple[object, object]]:
    if hasattr(table, "column_names"):
        yield from ((name, table.column(i)) for i, name in enumerate(table.column_names))
    else:
        yield from columns_of(table)


def columns_by_name(table: object) -> dict[object, object]:
    """The columns of a table."""
    return dict(_columns(table))


DESIGN = "__pyrolvm_design__"
"""The attribute of a program that makes its arguments of a table, which has not got them as columns."""


def designed(model: Callable[..., object], table: object) -> dict[str, Any] | None:
    """The arguments that a program makes of a table itself; ``None`` where it takes columns as they are."""
    design = getattr(function_of(model), DESIGN, None)
    return None if design is None else dict(design(table))


def by_name(
    model: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> tuple[tuple[object, ...], dict[str, object], bool]:
    """Positional and keyword arguments, where a table as the only positional one has been taken apart by the model's signature.

    It is where every argument that the model requires, and that is not given by keyword, is the name of a column; optional ones take
    the columns of their names, and other columns are left out. Otherwise it is one argument.

    Returns:
        Both, and whether a table was taken apart.

    Raises:
        ProblemError: if columns of one name would be taken.
    """
    if len(args) != 1 or not is_table(args[0]):
        return tuple(args), dict(kwargs), False
    made = designed(model, args[0])
    if made is not None:
        return (), {**made, **kwargs}, True
    try:
        parameters = list(inspect.signature(called_of(model)).parameters.values())
    except (TypeError, ValueError):
        return tuple(args), dict(kwargs), False
    columns = [name for name, _ in _columns(args[0])]
    free = [p for p in parameters if p.name not in kwargs and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = [p.name for p in free if p.default is p.empty]
    wanted = [p.name for p in free if p.name in columns]
    if not wanted or not set(required) <= set(wanted):
        return tuple(args), dict(kwargs), False
    twice = next((name for name in wanted if columns.count(name) > 1), None)
    if twice is not None:
        raise ProblemError(f"the table has {columns.count(twice)} columns called {twice!r}. Fix: name each once.")
    taken = dict(_columns(args[0]))
    positional: list[object] = []
    for parameter in parameters:
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.name not in wanted:
            break
        positional.append(taken[parameter.name])
    rest = {name: taken[name] for name in wanted[len(positional) :]}
    return tuple(positional), {**rest, **kwargs}, True


def with_columns(bound: Mapping[str, object]) -> dict[str, object]:
    """Arguments with tables that hold more than numbers as their columns; those of numbers alone are matrices as they are."""
    return {name: _as_columns(value) if _holds_more(value) else value for name, value in bound.items()}


def _holds_more(value: object) -> bool:
    return is_table(value) and not all(is_number_column(column) for _, column in _columns(value))


def asked_by_name(bound: Mapping[str, object], error: BaseException) -> dict[str, object] | None:
    """Arguments with tables as their columns, where a model failed because it asked a matrix for a column; ``None`` otherwise.

    Args:
        bound: the arguments as they were given.
        error: how the first run failed.
    """
    tables = [value for value in bound.values() if is_table(value)]
    cause = error.__cause__
    attribute = cause.name if isinstance(cause, AttributeError) and isinstance(cause.obj, torch.Tensor) else None
    if not isinstance(error, NamedIndex) and not any(attribute in column_names(table) for table in tables):
        return None
    return {name: _as_columns(value) if is_table(value) else value for name, value in bound.items()} if tables else None


def _as_columns(table: object) -> Columns:
    return Columns(_columns(table))
