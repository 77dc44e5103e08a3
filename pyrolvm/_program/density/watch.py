"""What evaluations over many draws ran on, for results that say so and for tests that count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Evaluation", "note", "watched"]


@dataclass(frozen=True)
class Evaluation:
    """One function of a draw, evaluated at many.

    Attributes:
        what: the function's name.
        way: ``"vmap"``, ``"graph"``, ``"supports"``, ``"paths"`` or ``"loop"``; see :mod:`pyrolvm._program.density.vectorize`.
        draws: how many draws there were.
        looped: at how many of them the program was run by itself.
        seconds: what it took.
        reason: why not a faster way; empty for ``"vmap"``.
    """

    what: str
    way: str
    draws: int
    looped: int
    seconds: float
    reason: str = ""


_LISTS: ContextVar[tuple[list[Evaluation], ...]] = ContextVar("evaluations", default=())


@contextmanager
def watched() -> Iterator[list[Evaluation]]:
    """Yields a list that fills with the evaluations over many draws inside the block."""
    found: list[Evaluation] = []
    token = _LISTS.set((*_LISTS.get(), found))
    try:
        yield found
    finally:
        _LISTS.reset(token)


def note(evaluation: Evaluation) -> None:
    """Adds an evaluation to every list that is open."""
    for found in _LISTS.get():
        found.append(evaluation)
