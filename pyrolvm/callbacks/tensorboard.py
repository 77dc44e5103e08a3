"""The course of a fit in TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyrolvm.callbacks.course import Course

__all__ = ["TensorBoard"]


class TensorBoard(Course):
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
        super().__init__(every, norms)
        self.folder = Path(folder)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "lvm.callbacks.TensorBoard needs tensorboard. Fix: pip install 'pyrolvm[tensorboard]'."
            ) from error
        self._make: Any = SummaryWriter
        self._writer: Any = None

    def _write(self, by_step: dict[int, dict[str, float]]) -> None:
        if self._writer is None:
            self._writer = self._make(str(self.folder))
        for step, numbers in by_step.items():
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file; a later call opens a new one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
