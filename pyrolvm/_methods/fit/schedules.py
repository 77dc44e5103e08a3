"""Learning rates by name: functions from the step to a multiple of the base rate.

References:
    Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, https://arxiv.org/abs/1608.03983;
    Goyal et al., *Accurate, Large Minibatch SGD*, https://arxiv.org/abs/1706.02677
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["NAMED", "cosine", "linear", "warmup", "warmup_cosine"]

Factor = Callable[[int], float]

FLOOR = 1e-3
"""The multiple at the end of a decay."""

WARM = 0.05
"""The share of the budget over which a warm-up rises, a thousand steps at most."""


def cosine(max_steps: int) -> Factor:
    """From 1 to a thousandth along half a cosine, over the whole budget."""
    return lambda step: FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(step / max_steps, 1.0)))


def linear(max_steps: int) -> Factor:
    """From 1 to a thousandth along a line, over the whole budget."""
    return lambda step: FLOOR + (1 - FLOOR) * (1 - min(step / max_steps, 1.0))


def warmup(max_steps: int) -> Factor:
    """From near 0 to 1 along a line over the first 5% of the budget, then constant."""
    rise = max(1, min(1000, int(WARM * max_steps)))
    return lambda step: min((step + 1) / rise, 1.0)


def warmup_cosine(max_steps: int) -> Factor:
    """As :func:`warmup`, times :func:`cosine`."""
    up, down = warmup(max_steps), cosine(max_steps)
    return lambda step: up(step) * down(step)


NAMED: dict[str, Callable[[int], Factor]] = {
    "cosine": cosine,
    "linear": linear,
    "warmup": warmup,
    "warmup_cosine": warmup_cosine,
}
