"""Hard posteriors with references, for measuring variational inference.

Each module of this folder holds one: its model, a Pyro function; its data, real or drawn from a fixed seed, in double
precision; and an ``ENTRY``, which says what is scored and how the reference is made. What makes them hard:

| problem | unknowns | difficulty | reference |
|---|---|---|---|
| ``funnel`` | 10 | a scale that spans many orders of magnitude | exact |
| ``banana`` | 2 | a curved ridge | exact |
| ``bimodal`` | 4 | two modes that no path joins | exact |
| ``radon_centred`` | 176 | two funnels, in the intercepts and in the slopes of 85 counties | NUTS, non-centred twin |
| ``item_response`` | 140 | products of unknowns, skewed discriminations | NUTS |
| ``stochastic_volatility`` | 503 | a long chain of strongly correlated unknowns, and its scale | NUTS, non-centred twin |
| ``horseshoe`` | 103 | 50 funnels, heavy tails, coefficients that are either zero or not | NUTS, non-centred twin |
| ``cox`` | 256 | a correlated field seen through few counts | NUTS, whitened twin |

A guide that changes to other coordinates by itself may find a funnel, the banana or a centred form easy; the references are
in the model's own coordinates all the same.

References hold the mean and the standard deviation of each scalar. Where these say nothing, since tails are so heavy that
they hardly exist, the model records a logarithm as a deterministic site, which is scored in place of the variable.
"""

from __future__ import annotations

from collections.abc import Callable

import pyrolvm as lvm

from . import banana, base, bimodal, cox, funnel, horseshoe, item_response, radon_centred, stochastic_volatility
from .base import Entry, Moments, Reference, elements

__all__ = ["ENTRIES", "Entry", "Moments", "Reference", "elements", "problems", "reference"]

ENTRIES: dict[str, Entry] = {
    module.__name__.rpartition(".")[2]: module.ENTRY
    for module in (
        funnel, banana, bimodal, radon_centred, item_response, stochastic_volatility, horseshoe, cox,
    )
}  # fmt: skip
"""What this folder holds, by name."""


def problems() -> dict[str, Callable[[], lvm.Problem]]:
    """A function for each problem that builds it, by name."""
    return {name: entry.problem for name, entry in ENTRIES.items()}


def reference(name: str) -> Reference:
    """The moments of a problem's posterior, and how they were made.

    Raises:
        ValueError: if there is no such problem, or its reference has not been made.
    """
    if name not in ENTRIES:
        raise ValueError(f"there is no hard problem {name!r}. Fix: use one of {', '.join(ENTRIES)}.")
    return base.read(name)
