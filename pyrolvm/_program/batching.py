"""Minibatches: which rows a run sees, and the scale that makes them stand for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrolvm._base import runtime
from pyrolvm._base.errors import ArgumentError, ProblemError
from pyrolvm._base.explain import explained
from pyrolvm._program.program import Program
from pyrolvm._program.rows import minibatch_plate
from pyrolvm._program.sites import Plate, is_deterministic
from pyrolvm._program.starting import Start, centre

__all__ = ["Batch", "Minibatches", "Rows", "check_minibatches", "full_plates"]


@dataclass(frozen=True)
class Batch:
    """Arguments for one run of a model or guide, and what its plates stand for meanwhile."""

    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    plates: Mapping[str, runtime.Subsample]

    @classmethod
    def of(cls, problem: Program, indices: Tensor | None, *, plate: str | None = None) -> Batch:
        """The rows ``indices`` of one plate of ``problem``; all rows for ``None``.

        Raises:
            ArgumentError: if no plate, or more than one, could be meant, or an index is out of range.
        """
        if indices is None:
            return cls(problem.args, problem.kwargs, full_plates(problem))
        chosen = minibatch_plate(problem, plate)
        indices = torch.as_tensor(indices, device=problem.device)
        if indices.dim() != 1 or not len(indices) or int(indices.min()) < 0 or int(indices.max()) >= chosen.size:
            raise ArgumentError(
                f"batch indices must be a non-empty vector of rows between 0 and {chosen.size - 1} of plate {chosen.name!r}. "
                "Fix: pass for example torch.arange(10)."
            )
        return slice_rows(problem, chosen, indices)

    def trace(self, problem: Program, values: Mapping[str, Tensor] | None = None) -> Any:
        """A scored run of the model on this batch, latents at ``values`` or else at the centre of their supports."""
        given = values or {}

        def start(message: Mapping[str, Any]) -> Tensor:
            return given[message["name"]] if message["name"] in given else centre(message)

        with self.active(), runtime.validation(False), torch.no_grad():
            trace = poutine.trace(Start(start)(problem.model)).get_trace(*self.args, **self.kwargs)
            trace.compute_log_prob()
        return trace

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes plates stand for this batch, in whatever model or guide runs meanwhile."""
        if self.plates:
            with runtime.plates(self.plates):
                yield
        else:
            yield


def slice_rows(problem: Program, plate: Plate, indices: Tensor) -> Batch:
    """The batch without checks, for the inner loop."""
    policy = {**full_plates(problem), plate.name: runtime.Subsample(plate.size, indices)}
    if plate.subsampled:  # the model indexes its data by itself
        return Batch(problem.args, problem.kwargs, policy)
    args = tuple(_rows(value, plate.size, indices) for value in problem.args)
    kwargs = {name: _rows(value, plate.size, indices) for name, value in problem.kwargs.items()}
    return Batch(args, kwargs, policy)


def full_plates(problem: Program) -> dict[str, runtime.Subsample]:
    """The policy under which plates that subsample by themselves take all their rows."""
    return {
        plate.name: runtime.Subsample(plate.size, torch.arange(plate.size, device=problem.device))
        for plate in problem.plates.values()
        if plate.subsampled
    }


def check_minibatches(problem: Program, plate: Plate, size: int) -> None:
    """Runs the model on ``size`` rows and checks that its density stands for the whole.

    Raises:
        ProblemError: if a site outside the plate shrinks with the data or has a density that changes with them, so that
            nothing scales it up.
    """
    device = problem.device
    parts = [torch.arange(size, device=device), torch.arange(plate.size - size, plate.size, device=device)]
    with problem.session(seed=0):
        with explained(f"model {problem.name!r} on {size} of {plate.size} rows"):
            whole = Batch.of(problem, None).trace(problem)
            outside = {
                name: node
                for name, node in whole.nodes.items()
                if name in problem.sites and plate.name not in problem.sites[name].plates and not is_deterministic(node)
            }
            values = {name: node["value"] for name, node in outside.items() if not node["is_observed"]}
            traces = [slice_rows(problem, plate, rows).trace(problem, values) for rows in parts]
    fix = f'Fix: put it into `with pyro.plate("{plate.name}", len(y)):`.'
    for name, node in outside.items():
        for trace in traces:
            part = trace.nodes[name]
            here, there = tuple(node["fn"].shape()), tuple(part["fn"].shape())
            if here != there:
                raise ProblemError(
                    f"site {name!r} shrinks from shape {here} to {there} on {size} of {plate.size} rows but is not inside plate "
                    f"{plate.name!r}, so its density would not be scaled by {plate.size / size:g}. {fix}"
                )
            if not torch.allclose(node["log_prob_sum"], part["log_prob_sum"], rtol=1e-4, atol=1e-5, equal_nan=True):
                raise ProblemError(
                    f"site {name!r} is not inside plate {plate.name!r}, but its log density changes from "
                    f"{float(node['log_prob_sum']):.4g} to {float(part['log_prob_sum']):.4g} on {size} of {plate.size} rows, and "
                    f"nothing would scale it. {fix}"
                )


@dataclass
class Rows:
    """Row numbers, batch after batch, without end.

    Attributes:
        total: how many rows there are.
        size: how many a batch has.
        left: the rows of the current pass that are still to come, in their order.
    """

    total: int
    size: int
    left: Tensor

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> tuple[Tensor]:
        while len(self.left) < self.size:
            self.left = torch.cat([self.left, torch.randperm(self.total, device=self.left.device)])
        indices, self.left = self.left[: self.size], self.left[self.size :]
        return (indices,)

    def state(self) -> dict[str, object]:
        """What is left of the current pass."""
        return {"left": self.left}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to a place."""
        self.left = state["left"].to(self.left.device)


@dataclass
class Minibatches:
    """Endless shuffled passes over the rows of a plate, each row once a pass.

    The last, shorter batch of a pass is filled from the next one, so that every batch has the same size.
    """

    problem: Program
    plate: Plate
    size: int

    @property
    def total(self) -> int:
        """Rows that a batch stands for."""
        return self.plate.size

    def rows(self) -> Rows:
        """Indices of rows, batch after batch, each of shape ``(size,)``, alone in a tuple."""
        return Rows(self.plate.size, self.size, torch.empty(0, dtype=torch.long, device=self.problem.device))

    def batch(self, rows: Tensor) -> Batch:
        """The batch of those rows."""
        return slice_rows(self.problem, self.plate, rows)

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(*rows) for rows in self.rows())


def _rows(value: object, size: int, indices: Tensor) -> object:
    if isinstance(value, Tensor) and value.dim() and len(value) == size:
        return value[indices]
    return value
