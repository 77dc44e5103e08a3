"""What a small program is: a model with its data, a guide of its own, and what can be run on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.infer.autoguide import AutoNormal

__all__ = ["PROGRAMS", "Case", "grid", "program"]


@dataclass(frozen=True)
class Case:
    """One program with its data.

    Attributes:
        model: the program.
        args: its positional arguments.
        kwargs: its keyword arguments.
        guide: a guide of its own; ``None`` where it has no latent to draw.
        nuts: whether NUTS can sample it.
        interpreted: why its density runs on stock Pyro; empty for programs that are captured.
        drawn: whether the guide draws the discrete latents, so that the density of a draw is at their values.
    """

    model: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    guide: Any = AutoNormal
    nuts: bool = True
    interpreted: str = ""
    drawn: bool = False


PROGRAMS: dict[str, Callable[[], Case]] = {}


def program(make: Callable[[], Case]) -> Callable[[], Case]:
    """Registers a program under its function's name, which says how it is written."""
    PROGRAMS[make.__name__] = make
    return make


def grid(*shape: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    """Numbers without randomness that are not all in a line."""
    size = int(torch.Size(shape).numel())
    values = torch.linspace(0.0, 1.0, size)
    return low + (high - low) * (0.5 + 0.5 * torch.sin(7.0 * values + 0.3)).reshape(shape)
