"""Minibatches: which rows a run sees, and the scale that makes them stand for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger
from torch import Tensor

from pyrolvm import runtime
from pyrolvm.errors import ArgumentError, ProblemError
from pyrolvm.program.explain import explained
from pyrolvm.program.inspection import Plate, centre, is_random

if TYPE_CHECKING:
    from pyrolvm.program.problem import Problem

__all__ = ["Batch", "Minibatches", "check_minibatches", "full_plates", "minibatch_plate"]


@dataclass(frozen=True)
class Batch:
    """Arguments for one run of a model or guide, and what its plates stand for meanwhile."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    plates: Mapping[str, runtime.Subsample]

    @classmethod
    def of(cls, problem: Problem, indices: Tensor | None, *, plate: str | None = None) -> Batch:
        """The rows ``indices`` of one plate of ``problem``; all rows for ``None``.

        Raises:
            ArgumentError: if no plate, or more than one, could be meant, or an index is out of range.
        """
        if indices is None:
            return problem.whole
        chosen = minibatch_plate(problem, plate)
        indices = torch.as_tensor(indices, device=problem.device)
        if indices.dim() != 1 or not len(indices) or int(indices.min()) < 0 or int(indices.max()) >= chosen.size:
            raise ArgumentError(
                f"batch indices must be a non-empty vector of rows between 0 and {chosen.size - 1} of plate {chosen.name!r}. "
                "Fix: pass for example torch.arange(10)."
            )
        return slice_rows(problem, chosen, indices)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes plates stand for this batch, in whatever model or guide runs meanwhile."""
        if self.plates:
            with runtime.plates(self.plates):
                yield
        else:
            yield


def slice_rows(problem: Problem, plate: Plate, indices: Tensor) -> Batch:
    """The batch without checks, for the inner loop."""
    policy = {**full_plates(problem), plate.name: runtime.Subsample(plate.size, indices)}
    if plate.subsampled:  # the model indexes its data by itself
        return Batch(problem.args, problem.kwargs, policy)
    args = tuple(_rows(value, plate.size, indices) for value in problem.args)
    kwargs = {name: _rows(value, plate.size, indices) for name, value in problem.kwargs.items()}
    return Batch(args, kwargs, policy)


def full_plates(problem: Problem) -> dict[str, runtime.Subsample]:
    """The policy under which plates that subsample by themselves take all their rows."""
    return {
        plate.name: runtime.Subsample(plate.size, torch.arange(plate.size, device=problem.device))
        for plate in problem.plates.values()
        if plate.subsampled
    }


def minibatch_plate(problem: Problem, name: str | None = None) -> Plate:
    """The plate whose rows a minibatch takes.

    Raises:
        ArgumentError: if there is none, several, or none of that name.
    """
    around_data = {p for site in problem.observed for p in site.plates}
    candidates = {
        plate.name: plate
        for plate in problem.plates.values()
        if plate.name in around_data and (plate.subsampled or _has_rows(problem, plate.size))
    }
    if name is not None:
        if name not in candidates:
            raise ArgumentError(
                f"plate {name!r} cannot be subsampled: no observed site with rows of its own is in it. "
                f"Fix: use one of {', '.join(candidates) or 'none: this model has no such plate'}."
            )
        return candidates[name]
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    if not candidates:
        raise ArgumentError(
            f"batch_size needs a plate over the rows of the data around an observed site; {problem.name} has none. "
            'Fix: put the observation into `with pyro.plate("data", len(y)):`, or leave batch_size out.'
        )
    raise ArgumentError(
        f"batch_size could mean the rows of {' or '.join(repr(p) for p in candidates)}. "
        f"Fix: name one, for example batch_plate={next(iter(candidates))!r}."
    )


def check_minibatches(problem: Problem, plate: Plate, size: int) -> None:
    """Runs the model once on ``size`` rows and checks that its density stands for the whole.

    Raises:
        ProblemError: if a site shrinks with the data but is outside the plate, so that nothing scales it up.
    """
    batch = slice_rows(problem, plate, torch.arange(size, device=problem.device))
    with runtime.session(seed=0, dtype=problem.dtype, device=problem.device, validate=True), batch.active():
        with explained(f"model {problem.name!r} on {size} of {plate.size} rows"), torch.no_grad():
            trace = poutine.trace(InitMessenger(centre)(problem.model)).get_trace(*batch.args, **batch.kwargs)
            trace.compute_log_prob()
    for name, node in trace.nodes.items():
        if not is_random(node) or name not in problem.sites:
            continue
        site = problem.sites[name]
        inside = plate.name in site.plates
        if site.kind in ("observed", "latent") and not inside and tuple(node["fn"].shape()) != site.shape:
            raise ProblemError(
                f"site {name!r} shrinks from shape {site.shape} to {tuple(node['fn'].shape())} on {size} of {plate.size} rows "
                f"but is not inside plate {plate.name!r}, so its density would not be scaled by {plate.size / size:g}. "
                f'Fix: put it into `with pyro.plate("{plate.name}", len(y)):`.'
            )


@dataclass
class Minibatches:
    """Endless shuffled passes over the rows of a plate, each row once a pass.

    The last, shorter batch of a pass is filled from the next one, so that every batch has the same size.
    """

    problem: Problem
    plate: Plate
    size: int

    def __iter__(self) -> Iterator[Batch]:
        rows = torch.empty(0, dtype=torch.long, device=self.problem.device)
        while True:
            while len(rows) < self.size:
                rows = torch.cat([rows, torch.randperm(self.plate.size, device=self.problem.device)])
            indices, rows = rows[: self.size], rows[self.size :]
            yield slice_rows(self.problem, self.plate, indices)


def _has_rows(problem: Problem, size: int) -> bool:
    return any(isinstance(value, Tensor) and value.dim() and len(value) == size for value in problem.arguments.values())


def _rows(value: Any, size: int, indices: Tensor) -> Any:
    if isinstance(value, Tensor) and value.dim() and len(value) == size:
        return value[indices]
    return value
