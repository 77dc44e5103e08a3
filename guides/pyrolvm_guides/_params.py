"""Learnable parameters of guides."""

from __future__ import annotations

from typing import Any

from pyro.distributions import constraints
from pyro.nn import PyroParam
from torch import Tensor

__all__ = ["learnable", "learnable_positive"]


def learnable(value: Tensor, *, constraint: Any = constraints.real, event_dim: int | None = None) -> Any:
    """A Pyro parameter to set as an attribute of a ``PyroModule``, where it is read back as a tensor.

    Args:
        value: the initial value; it is copied.
        constraint: what values satisfy.
        event_dim: the number of rightmost dimensions that plates leave alone; ``None`` if plates never select rows.
    """
    return PyroParam(value.detach().clone(), constraint=constraint, event_dim=event_dim)


def learnable_positive(value: Tensor, *, event_dim: int | None = None) -> Any:
    """A positive Pyro parameter, learned on the log scale."""
    return learnable(value, constraint=constraints.positive, event_dim=event_dim)
