"""The data that a fit is evaluated on, as a problem, and the plate whose rows are its data points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base import randomness
from pyrolvm._base.errors import ArgumentError, DataError, ProblemError, positive_int
from pyrolvm._check.validating.folds import row_count, without
from pyrolvm._program.batching import slice_rows
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import plate_of_independent_rows
from pyrolvm._results import Fit

__all__ = ["held_out", "part", "some_rows", "split"]


def part(problem: Problem, rows: Tensor, plate: str) -> Problem:
    """Those rows as a problem of their own."""
    batch = slice_rows(problem, problem.plates[plate], rows)
    if problem.plates[plate].subsampled:
        raise ProblemError(
            f"{problem.name} subsamples plate {plate!r} by itself, so that its rows cannot be taken apart. "
            f'Fix: write `pyro.plate("{plate}", len(x))`, and pass batch_size= to lvm.fit.'
        )
    return Problem(problem.program, *batch.args, **batch.kwargs).replace(name=problem.name, info=problem.info)


def split(problem: Problem, share: float, *, seed: int = 0, plate: str | None = None) -> tuple[Problem, Problem]:
    """A problem as two, the second of them of a share of the rows, chosen at random, to be held out of a fit.

    Args:
        problem: the whole.
        share: of the rows, above 0 and below 1.
        seed: makes it repeatable.
        plate: the plate of the rows, where several could be meant.

    Raises:
        ArgumentError: if a part would be empty.
        ProblemError: if rows cannot be taken apart.
    """
    try:
        chosen = plate_of_independent_rows(problem, plate)
    except ProblemError:  # rows share latents
        chosen = None
    size = row_count(problem, plate) if chosen is None else problem.plates[chosen].size
    count = round(share * size) if 0 < share < 1 else 0
    if not 0 < count < size:
        raise ArgumentError(f"a share of {share!r} of {size} rows leaves a part empty. Fix: pass for example 0.25.")
    order = torch.randperm(size, generator=torch.Generator().manual_seed(randomness.folded(seed))).to(problem.device)
    if chosen is None:
        first, second = (part.sort().values.cpu().numpy() for part in (order[count:], order[:count]))
        return without(problem, size, second), without(problem, size, first)
    return part(problem, order[count:].sort().values, chosen), part(problem, order[:count].sort().values, chosen)


def held_out(fit: Fit, data: object, plate: str, what: str = "data") -> Problem:
    """Held-out data as a problem with the fit's model.

    Args:
        fit: the fit.
        data: a problem; the model's arguments by name, those left out being the fit's; a tuple of those that have a row for each data
            point, in the model's order; or the one such argument.
        plate: the plate of the rows.
        what: the argument's name, for messages.

    Raises:
        DataError: if the data are not of the fit's model, or not finite.
        ArgumentError: if it is none of these.
    """
    problem = fit.attached
    if data is None:
        return problem
    if isinstance(data, Problem):
        rows = _by_row(data, plate)
        if rows and set(rows) == set(_by_row(problem, plate)):
            # Under the fit's own model: its modules are the ones that the fitted parameters go into.
            return held_out(fit, {name: data.arguments[name] for name in rows}, plate, what)
        made = data.to(dtype=problem.dtype, device=problem.device)
    else:
        named = {
            name: _like(value, problem.arguments[name]) for name, value in _named(problem, data, plate, what).items()
        }
        kept = {name: named.get(name, value) for name, value in problem.arguments.items()}
        values = list(kept.values())[: len(problem.args)]
        rest = {name: kept[name] for name in problem.kwargs}
        try:
            made = Problem(problem.program, *values, **rest)
        except DataError:
            raise
        except ProblemError as error:
            raise DataError(
                f"{problem.name} does not run on {what}=: {error} Data: {_shapes(named)}; "
                f"the fit was made on {_shapes({name: problem.arguments[name] for name in named})}."
            ) from error
        made = made.replace(name=problem.name, info=problem.info).to(dtype=problem.dtype, device=problem.device)
    _check_same(problem, made, plate, what)
    return made


def _like(value: object, own: object) -> object:
    """Whole numbers, and yes or no, as reals where the fit has reals."""
    if not (isinstance(own, Tensor) and own.is_floating_point()):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biu":
        value = torch.as_tensor(value)
    if isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex()):
        return value.to(own)
    return value


def _by_row(problem: Problem, plate: str) -> list[str]:
    """The arguments that have a row for each data point."""
    if plate not in problem.plates:
        return []
    size = problem.plates[plate].size
    return [
        n for n, value in problem.arguments.items() if isinstance(value, Tensor) and value.dim() and len(value) == size
    ]


def _named(problem: Problem, data: object, plate: str, what: str) -> dict[str, object]:
    by_row = _by_row(problem, plate)
    if isinstance(data, Mapping):
        unknown = [str(name) for name in data if name not in problem.arguments]
        if unknown:
            raise ArgumentError(
                f"{what} has {unknown[0]!r}, which is no argument of {problem.name}. "
                f"Fix: use one of {', '.join(problem.arguments)}."
            )
        missing = [name for name in by_row if name not in data]
        if missing:
            raise ArgumentError(
                f"{what} lacks {missing[0]!r}, of which {problem.name} takes a row for each data point. Fix: give it too."
            )
        return dict(data)
    if isinstance(data, str) or callable(data):
        raise ArgumentError(
            f"{what} must be arrays or a Problem, got {data!r}. Fix: pass what the model takes, by name or in order."
        )
    values = list(data) if isinstance(data, tuple) else [data]
    if len(values) != len(by_row):
        raise ArgumentError(
            f"{what} has {len(values)} arrays, and {problem.name} takes {len(by_row)} with a row for each data point "
            f"({', '.join(by_row) or 'none'}). Fix: pass a dictionary of the model's arguments by name."
        )
    return dict(zip(by_row, values, strict=True))


def _shapes(values: Mapping[str, object]) -> str:
    parts = [f"{name} {tuple(getattr(value, 'shape', ()))}" for name, value in values.items()]
    return ", ".join(parts) or "nothing"


def _check_same(problem: Problem, made: Problem, plate: str, what: str) -> None:
    """Refuses data under which the model is another one."""
    if plate not in made.plates:
        raise DataError(
            f"{what} is of a problem without plate {plate!r}, whose rows the fit has. Fix: pass the fit's model."
        )
    for mine in (*problem.latents, *problem.observed):
        other = made.sites.get(mine.name)
        if other is None or other.kind != mine.kind:
            raise DataError(
                f"{what} is of a problem in which {mine.name!r} is {'not there' if other is None else other.kind}; in the fit's it is "
                f"{mine.kind}. Fix: pass data for the model that was fitted."
            )
        ours, theirs = (_row_shape(p, p.sites[mine.name], plate) for p in (problem, made))
        if ours != theirs:
            raise DataError(
                f"a row of {mine.name!r} has shape {theirs} in {what}, {ours} in the fit. Fix: pass data of the same shape."
            )
    extra = next((site.name for site in (*made.latents, *made.observed) if site.name not in problem.sites), None)
    if extra is not None:
        raise DataError(
            f"{what} is of a problem with a site {extra!r}, which the fit's lacks. Fix: pass the fit's model."
        )


def _row_shape(problem: Problem, site: Any, plate: str) -> tuple[int, ...]:
    dim = problem.plates[plate].dim
    assert dim is not None
    axis = len(site.batch_shape) + dim
    return tuple(n for i, n in enumerate(site.shape) if i != axis)


def some_rows(rows: int | Sequence[int] | Tensor | None, size: int, what: str = "rows") -> Tensor:
    """Indices of the rows that are meant: all, so many evenly spread, or those.

    Raises:
        ArgumentError: if there are no such rows.
    """
    if rows is None:
        return torch.arange(size)
    if isinstance(rows, int) and not isinstance(rows, bool):
        count = min(positive_int(what, rows), size)
        return torch.linspace(0, size - 1, count).round().long().unique()
    chosen = torch.as_tensor(rows)
    fine = chosen.dim() == 1 and len(chosen) and not chosen.is_floating_point() and chosen.dtype != torch.bool
    if not fine or int(chosen.min()) < 0 or int(chosen.max()) >= size:
        raise ArgumentError(
            f"{what} must be a number of rows or indices from 0 to {size - 1}, got {rows!r}. Fix: pass for example {what}=100."
        )
    return chosen.long().cpu()
