"""Checkpoints of chains: where each is, and its draws, each written once.

A kernel says where its chains are as nested values of numbers and arrays, and what they have drawn since the last checkpoint. Chains
that go on from there draw what they would have drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from pyrolvm._base.errors import StoreError
from pyrolvm._runs import Run

__all__ = ["ChainKeeper", "attributes", "restore_attributes"]


class ChainKeeper:
    """Writes the checkpoints of chains, and goes on from the last one.

    Args:
        run: the chains in their folder.
    """

    def __init__(self, run: Run) -> None:
        self.store = run.checkpoints
        self._found = self.store.read()
        self._setup = ""

    @property
    def kernel(self) -> str | None:
        """The kernel that the chains there are began with; ``None`` if there are none."""
        return None if self._found is None else str(self._found.state["kernel"])

    def set_up(self, *values: Tensor | None) -> None:
        """Notes what the chains begin with.

        Raises:
            StoreError: if those that are there began with something else.
        """
        digest = hashlib.sha256()
        for value in values:
            digest.update(b"none" if value is None else np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
        self._setup = digest.hexdigest()
        if self._found is not None and self._found.state["setup"] != self._setup:
            raise StoreError(
                f"{self.store.run}: the chains would begin elsewhere than they did. What is found before the first "
                "transition, such as starts and scales, is not the same as it was. Fix: pass the same init, run on the machine that it "
                "began on, or name another folder."
            )

    def begin(self, kernel: str) -> tuple[dict[str, Any], list[Any]] | None:
        """Where the chains of a kernel are and the pieces that they have drawn; ``None`` to start anew.

        Raises:
            StoreError: if they are another kernel's.
        """
        found, self._found = self._found, None
        if found is None:
            return None
        if found.state["kernel"] != kernel:
            raise StoreError(
                f"{self.store.run} was made with another kernel: {found.state['kernel']}, now {kernel}. "
                "Fix: use the machine and libraries that it was begun with, or name another folder."
            )
        return found.state["chains"], found.chunks

    def look(
        self, kernel: str, chains: Callable[[], dict[str, Any]], drawn: Callable[[], Any], *, now: bool = False
    ) -> bool:
        """Writes a checkpoint if one is due; returns whether it did. A disk that does not take it is named in a warning."""
        return self.store.look(lambda: {"kernel": kernel, "setup": self._setup, "chains": chains()}, drawn, now=now)


# --- Pyro's kernels, which have no state of their own to hand out -----------------------------------------------------


def attributes(thing: Any) -> dict[str, Any]:
    """The numbers, tensors and text among an object's attributes, and likewise those of the objects of Pyro's that it holds."""
    found: dict[str, Any] = {}
    for name, value in vars(thing).items():
        if _plain(value):
            found[name] = value
        elif _is_part(value):
            found[name] = (attributes(value),)
        elif isinstance(value, dict) and value and all(_is_part(one) for one in value.values()):
            found[name] = [(key, attributes(one)) for key, one in value.items()]
    return found


def restore_attributes(thing: Any, state: Mapping[str, Any]) -> None:
    """Gives an object that was made in the same way the attributes that :func:`attributes` found."""
    for name, value in state.items():
        present = getattr(thing, name, None)
        if _is_part(present):
            restore_attributes(present, value[0])
        elif isinstance(present, dict) and present and all(_is_part(one) for one in present.values()):
            for key, one in value:
                restore_attributes(present[key], one)
        else:
            setattr(thing, name, value)


def _is_part(value: Any) -> bool:
    return type(value).__module__.startswith("pyro.") and hasattr(value, "__dict__")


def _plain(value: Any) -> bool:
    """Whether a value can be packed and comes back as what it was."""
    if value is None or isinstance(value, bool | int | float | str | Tensor | np.ndarray):
        return True
    if type(value) in (list, tuple):
        return all(_plain(one) for one in value)
    return type(value) is dict and all(_plain(key) and _plain(one) for key, one in value.items())
