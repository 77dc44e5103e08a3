"""The course of a fit in runs of Weights & Biases and of MLflow, which are the caller's."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pyrolvm.callbacks.course import Course

__all__ = ["MLflow", "WandB"]


class WandB(Course):
    """Logs loss, learning rate, held-out loss and the norms of the parameters to a run of Weights & Biases.

    The run is yours: begin it by ``wandb.init(mode="offline")`` or as you like, and finish it. Each step's loss and rate are logged,
    also those between two calls; the number of the step is the column ``step``, so that a run may hold more than one fit.

    Args:
        run: what ``wandb.init`` gives; by default the run that is active at the first call.
        every: steps between two calls.
        norms: whether to log the root mean square of each parameter at each call.

    Raises:
        ImportError: if wandb is not installed.
        RuntimeError: at the first call, if no run is active.
    """

    def __init__(self, run: Any = None, *, every: int = 100, norms: bool = True) -> None:
        super().__init__(every, norms)
        self.run = run
        self._wandb = _imported("wandb", "WandB")

    def _write(self, by_step: dict[int, dict[str, float]]) -> None:
        run = self.run if self.run is not None else self._wandb.run
        if run is None:
            raise RuntimeError(
                "lvm.callbacks.WandB: no run is active. Fix: call wandb.init() before the fit, or pass run=wandb.init(...)."
            )
        for step, numbers in by_step.items():
            run.log({**numbers, "step": step})

    def close(self) -> None:
        """Leaves the run to its owner."""


class MLflow(Course):
    """Logs loss, learning rate, held-out loss and the norms of the parameters to a run of MLflow.

    The run is yours: ``with mlflow.start_run(): lvm.fit(problem, callbacks=[lvm.callbacks.MLflow()])``. Each step's loss and rate are
    logged, also those between two calls, under the number of the step.

    Args:
        run_id: of the run; by default the one that is active.
        every: steps between two calls.
        norms: whether to log the root mean square of each parameter at each call.

    Raises:
        ImportError: if mlflow is not installed.
    """

    def __init__(self, run_id: str | None = None, *, every: int = 100, norms: bool = True) -> None:
        super().__init__(every, norms)
        self.run_id = run_id
        self._mlflow = _imported("mlflow", "MLflow")

    def _write(self, by_step: dict[int, dict[str, float]]) -> None:
        for step, numbers in by_step.items():
            # Names of MLflow have no brackets.
            named = {name.replace("[", ".").replace("]", ""): value for name, value in numbers.items()}
            self._mlflow.log_metrics(named, step=step, run_id=self.run_id)

    def close(self) -> None:
        """Leaves the run to its owner."""


def _imported(name: str, callback: str) -> Any:
    """A module that an extra of that name installs.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"lvm.callbacks.{callback} needs {name}. Fix: pip install 'pyrolvm[{name}]'.") from error
