"""Where the divergences of chains gather: the unknowns whose draws are elsewhere, or narrower, where trajectories diverged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.numerics import Array
from pyrolvm._results.reading import Block, blocks, stat

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Gathered", "gathered", "marked"]

FEWEST = 5
"""Divergent draws from which on one can say where they are."""

CHANCE = 0.05
"""The chance that unknowns without any part in it look as if they had one."""

MOST = 5_000
"""Unknowns that are looked at."""

SIDE = 0.2
"""By how much the mean rank of divergent draws is off the middle, of all ranks, to be called low or high."""


@dataclass(frozen=True)
class Gathered:
    """A pair of unknowns in whose plane divergent draws gather.

    Attributes:
        names: of both.
        draws: on the unconstrained scale, each of shape ``(chain, draw)``.
        where: of each, ``"low"``, ``"high"``, ``"in its middle"`` or ``"anywhere"``.
    """

    names: tuple[str, str]
    draws: tuple[Array, Array]
    where: tuple[str, str]

    def __str__(self) -> str:
        (one, other), (here, there) = self.names, self.where
        return f"where `{one}` is {here} and `{other}` is {there}"


def gathered(data: xr.DataTree) -> Gathered | None:
    """The pair of unknowns that divergences sit in; ``None`` where there are few or they are anywhere.

    By ranks, the divergent draws of each unknown are held against the others: how far their distribution functions are apart, of the
    ranks and of their distances from the middle (the narrow end of a funnel is in the middle of what narrows). The second is of another
    variable, where there are several. Where what the first shows may be chance, there is no pair.

    Args:
        data: a result's tree.
    """
    diverging = stat(data, "diverging")
    if diverging is None or "unconstrained_posterior" not in data.children:
        return None
    flags = np.asarray(diverging, dtype=bool).reshape(-1)
    some, rest = int(flags.sum()), int((~flags).sum())
    if some < FEWEST or rest < FEWEST:
        return None
    parts = list(blocks(data, "unconstrained_posterior"))
    names, owners, columns = _columns(parts, len(flags))
    if len(names) < 2:
        return None
    scores, means = _scores(columns, flags)
    least = math.sqrt(-0.5 * math.log(CHANCE / (4 * len(names))) * (some + rest) / (some * rest))
    first = int(np.argmax(scores))
    if not scores[first] > least:
        return None
    others = np.array([owner != owners[first] for owner in owners])
    others = others if others.any() else np.arange(len(names)) != first
    second = int(np.argmax(np.where(others, scores, -1.0)))
    where = {k: _where(means[k]) if scores[k] > least else "anywhere" for k in (first, second)}
    pair = sorted((first, second), key=lambda k: where[k] not in ("low", "high"))  # what is on one side tells most
    one, other = (columns[k].reshape(diverging.shape) for k in pair)
    return Gathered((names[pair[0]], names[pair[1]]), (one, other), (where[pair[0]], where[pair[1]]))


def _where(mean: float) -> str:
    return "low" if mean < 0.5 - SIDE else "high" if mean > 0.5 + SIDE else "in its middle"


def marked(data: xr.DataTree) -> tuple[Gathered, Array]:
    """The pair that divergences sit in and which draws diverged, shape ``(chain, draw)``.

    Raises:
        ArgumentError: if there is no such pair.
    """
    pair, diverging = gathered(data), stat(data, "diverging")
    if pair is None or diverging is None:
        raise ArgumentError(
            f"fewer than {FEWEST} draws diverged, or they are anywhere, so that there is no pair of unknowns to show them in. "
            'Fix: use plot("trace") or plot("marginals").'
        )
    return pair, np.asarray(diverging, dtype=bool)


def _columns(parts: list[Block], count: int) -> tuple[list[str], list[str], Array]:
    """Labels, variables and draws ``(unknowns, count)`` of unknowns that have finite draws."""
    names = [label for part in parts for label in part.labels][:MOST]
    owners = [part.variable for part in parts for _ in part.labels][:MOST]
    columns = np.concatenate([part.draws.reshape(count, -1).T for part in parts])[:MOST].astype(np.float64)
    fine = np.isfinite(columns).all(axis=1)
    kept = np.flatnonzero(fine)
    return [names[k] for k in kept], [owners[k] for k in kept], columns[kept]


def _scores(columns: Array, flags: Array) -> tuple[Array, Array]:
    """How far the divergent draws of each unknown are from the others, and their mean rank as a share of all."""
    count = len(flags)
    scores, means = np.zeros(len(columns)), np.zeros(len(columns))
    for k, column in enumerate(columns):
        ranks = np.empty(count)
        ranks[np.argsort(column, kind="stable")] = (np.arange(count) + 0.5) / count
        scores[k] = max(_apart(ranks, flags), _apart(np.abs(ranks - 0.5), flags))
        means[k] = ranks[flags].mean()
    return scores, means


def _apart(values: Array, flags: Array) -> float:
    """The largest distance of two distribution functions."""
    ordered = flags[np.argsort(values, kind="stable")]
    above = np.cumsum(ordered) / ordered.sum() - np.cumsum(~ordered) / (~ordered).sum()
    return float(np.abs(above).max())
