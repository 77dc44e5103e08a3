"""Predictions of more rows than memory holds draws of: batch after batch, of which means, sds and quantiles stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from pyrolvm._base.errors import ArgumentError, ProblemError
from pyrolvm._base.numerics import Array
from pyrolvm._program.frames import is_table
from pyrolvm._program.problem import Problem

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["BEHIND", "STATISTICS", "Words", "batches", "check_no_stream", "rows_at_once", "seed_of", "summarised"]

STATISTICS = ("mean", "sd", "q05", "q50", "q95")
"""What is kept of the draws of each value, dimension ``statistic``."""

QUANTILES = (0.05, 0.5, 0.95)

STRIDE = 1_000_003
"""How far apart the seeds of batches are."""

AT_ONCE = 5_000_000
"""Draws of one variable that a batch may have: arrays so large are given back to the system, those of a tenth are kept in pieces."""

PUT_IN_ORDER = 1_000_000
"""Of these, how many are put in order at once."""

BEHIND = "rows_of_the_fit_in_front"
"""The attribute of predictions that follow from the rows of the fit."""

Words = tuple[Sequence[object], Mapping[str, object]]
"""New arguments, by position and by name."""


def batches(problem: Problem, args: Sequence[object], kwargs: Mapping[str, object], draws: int) -> Iterator[Words]:
    """New arguments some rows at a time: those of an iterable of batches, or parts of those that have a value for each row.

    A batch is a table, a dictionary of arguments by name, a tuple or list of them in order, or the one argument.
    """
    if len(args) == 1 and not kwargs and _is_stream(args[0]):
        for batch in args[0]:
            if isinstance(batch, Mapping):
                yield (), {str(name): value for name, value in batch.items()}
            else:
                yield (tuple(batch) if isinstance(batch, tuple | list) else (batch,)), {}
        return
    count = _rows(problem, args, kwargs)
    step = rows_at_once(draws)
    if count <= step:
        yield args, kwargs
        return
    for first in range(0, count, step):
        part = slice(first, first + step)
        yield (
            tuple(_sliced(value, count, part) for value in args),
            {name: _sliced(value, count, part) for name, value in kwargs.items()},
        )


def check_no_stream(args: Sequence[object]) -> None:
    """Refuses batches where all draws are to be kept."""
    if len(args) == 1 and isinstance(args[0], Iterator | DataLoader):
        raise ArgumentError(
            f"{type(args[0]).__name__} gives batches, and draws of all of them are no more than memory holds. "
            "Fix: pass summary=True, or the arrays themselves."
        )


def rows_at_once(draws: int) -> int:
    """Rows of a batch, of which so many draws are taken."""
    return max(1, AT_ONCE // max(draws, 1))


def seed_of(seed: int, number: int) -> int:
    """The seed of a batch by its number."""
    return (seed + STRIDE * number) % 2**63


def _is_stream(value: object) -> TypeGuard[Iterable[object]]:
    """Whether it gives batches: an iterator, or a loader."""
    known = isinstance(value, Tensor | np.ndarray | Mapping | str | list | tuple) or is_table(value)
    return isinstance(value, Iterable) and not known and not hasattr(value, "__array__")


def _rows(problem: Problem, args: Sequence[object], kwargs: Mapping[str, object]) -> int:
    """How many rows arguments have: those whose old values had as many as an observation."""
    if args and is_table(args[0]) and isinstance(args[0], Sized):
        return len(args[0])
    named = {**dict(zip(problem.arguments, args, strict=False)), **kwargs}
    seen = {site.shape[0] for site in problem.observed if site.shape}
    lengths = [
        len(value)
        for name, value in named.items()
        if hasattr(value, "__len__")
        and isinstance(old := problem.arguments.get(name), Tensor)
        and old.dim()
        and len(old) in seen
    ]
    return max(lengths, default=0)


def _sliced(value: object, count: int, part: slice) -> object:
    if isinstance(value, str | Mapping) or not isinstance(value, Sized) or len(value) != count:
        return value
    rows: Any = getattr(value, "iloc", value)
    found: object = rows[part]
    return found


def summarised(
    words: Iterator[Words], one: Callable[[Words, int], Mapping[str, xr.Dataset]], seed: int
) -> dict[str, xr.Dataset]:
    """Predictions batch after batch, in place of whose draws :data:`STATISTICS` stay.

    Args:
        words: arguments of each batch.
        one: predicts a batch with a seed.
        seed: makes it repeatable.

    Raises:
        ProblemError: if batches cannot be predicted one by one, since rows follow from those before them.
    """
    parts: list[dict[str, xr.Dataset]] = []
    for number, given in enumerate(words):
        found = one(given, seed_of(seed, number))
        parts.append(_summary(found))
        tied = BEHIND in found["predictions"].attrs
        del found
        if number and tied:
            raise ProblemError(
                "rows of this model follow from those before them, so that they cannot be predicted batch after batch. "
                "Fix: pass all rows at once, with fewer draws or without summary=True."
            )
    if not parts:
        raise ArgumentError("the stream gave no batch. Fix: pass an iterable of batches, or arrays.")
    if len(parts) == 1:
        return parts[0]
    return {group: _joined([part[group] for part in parts]) for group in parts[0]}


def _summary(found: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The groups of a prediction without draws."""
    import xarray as xr

    kept = {}
    for group in ("predictions", "reconstructions"):
        if group in found:
            data = found[group]
            each = {
                str(name): ([*map(str, values.dims[2:]), "statistic"], _statistics(values.to_numpy()))
                for name, values in data.data_vars.items()
            }
            coords = {name: value for name, value in data.coords.items() if name not in ("chain", "draw")}
            kept[group] = xr.Dataset(each, coords={**coords, "statistic": list(STATISTICS)}, attrs=data.attrs)
    for group in ("scores", "predictions_constant_data"):
        if group in found:
            kept[group] = found[group]
    return kept


def _statistics(draws: Array) -> Array:
    """Mean, sd and quantiles of each value, the last dimension."""
    shape = draws.shape[2:]
    flat = draws.reshape(draws.shape[0] * draws.shape[1], -1)
    step = max(1, PUT_IN_ORDER // max(len(flat), 1))
    parts = [_of_each(flat[:, first : first + step]) for first in range(0, flat.shape[1], step)] or [_of_each(flat)]
    found: Array = np.concatenate(parts).reshape(*shape, len(STATISTICS))
    return found


def _of_each(flat: Array) -> Array:
    """The statistics of each column."""
    rows: Any = np.ascontiguousarray(flat.T, dtype=np.float64 if flat.dtype.itemsize == 8 else np.float32)
    rows.sort(axis=1)  # draws of a value side by side, which are put in order many times faster
    with np.errstate(invalid="ignore"):  # of counts without end
        whole: list[Any] = [rows.mean(axis=1, dtype=np.float64), rows.std(axis=1)]
    for share in QUANTILES:
        place = share * (rows.shape[1] - 1)
        low = int(place)
        high = min(low + 1, rows.shape[1] - 1)
        with np.errstate(invalid="ignore"):
            between = rows[:, low] + (place - low) * (rows[:, high] - rows[:, low])
        whole.append(np.where(rows[:, low] == rows[:, high], rows[:, low], between))
    found: Array = np.stack(whole, axis=-1).astype(rows.dtype)
    return found


def _joined(parts: list[xr.Dataset]) -> xr.Dataset:
    """Datasets of batches as one: what has a dimension whose length or labels follow the batches is put together along it."""
    import xarray as xr

    first = parts[0]
    lengths = {dim: {part.sizes.get(dim) for part in parts} for dim in map(str, first.sizes)}
    along = _row_dims(parts, lengths)
    values: dict[str, Any] = {}
    for name, value in first.data_vars.items():
        dim = next((str(one) for one in value.dims if str(one) in along), None)
        if dim is not None:
            arrays = [part[name].to_numpy() for part in parts]
            values[str(name)] = (value.dims, np.concatenate(arrays, axis=value.dims.index(dim)))
    coords: dict[str, Any] = {
        str(name): value for name, value in first.coords.items() if str(name) not in along and value.dims != ()
    }
    for dim in along:
        if dim in first.coords:
            labels = [part[dim].to_numpy() for part in parts]
            numbered = all(np.array_equal(one, np.arange(len(one))) for one in labels)
            coords[dim] = np.arange(sum(map(len, labels))) if numbered else np.concatenate(labels)
    return xr.Dataset(values, coords=coords, attrs=_attributes(parts))


def _row_dims(parts: list[xr.Dataset], lengths: Mapping[str, set[int | None]]) -> set[str]:
    """The dimensions of rows: those of a variable whose first dimension is as long as the batch."""
    found = set()
    rows = [max((part.sizes[dim] for dim in part.sizes if dim != "statistic"), default=0) for part in parts]
    for dim in lengths:
        if dim != "statistic" and all(part.sizes.get(dim) == count for part, count in zip(parts, rows, strict=True)):
            found.add(dim)
    return found


def _attributes(parts: list[xr.Dataset]) -> dict[str, Any]:
    """Attributes of all batches: sums of what is a sum over rows, means of shares, errors by their squares."""
    found: dict[str, Any] = dict(parts[0].attrs)
    counts = np.array([max(part.sizes.values(), default=1) for part in parts], dtype=float)
    for name in list(found):
        every = [part.attrs.get(name) for part in parts]
        if not all(isinstance(one, int | float | np.number) for one in every):
            continue
        values = np.array(every, dtype=float)
        if name.endswith("lpd_error"):
            found[name] = float(values.sum())  # the same draws scored all batches
        elif name.endswith("_error"):
            found[name] = float(np.sqrt((values**2).sum()))
        elif name.endswith("_lpd") or name in ("lpd", "seconds"):
            found[name] = float(values.sum())
        elif name.endswith("_crps") or "inside" in name.split("_"):
            found[name] = float((values * counts).sum() / counts.sum())
    return found
