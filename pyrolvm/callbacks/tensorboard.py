"""The course of a fit in TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyrolvm._base.errors import positive_int
from pyrolvm._methods.fit.loop import Step

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes loss, learning rate, held-out loss and the norms of the parameters for TensorBoard.

    Each step's loss and rate are written, also those between two calls. See them by ``tensorboard --logdir folder``.

    Args:
        folder: where to write; each fit of one folder is better given a folder of its own.
        every: steps between two calls.
        norms: whether to write the root mean square of each parameter at each call.

    Raises:
        ImportError: if tensorboard is not installed.
    """

    def __init__(self, folder: str | Path, *, every: int = 100, norms: bool = True) -> None:
        self.every = positive_int("every", every)
        self.folder, self.norms = Path(folder), norms
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "lvm.callbacks.TensorBoard needs tensorboard. Fix: pip install 'pyrolvm[tensorboard]'."
            ) from error
        self._make: Any = SummaryWriter
        self._writer: Any = None
        self._written = self._looks = 0

    def __call__(self, step: Step) -> None:
        """Writes what has happened since the last call."""
        history = step.history
        if history is None:
            return
        if step.step < self._written:  # another fit
            self.close()
            self._written = self._looks = 0
        if self._writer is None:
            self._writer = self._make(str(self.folder))
        losses, rates = history.losses, history.rates
        for i in range(self._written, len(losses)):
            self._writer.add_scalar("loss", losses[i], i)
            self._writer.add_scalar("learning_rate", rates[i], i)
        self._written = len(losses)
        for at, loss in history.validation[self._looks :]:
            self._writer.add_scalar("validation_loss", loss, at)
        self._looks = len(history.validation)
        if self.norms:
            for name, value in step.parameters().items():
                size = value.detach().square().mean().sqrt()
                self._writer.add_scalar(f"rms/{name.replace('$$$', '.')}", float(size), step.step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file; a later call opens a new one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
