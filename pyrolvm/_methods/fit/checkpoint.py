"""Checkpoints of a fit: all that the next step depends on, so that a fit that goes on takes the very steps it would have taken.

Each part of a fit says what it is by ``state()``, nested values of numbers and arrays, and becomes it again by ``restore(state)``:
the engine with its optimiser and random numbers, the rows of the current pass, the history, the parameters' path, the rescue and the
schedule. Callbacks that have ``state_dict()`` and ``load_state_dict(state)`` are kept as well. Random states are restored last.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from pyrolvm._base import randomness, runtime
from pyrolvm._base.errors import StoreError
from pyrolvm._base.team import Team
from pyrolvm._methods.fit.engines import Engine, Work
from pyrolvm._methods.fit.modules import modules_of
from pyrolvm._runs import Run
from pyrolvm._runs.packing import pack, unpack, write_tensors
from pyrolvm._runs.readers import parse_tensors

__all__ = ["Keeper", "Parts"]


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
            "buffers": _buffers(self.work),
            "optimizer": self.work.stepper.state(),
            "rows": self.work.place(),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            **{name: part.state() for name, part in self.rest.items() if part is not None},
            "random": randomness.random_states(),
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
        _copy(state["buffers"], _buffers(self.work), folder)
        self.work.stepper.restore(state["optimizer"], runtime.parameters())
        self.work.go_to(state["rows"])
        for callback, one in zip(self.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(one)
        for part_name, part in self.rest.items():
            if part is not None:
                part.restore(state[part_name])
        self.engine.restore(state["engine"])
        randomness.restore_random_states(state["random"])


class Keeper:
    """Writes the checkpoints of a fit, and goes on from the last one.

    Args:
        run: the fit in its folder; ``None`` where nothing is kept, or by another process.
        team: the processes that make the fit together, of which the first one reads and writes.
    """

    def __init__(self, run: Run | None, team: Team | None = None) -> None:
        self.store = None if run is None else run.checkpoints
        found = None if self.store is None else self.store.read()
        self.found = None if found is None else found.state
        self.place = Path() if self.store is None else self.store.run
        if team is not None:
            self.found = _passed_on(self.found, team)
        self._parts: Parts | None = None

    def hold(self, work: Work) -> None:
        """Gives parameters that the steps do not move the values that they had when the run began; before anything is compiled."""
        if self.found is None:
            return
        moved = {id(parameter) for parameter in work.parameters()}
        fixed = {name: p for name, p in runtime.parameters().items() if id(p) not in moved}
        values = self.found["parameters"]
        _copy({name: values[name] for name in fixed if name in values}, fixed, self.place)

    def bind(self, parts: Parts) -> dict[str, Any] | None:
        """Takes the parts to keep; where there is a checkpoint, restores them, and returns where the search was."""
        self._parts = parts
        if self.found is None:
            return None
        state, self.found = self.found, None
        parts.restore(state, self.place)
        return dict(state["search"])

    def look(self, search: Callable[[], Mapping[str, Any]], *, now: bool = False) -> None:
        """Writes a checkpoint if one is due. A disk that does not take it is named in a warning; those before stay."""
        parts = self._parts
        if parts is not None and self.store is not None:
            self.store.look(lambda: {"search": dict(search()), **parts.state()}, now=now)


def _passed_on(state: dict[str, Any] | None, team: Team) -> dict[str, Any] | None:
    """The state that the first process has read, in all of them."""
    tensors: dict[str, torch.Tensor] = {}
    text = io.BytesIO()
    values = io.BytesIO()
    if state is not None:
        text.write(json.dumps(pack(state, tensors)).encode())
        write_tensors(tensors, values)
    said = team.told(text.getvalue())
    held = team.told(values.getvalue())
    if not said or team.leads:
        return state
    return cast("dict[str, Any]", unpack(json.loads(said), parse_tensors(held, "what process 0 sent")))


def _buffers(work: Work) -> dict[str, torch.Tensor]:
    """The buffers of the modules of model and guide, such as running means; not copies."""
    modules = modules_of(work.problem, work.guide).items()
    return {f"{name}.{key}": buffer for name, module in modules for key, buffer in module.named_buffers()}


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
