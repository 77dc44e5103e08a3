"""What happened in a search, step by step: losses, their errors and rates, and why it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyrolvm._base.numerics import Array

__all__ = ["History", "Taken"]


@dataclass(frozen=True)
class Taken:
    """Steps that were taken, each array of shape ``(steps,)``.

    Attributes:
        losses: minus the ELBO; not finite where the step was skipped.
        errors: the losses' standard errors, NaN where unknown.
        rates: the learning rates.
        good: whether loss and gradient were finite; if not, the parameters did not move.
    """

    losses: Array
    errors: Array
    rates: Array
    good: Array


class Series:
    """Numbers that come in parts and are looked at as one array."""

    def __init__(self) -> None:
        self._room = np.empty(1024)
        self._count = 0

    def extend(self, numbers: Array) -> None:
        """Adds numbers at the end."""
        end = self._count + len(numbers)
        if end > len(self._room):
            self._room = np.concatenate([self._room, np.empty(max(end, len(self._room)))])
        self._room[self._count : end] = numbers
        self._count = end

    @property
    def values(self) -> Array:
        """All numbers so far; not a copy."""
        return self._room[: self._count]

    def __len__(self) -> int:
        return self._count


@dataclass
class History:
    """What happened, step by step, and why it ended. Steps that were skipped leave no entry."""

    _losses: Series = field(default_factory=Series)
    _errors: Series = field(default_factory=Series)
    _rates: Series = field(default_factory=Series)
    converged: bool = False
    interrupted: bool = False
    reason: str = ""
    skipped: int = 0
    validation: list[tuple[int, float]] = field(default_factory=list)
    attrs: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, elbos: Array, *, converged: bool, reason: str) -> History:
        """The history of an algorithm that has no learning rate."""
        history = cls(converged=converged, reason=reason)
        unknown = np.full(len(elbos), np.nan)
        history.add(Taken(-elbos, unknown, unknown, np.ones(len(elbos), dtype=bool)))
        return history

    @property
    def losses(self) -> Array:
        """Minus the ELBO at each step."""
        return self._losses.values

    @property
    def errors(self) -> Array:
        """The standard errors of the losses, NaN where unknown."""
        return self._errors.values

    @property
    def rates(self) -> Array:
        """The learning rate of each step."""
        return self._rates.values

    def add(self, taken: Taken) -> None:
        """Notes the good ones among the steps taken."""
        kept = slice(None) if taken.good.all() else taken.good
        self._losses.extend(taken.losses[kept])
        self._errors.extend(taken.errors[kept])
        self._rates.extend(taken.rates[kept])
        self.skipped += int((~taken.good).sum())

    def __len__(self) -> int:
        return len(self._losses)

    def state(self) -> dict[str, Any]:
        """What happened so far."""
        columns = {"losses": self.losses, "errors": self.errors, "rates": self.rates}
        return {**columns, "converged": self.converged, "reason": self.reason, "skipped": self.skipped}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        for series, name in ((self._losses, "losses"), (self._errors, "errors"), (self._rates, "rates")):
            series.extend(state[name])
        self.converged, self.reason, self.skipped = state["converged"], state["reason"], state["skipped"]
