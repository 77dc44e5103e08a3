"""Checkpoints of a fit: all that the next step depends on, so that a fit that goes on takes the very steps it would have taken.

Each part of a fit says what it is by ``state()``, nested values of numbers and arrays, and becomes it again by ``restore(state)``:
the engine with its optimiser and random numbers, the rows of the current pass, the history, the parameters' path, the rescue and the
schedule. Callbacks that have ``state_dict()`` and ``load_state_dict(state)`` are kept as well. Random states are restored last.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyrolvm import runtime
from pyrolvm.errors import ArgumentError, PyrolvmWarning, StoreError, positive_float
from pyrolvm.vi.engines import Engine, Work

if TYPE_CHECKING:
    from pyrolvm.store import Checkpoints

__all__ = ["EVERY", "Keeper", "Pace", "Parts", "check_saving", "warn_of_disk"]

EVERY = 60.0
"""Seconds between checkpoints by default."""

SHARE = 0.01
"""The share of the time that checkpoints may take by default: where one takes long, they are further apart."""


class Pace:
    """When the next checkpoint is due.

    Args:
        every: seconds between two; ``None`` for a minute, or longer where writing one takes more than a hundredth of that.
    """

    def __init__(self, every: float | None) -> None:
        self._every, self._fixed = (EVERY, False) if every is None else (every, True)
        self._last, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is."""
        wait = self._every if self._fixed else max(self._every, self._took / SHARE)
        return time.monotonic() - self._last >= wait

    def written(self, began: float) -> None:
        """Notes that one was written, or tried to be, from ``began`` on."""
        self._last = time.monotonic()
        self._took = self._last - began


class Parts:
    """The parts of a fit that a checkpoint holds.

    Args:
        work: what is optimised.
        engine: what takes the steps.
        rest: other parts, by name: objects with ``state`` and ``restore``.
        callbacks: the user's.
    """

    def __init__(self, work: Work, engine: Engine, rest: Mapping[str, Any], callbacks: Sequence[Any]) -> None:
        self.work, self.engine, self.rest = work, engine, rest
        self.callbacks = [c for c in callbacks if hasattr(c, "state_dict") and hasattr(c, "load_state_dict")]

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        self.engine.publish()
        return {
            "engine": {"name": self.engine.name, **self.engine.state()},
            "parameters": {name: p.detach() for name, p in runtime.parameters().items()},
            "buffers": self.work.buffers(),
            "optimizer": self.work.stepper.state(),
            "rows": self.work.rows_left,
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            **{name: part.state() for name, part in self.rest.items() if part is not None},
            "random": runtime.random_states(),
        }

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """Becomes what :meth:`state` said.

        Raises:
            StoreError: if the fit is another one.
        """
        name = state["engine"]["name"]
        if name != self.engine.name:
            raise StoreError(
                f"{folder} was made with another engine: {name}, now {self.engine.name}. "
                f"Fix: pass engine={name!r}, or see engine_reason of a new fit for why it is not that one here."
            )
        _copy(state["parameters"], runtime.parameters(), folder)
        _copy(state["buffers"], self.work.buffers(), folder)
        self.work.stepper.restore(state["optimizer"], runtime.parameters())
        self.work.rows_left = state["rows"]
        for callback, one in zip(self.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(one)
        for part_name, part in self.rest.items():
            if part is not None:
                part.restore(state[part_name])
        self.engine.restore(state["engine"])
        runtime.restore_random_states(state["random"])


class Keeper:
    """Writes the checkpoints of a fit, and goes on from the last one.

    Args:
        store: where they are.
        every: seconds between two; see :class:`Pace`.
    """

    def __init__(self, store: Checkpoints, every: float | None) -> None:
        self.store = store
        self.found = store.read()
        self._pace = Pace(every)
        self._parts: Parts | None = None

    def hold(self, work: Work) -> None:
        """Gives parameters that the steps do not move the values that they had when the run began; before anything is compiled."""
        if self.found is None:
            return
        moved = {id(parameter) for parameter in work.parameters()}
        fixed = {name: p for name, p in runtime.parameters().items() if id(p) not in moved}
        values = self.found.state["parameters"]
        _copy({name: values[name] for name in fixed if name in values}, fixed, self.store.folder.parent)

    def bind(self, parts: Parts) -> dict[str, Any] | None:
        """Takes the parts to keep; where there is a checkpoint, restores them, and returns where the search was."""
        self._parts = parts
        if self.found is None:
            return None
        state, self.found = self.found.state, None
        parts.restore(state, self.store.folder.parent)
        return dict(state["search"])

    def look(self, search: Callable[[], Mapping[str, Any]], *, now: bool = False) -> None:
        """Writes a checkpoint if one is due. A disk that does not take it is named in a warning; those before stay."""
        if self._parts is None or not (now or self._pace.due()):
            return
        began = time.monotonic()
        try:
            self.store.write({"search": dict(search()), **self._parts.state()})
        except OSError as error:
            warn_of_disk(self.store, error)
        self._pace.written(began)


def warn_of_disk(store: Checkpoints, error: OSError) -> None:
    """Says that a checkpoint could not be written."""
    warnings.warn(
        f"a checkpoint could not be written to {store.folder}: {error}. The run goes on, and the checkpoint before is as it was. "
        "Fix: make room on the disk; the next one is tried in a while.",
        PyrolvmWarning,
        stacklevel=3,
    )


def check_saving(out: Any, resume: bool | str, checkpoint_every: float | None) -> None:
    """Refuses arguments about a run's folder that say nothing.

    Raises:
        ArgumentError: if one is out of its range, or is given without the folder.
    """
    from pyrolvm.store import check_resume

    check_resume(resume)
    if checkpoint_every not in (None, 0):
        positive_float("checkpoint_every", checkpoint_every)
    for name, given in (("resume", resume), ("checkpoint_every", checkpoint_every is not None)):
        if given and out is None:
            raise ArgumentError(
                f'{name} is given without out, the folder to keep the run in. Fix: pass out="runs/a" too.'
            )


def _copy(values: Mapping[str, Any], into: Mapping[str, Any], folder: Path) -> None:
    was = {name: tuple(value.shape) for name, value in values.items()}
    now = {name: tuple(value.shape) for name, value in into.items()}
    if was != now:
        other = sorted(set(was.items()) ^ set(now.items()))
        shown = ", ".join(f"{name} {list(shape)}" for name, shape in other[:6])
        raise StoreError(
            f"{folder} is of a model and guide with other parameters than these: {shown} {'and more ' if len(other) > 6 else ''}are in "
            "one of them alone. Fix: use the model, guide and data that it was begun with, or name another folder."
        )
    with torch.no_grad():
        for name, value in values.items():
            into[name].copy_(value)
