"""The engine ``"pyro"``: every step is one run of guide and model under Pyro's handlers. It runs whatever Pyro runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from pyrolvm._methods.fit.engines.base import Work, columns
from pyrolvm._methods.fit.objectives import PureELBO
from pyrolvm._program.steady import Watch
from pyrolvm._results.history import Taken

__all__ = ["PyroEngine"]


class PyroEngine:
    """Steps on stock Pyro."""

    name = "pyro"
    limit = 1
    compile_seconds = 0.0

    def __init__(self, work: Work) -> None:
        self.work = work
        # Rows and data that change by design say nothing about the program.
        self.watch = Watch(values=work.minibatches is None and work.transform is None)

    @property
    def changes(self) -> str:
        """What was not the same in every step; empty where everything was."""
        return self.watch.changes

    def advance(self, first: int, factors: Sequence[float]) -> Taken:
        """Takes the steps one by one."""
        objective, found = self.work.objective, []
        for step, factor in enumerate(factors, first):
            if isinstance(objective, PureELBO):
                objective.at(step)
            found.append(self._step(factor))
        return columns(found)

    def publish(self) -> None:
        """Nothing to do: the parameters in the store are the ones that move."""

    def restart(self) -> None:
        """Forgets what the optimiser knows."""
        self.work.stepper.restart()

    def state(self) -> dict[str, object]:
        """Nothing of its own: parameters, optimiser and random numbers are the session's."""
        return {}

    def restore(self, state: Mapping[str, object]) -> None:
        """Nothing to do."""

    def _step(self, factor: float) -> tuple[float, float, float, bool]:
        try:
            loss, error = self._loss_and_grads()
        except LinAlgError:  # a matrix without a factor has no density: a step to be skipped, as one that overflows
            loss, error = math.nan, math.nan
        params = self.work.parameters()
        good = _finite(loss, params)
        if good:
            self.work.stepper.step(params, factor)
        else:
            for parameter in params:
                parameter.grad = None
        return loss, error, self.work.stepper.learning_rate, good

    def _loss_and_grads(self) -> tuple[float, float]:
        work = self.work
        batch = work.batch(work.rows())
        with batch.active(), self.watch:
            if isinstance(work.objective, PureELBO):
                values = work.objective.particles(work.problem.model, work.guide, *batch.args, **batch.kwargs)
                loss = -values.mean()
                if loss.requires_grad:
                    loss.backward()
                error = float(values.detach().std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
                return float(loss.detach()), error
            stock: Any = work.objective  # Pyro's base class does not declare the methods that all its ELBOs have
            loss = stock.loss_and_grads(work.problem.model, work.guide, *batch.args, **batch.kwargs)
            return float(loss), math.nan


def _finite(loss: float, params: Sequence[Tensor]) -> bool:
    if not math.isfinite(loss):
        return False
    grads = [p.grad for p in params if p.grad is not None]
    return not grads or bool(torch.stack([torch.isfinite(g).all() for g in grads]).all())
