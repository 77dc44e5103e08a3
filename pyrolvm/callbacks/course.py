"""The course of a fit as numbers by step, for whoever keeps such numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pyrolvm._base.errors import positive_int
from pyrolvm._methods.fit.loop import Step

__all__ = ["Course"]


class Course(ABC):
    """Tells loss, learning rate, held-out loss and the norms of the parameters, all steps' loss and rate, also between two calls.

    A subclass says where they go.

    Args:
        every: steps between two calls.
        norms: whether to tell the root mean square of each parameter at each call.
    """

    def __init__(self, every: int, norms: bool) -> None:
        self.every, self.norms = positive_int("every", every), norms
        self._written = self._looks = 0

    def __call__(self, step: Step) -> None:
        """Tells what has happened since the last call."""
        history = step.history
        if history is None:
            return
        if step.step < self._written:  # another fit
            self.close()
            self._written = self._looks = 0
        by_step: dict[int, dict[str, float]] = {}
        for i in range(self._written, len(history.losses)):
            by_step[i] = {"loss": history.losses[i], "learning_rate": history.rates[i]}
        self._written = len(history.losses)
        for at, loss in history.validation[self._looks :]:
            by_step.setdefault(at, {})["validation_loss"] = loss
        self._looks = len(history.validation)
        if self.norms:
            for name, value in step.parameters().items():
                size = value.detach().square().mean().sqrt()
                by_step.setdefault(step.step, {})[f"rms/{name.replace('$$$', '.')}"] = float(size)
        self._write({at: by_step[at] for at in sorted(by_step)})

    @abstractmethod
    def _write(self, by_step: dict[int, dict[str, float]]) -> None:
        """Keeps numbers by name of some steps, in order."""

    @abstractmethod
    def close(self) -> None:
        """Ends what is written; a later call begins anew."""
