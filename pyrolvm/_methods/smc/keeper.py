"""Checkpoints of a climb: the particles after a stage, and what happened up to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pyrolvm._base.errors import StoreError
from pyrolvm._methods.evidence.annealing import Cloud
from pyrolvm._methods.smc.sampler import Stage, Swarm
from pyrolvm._runs import Run

__all__ = ["Keeper"]


class Keeper:
    """Writes the particles when it is time, and gives back the last ones.

    Args:
        run: the climb in its folder; ``None`` where nothing is kept.
    """

    def __init__(self, run: Run | None) -> None:
        self._store = None if run is None else run.checkpoints
        self._setup = ""

    def begin(self, first: Swarm) -> Swarm:
        """The particles of the newest checkpoint; the first ones if there is none.

        Raises:
            StoreError: if those of the checkpoint began elsewhere.
        """
        self._setup = hashlib.sha256(np.ascontiguousarray(first.cloud.points).tobytes()).hexdigest()
        found = None if self._store is None else self._store.read()
        if self._store is None or found is None:
            return first
        if found.state["setup"] != self._setup:
            raise StoreError(
                f"{self._store.run}: the particles would begin elsewhere than they did: draws of the prior, or coordinates, are not "
                "what they were. Fix: run on the machine that it began on, or name another folder."
            )
        return _unpacked(found.state)

    def look(self, swarm: Swarm, *, now: bool = False) -> None:
        """Writes a checkpoint if one is due. A disk that does not take it is named in a warning."""
        if self._store is not None:
            self._store.look(lambda: {"setup": self._setup, **_packed(swarm)}, now=now)


def _packed(swarm: Swarm) -> dict[str, object]:
    return {
        "cloud": {one.name: getattr(swarm.cloud, one.name) for one in fields(Cloud)},
        "islands": swarm.islands,
        "ancestor": swarm.ancestor,
        "steps": list(swarm.steps),
        "stages": [{one.name: getattr(stage, one.name) for one in fields(Stage)} for stage in swarm.stages],
    }


def _unpacked(state: Mapping[str, Any]) -> Swarm:
    return Swarm(
        Cloud(**{name: np.asarray(values) for name, values in state["cloud"].items()}),
        int(state["islands"]),
        np.asarray(state["ancestor"]),
        tuple(float(step) for step in state["steps"]),
        tuple(Stage(**stage) for stage in state["stages"]),
    )
