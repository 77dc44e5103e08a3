"""Held-out data during a fit: how well it does on them, when to stop, and the parameters that did best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base import randomness, runtime
from pyrolvm._base.errors import ArgumentError, DataError, positive_int
from pyrolvm._base.explain import explained
from pyrolvm._methods.fit.engines.base import Work, write
from pyrolvm._methods.fit.modules import modules_of
from pyrolvm._methods.fit.objectives import PureELBO
from pyrolvm._program import data
from pyrolvm._program.batching import Batch, full_plates
from pyrolvm._program.data import first_non_finite
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import has_latents, plate_of_rows
from pyrolvm._program.sites import Plate
from pyrolvm._results.history import History

__all__ = ["HeldOut", "Validation", "check", "held_out"]

SEED = 20_231
"""Of the random numbers of each look at held-out data, which are the same every time."""

LOOKS = 50
"""How often held-out data are looked at in a whole budget, where a pass over the data is no shorter."""


@dataclass(frozen=True)
class HeldOut:
    """Arguments of a model with held-out data among them.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        plate: the plate of the rows; ``None`` if the model has none that could be meant.
        rows: how many there are.
        names: the arguments that are held-out data.
    """

    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    plate: Plate | None
    rows: int
    names: frozenset[str]

    @property
    def fingerprint(self) -> str:
        """A checksum of the held-out data."""
        values = [*self.args, *(self.kwargs[name] for name in sorted(self.kwargs))]
        return data.fingerprint(value for value in values if isinstance(value, Tensor))


def held_out(problem: Problem, given: object, plate: str | None) -> HeldOut:
    """Held-out data in place of the data of a problem.

    Args:
        problem: the problem that is fitted.
        given: a mapping from names of the model's arguments to held-out data, or a problem of the same model with them.
        plate: the plate of the rows, where several could be meant.

    Raises:
        ArgumentError: if the names are not the model's, or rows differ.
        DataError: if a value is not finite.
    """
    if isinstance(given, Problem):
        given = {name: value for name, value in given.arguments.items() if isinstance(value, Tensor)}
    if not isinstance(given, Mapping) or not given or not given.keys() <= problem.arguments.keys():
        shown = ", ".join(map(repr, given)) if isinstance(given, Mapping) else type(given).__name__
        raise ArgumentError(
            f"validation must be a dictionary of arguments of {problem.name} ({', '.join(problem.arguments)}), or a Problem of that "
            f"model, got {shown or 'an empty one'}. Fix: pass for example "
            f'validation={{"{next(iter(problem.arguments), "x")}": held_out}}.'
        )
    values = {
        name: data.cast(value, dtype=problem.dtype, device=problem.device)
        for name, value in data.to_tensors(given).items()
    }
    for name, value in values.items():
        where = first_non_finite(value) if isinstance(value, Tensor) else None
        if where:
            raise DataError(f"validation argument {name!r} has {where}. Fix: drop or impute those rows.")
    chosen = plate_of_rows(problem, plate)
    rows = _rows(problem, values, chosen)
    args = tuple(values.get(n, v) for n, v in zip(problem.arguments, problem.args, strict=False))
    kwargs = {name: values.get(name, value) for name, value in problem.kwargs.items()}
    return HeldOut(args, kwargs, chosen, rows, frozenset(values))


def _rows(problem: Problem, values: Mapping[str, Any], plate: Plate | None) -> int:
    """The number of held-out rows; every argument with the plate's rows has to be among the held-out ones."""
    if plate is None:
        return 1
    by_row = [n for n, v in problem.arguments.items() if isinstance(v, Tensor) and v.dim() and len(v) == plate.size]
    lengths = {name: len(values[name]) for name in by_row if name in values}
    missing = [name for name in by_row if name not in values]
    if missing or len(set(lengths.values())) != 1:
        found = ", ".join(f"{name}: {length}" for name, length in lengths.items()) or "none"
        raise ArgumentError(
            f"validation has rows ({found}) of plate {plate.name!r}, whose arguments are {', '.join(by_row)}. "
            "Fix: give each of them, with as many rows."
        )
    return next(iter(lengths.values()))


@dataclass
class Validation:
    """Looks at held-out data every so many steps, keeps the best parameters, and says when to stop.

    The loss of held-out data is minus the objective on them, as if they were all rows of the problem, so that it compares with
    the loss of the steps. Modules are in evaluation mode, and each look draws the same random numbers.

    Attributes:
        work: what is optimised.
        data: the held-out data.
        every: steps between two looks.
        patience: looks without improvement that end the search; ``None`` for no end.
        steps: when it looked.
        losses: what it saw.
    """

    work: Work
    data: HeldOut
    every: int
    patience: int | None
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._kept: list[Tensor] | None = None
        self._check_rows()
        with explained(f"model {self.work.problem.name!r} on the validation data", ArgumentError):
            self.loss()

    @classmethod
    def of(cls, work: Work, data: HeldOut, every: int | None, patience: int | None, max_steps: int) -> Validation:
        """By default a look comes after each pass over the data, or every 2% of the budget where that takes longer."""
        passes = 1 if work.minibatches is None else math.ceil(work.minibatches.total / work.minibatches.size)
        return cls(work, data, every or max(passes, math.ceil(max_steps / LOOKS)), patience)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"steps": list(self.steps), "losses": list(self.losses), "kept": self._kept or []}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Becomes what :meth:`state` said."""
        self.steps, self.losses = [int(step) for step in state["steps"]], [float(loss) for loss in state["losses"]]
        self._kept = list(state["kept"]) or None

    @property
    def best(self) -> float:
        """The smallest loss so far."""
        return min(self.losses, default=math.inf)

    @property
    def best_step(self) -> int:
        """When it was seen."""
        return self.steps[int(np.argmin(self.losses))] if self.losses else 0

    @property
    def total(self) -> int:
        """Rows that the losses are of."""
        if self.data.plate is None:
            return 1
        return self.data.plate.size if self.work.minibatches is None else self.work.minibatches.total

    def look(self, step: int, history: History) -> bool:
        """Notes the loss after ``step`` steps, whose parameters have been published; returns whether it is time to stop."""
        self._note(step, history)
        since = len(self.losses) - 1 - int(np.argmin(self.losses))
        return self.patience is not None and since >= self.patience

    def finish(self, history: History) -> None:
        """Looks at the last parameters too, and goes back to the best ones."""
        self._note(len(history) + history.skipped, history)
        history.attrs |= {
            "validation_rows": self.data.rows,
            "validation_best": self.best,
            "validation_best_step": self.best_step,
        }
        history.attrs |= {"loss_rows": self.total}
        if self._kept is not None:
            write(self._kept, self.work.parameters())

    def reason(self) -> str:
        """Why it ended the search."""
        return (
            f"the loss on {self.data.rows:,} held-out rows has not improved on {self.best:.6g}, of step {self.best_step}, in "
            f"{self.patience} looks; the parameters of that step are kept"
        )

    def loss(self) -> float:
        """The loss of the held-out data at the parameters as they are; infinite where it is not finite."""
        work, objective = self.work, cast(Any, self.work.objective)
        modules = modules_of(work.problem, work.guide).values()
        total = 0.0
        with randomness.random_state(SEED, work.problem.device), torch.no_grad(), runtime.evaluating(modules):
            for rows in self._chunks():
                batch = self._batch(rows)
                with batch.active():
                    if isinstance(objective, PureELBO):
                        found = -objective.particles(work.problem.model, work.guide, *batch.args, **batch.kwargs).mean()
                    else:
                        found = objective.loss(work.problem.model, work.guide, *batch.args, **batch.kwargs)
                total += float(found) * len(rows) / self.data.rows
        return total if math.isfinite(total) else math.inf

    def _note(self, step: int, history: History) -> None:
        if self.steps and self.steps[-1] == step:
            return
        loss = self.loss()
        if self._kept is None or loss < self.best:
            self._kept = [p.detach().clone() for p in self.work.parameters()]
        self.steps.append(step)
        self.losses.append(loss)
        history.validation = list(zip(self.steps, self.losses, strict=True))

    def _chunks(self) -> Sequence[Tensor]:
        size = self.data.rows if self.work.minibatches is None else self.work.minibatches.size
        return torch.arange(self.data.rows, device=self.work.problem.device).split(size)

    def _batch(self, rows: Tensor) -> Batch:
        """Some of the held-out rows, scaled as if they were all rows of the problem."""
        problem, plate = self.work.problem, self.data.plate
        if plate is None:
            return Batch(self.data.args, self.data.kwargs, full_plates(problem))

        def pick(name: str, value: Any) -> object:
            by_row = (
                isinstance(value, Tensor) and value.dim() and name in self.data.names and len(value) == self.data.rows
            )
            return value[rows] if by_row else value

        args = tuple(pick(n, v) for n, v in zip(problem.arguments, self.data.args, strict=False))
        kwargs = {name: pick(name, value) for name, value in self.data.kwargs.items()}
        indices = torch.arange(len(rows), device=problem.device)
        return Batch(args, kwargs, {**full_plates(problem), plate.name: runtime.Subsample(self.total, indices)})

    def _check_rows(self) -> None:
        """Refuses guides that know the rows they were fitted to, and no others."""
        problem, plate = self.work.problem, self.data.plate
        if plate is None or not has_latents(problem, plate.name):
            return
        mine = set(problem.parameters)
        for name, value in runtime.parameters().items():
            if name not in mine and value.dim() and len(value) == plate.size:
                raise ArgumentError(
                    f"the guide's parameter {name!r} has a row for each row of plate {plate.name!r}, so the guide says nothing of "
                    'held-out rows. Fix: use guide="amortized", whose encoder reads them, or leave validation out.'
                )


def check(every: object, patience: object, given: object) -> None:
    """Checks what goes with ``validation``.

    Raises:
        ArgumentError: if something is out of range, or given without it.
    """
    if given is None and every is not None:
        raise ArgumentError(
            "validate_every is given without validation, so there is nothing to look at. Fix: pass validation too."
        )
    if every is not None:
        positive_int("validate_every", every)
    if patience is not None:
        positive_int("patience", patience)
