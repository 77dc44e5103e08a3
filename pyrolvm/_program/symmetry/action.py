r"""Maps of a draw to another of the same density: signed permutations of its numbers, with shifts that may wrap around.

A draw is one flat vector :math:`x` of constrained values. An action maps it to :math:`y_i = s_i x_{\pi(i)} + c_i`, brought
back into :math:`[l_i, l_i + P_i)` where number i has a period :math:`P_i`. All of them preserve volume, so that an action
under which a density is invariant maps its law to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Action", "Values", "closure", "identity", "reflection", "sign_flip", "swap", "turn"]

Values = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Action:
    """One map of flat vectors of n numbers.

    Attributes:
        source: where each number comes from, integers of shape ``(n,)``.
        sign: what it is multiplied by, 1 or -1.
        shift: what is added.
        low: the lower end of its interval; 0 without a period.
        period: the length of its interval where it wraps around; infinite elsewhere.
    """

    source: Values
    sign: Values
    shift: Values
    low: Values
    period: Values

    def __call__(self, x: Values) -> Values:
        """The images of vectors of shape ``(..., n)``."""
        y: Values = self.sign * x[..., self.source] + self.shift
        wraps = np.isfinite(self.period)
        if wraps.any():
            low, period = self.low[wraps], self.period[wraps]
            y[..., wraps] = low + np.mod(y[..., wraps] - low, period)
        return y

    @property
    def moved(self) -> Values:
        """The numbers that it changes, ascending."""
        fixed = (self.source == np.arange(len(self.source))) & (self.sign == 1) & (self.shift == 0)
        return np.flatnonzero(~fixed)

    @property
    def key(self) -> bytes:
        """The same for equal actions."""
        wraps = np.isfinite(self.period)
        period = np.where(wraps, self.period, 1.0)
        turns = np.where(wraps, np.round(np.mod(self.shift / period, 1.0), 9) % 1.0, np.round(self.shift, 9))
        return self.source.astype(np.int64).tobytes() + self.sign.astype(np.int8).tobytes() + (turns + 0.0).tobytes()

    def after(self, first: Action) -> Action:
        """The action of ``first``, then this one."""
        inner = self.source
        return Action(
            first.source[inner],
            self.sign * first.sign[inner],
            self.sign * first.shift[inner] + self.shift,
            np.where(np.isfinite(self.period), self.low, first.low),
            np.minimum(self.period, first.period),
        )


def identity(size: int) -> Action:
    """The map that changes nothing."""
    return Action(np.arange(size), np.ones(size), np.zeros(size), np.zeros(size), np.full(size, np.inf))


def swap(size: int, one: Values, other: Values) -> Action:
    """Exchanges the numbers at ``one`` with those at ``other``."""
    action = identity(size)
    action.source[one], action.source[other] = other, one
    return action


def sign_flip(size: int, where: Values) -> Action:
    """Changes the sign of some numbers."""
    action = identity(size)
    action.sign[where] = -1.0
    return action


def reflection(size: int, where: Values, ends: Values) -> Action:
    """Maps x to ``ends - x``, where ``ends`` is the sum of both ends of its interval."""
    action = sign_flip(size, where)
    action.shift[where] = ends
    return action


def turn(size: int, where: Values, low: Values, period: Values, share: float, *, mirrored: bool = False) -> Action:
    """Goes on by a share of the period, and wraps around; mirrored, from the upper end of the interval downwards."""
    action = identity(size)
    action.low[where], action.period[where] = low, period
    action.shift[where] = share * period
    if mirrored:
        action.sign[where] = -1.0
        action.shift[where] += 2 * low
    return action


def closure(generators: Sequence[Action], most: int) -> list[Action] | None:
    """All products of the generators, the identity first; ``None`` if there are more than ``most``."""
    start = identity(len(generators[0].source))
    found, fresh = {start.key: start}, [start]
    while fresh:
        images = [generator.after(one) for one in fresh for generator in generators]
        fresh = []
        for image in images:
            if image.key not in found:
                found[image.key] = image
                fresh.append(image)
        if len(found) > most:
            return None
    return list(found.values())
