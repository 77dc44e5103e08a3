"""What an engine is: something that takes optimisation steps and says how they went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from pyro.infer import ELBO
from torch import Tensor

from pyrolvm._base import runtime
from pyrolvm._base.team import Team
from pyrolvm._methods.fit.optimizer import Stepper
from pyrolvm._program.batching import Batch, Minibatches, Rows
from pyrolvm._program.problem import Problem
from pyrolvm._program.streamed import Streamed
from pyrolvm._program.streaming import Passes
from pyrolvm._program.transforming import Transform
from pyrolvm._results.history import Taken
from pyrolvm.family.protocol import Hooks

__all__ = ["Engine", "MakeEngine", "Work"]


@dataclass
class Work:
    """What is to be optimised: a guide for a problem, under an objective, by an optimiser, on batches of rows.

    Attributes:
        problem: the problem.
        guide: its guide, run once already, so that its parameters are in the session's store.
        objective: the loss.
        stepper: the optimiser.
        minibatches: where the rows of each step come from; ``None`` for all rows.
        seed: for the random numbers of engines that have their own.
        transform: changes the arguments of each step before guide and model see them; ``None`` if they stay as they are.
        steady: whether guide and model were seen to be the same in every run on what the steps see.
        share: the processes that share the rows of each step; ``None`` for this one alone.
    """

    problem: Problem
    guide: Callable[..., object]
    objective: ELBO
    stepper: Stepper
    minibatches: Minibatches | Streamed | None
    seed: int
    transform: Transform | None = None
    steady: bool = False
    share: Team | None = None

    def __post_init__(self) -> None:
        self._rows: Rows | Passes | None = None

    def rows(self) -> list[Tensor]:
        """What the next batch is made of: its row numbers, or the tensors of a stream; an empty list for all rows.

        Of processes that share it, each has its own part.
        """
        if self.minibatches is None:
            return []
        if self._rows is None:
            self._rows = self.minibatches.rows()
        found = list(next(self._rows))
        return found if self.share is None else [one[self.share.part(len(one))] for one in found]

    def place(self) -> dict[str, object] | None:
        """Where in the data the steps are; ``None`` before the first, and if each sees all rows."""
        return None if self._rows is None else self._rows.state()

    def go_to(self, place: Mapping[str, object] | None) -> None:
        """Goes back to a place."""
        self._rows = None
        if place is not None and self.minibatches is not None:
            self._rows = self.minibatches.rows()
            self._rows.restore(place)

    def aside(self) -> Batch:
        """A batch like those of the steps, which does not count among them."""
        return self.batch([] if self.minibatches is None else next(iter(self.minibatches.rows())))

    def batch(self, rows: Sequence[Tensor]) -> Batch:
        """The batch of those rows, transformed."""
        batch = self.minibatches.batch(*rows) if rows and self.minibatches is not None else self.problem.whole
        return batch if self.transform is None else self.transform.apply(batch)

    def parameters(self) -> list[Tensor]:
        """The unconstrained parameters that the steps move, in the order of the store; one with two names comes once."""
        held = tuple(f".{name}" for name in Hooks(self.guide).held)
        named = runtime.parameters().items()
        return list({id(value): value for name, value in named if not (held and name.endswith(held))}.values())


class Engine(Protocol):
    """Takes steps.

    Attributes:
        name: what the result records.
        limit: how many steps one call may take.
        compile_seconds: what capturing and compiling took.
    """

    @property
    def name(self) -> str: ...

    @property
    def limit(self) -> int: ...

    @property
    def compile_seconds(self) -> float: ...

    def advance(self, first: int, factors: Sequence[float]) -> Taken:
        """Takes one step for each factor of the learning rate; ``first`` is the number of the first one."""

    def publish(self) -> None:
        """Writes the parameters it has reached into the session's store."""

    def restart(self) -> None:
        """Goes on from the parameters in the session's store, with an optimiser that remembers nothing."""

    def state(self) -> dict[str, object]:
        """What its next step depends on besides the session's store and random state, as numbers and arrays."""

    def restore(self, state: Mapping[str, object]) -> None:
        """Becomes what :meth:`state` said; the session's store is restored before, its random state afterwards."""


class MakeEngine(Protocol):
    """What makes an engine: a function, or a class of engines."""

    def __call__(self, work: Work, chunk: int, /) -> Engine:
        """The engine for ``work``, of which one call takes at most ``chunk`` steps.

        Raises:
            CaptureError: if it cannot run that; stock Pyro does it then, and says why.
        """


def columns(rows: Sequence[tuple[float, float, float, bool]]) -> Taken:
    """Steps noted one by one."""
    losses, errors, rates, good = zip(*rows, strict=True)
    return Taken(np.array(losses), np.array(errors), np.array(rates), np.array(good))


def write(values: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    """Copies values into parameters."""
    with torch.no_grad():
        for value, parameter in zip(values, into, strict=True):
            parameter.copy_(value)
