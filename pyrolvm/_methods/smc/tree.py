"""Particles that arrived as a tree of draws: equally weighted ones, in all copies of the posterior alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pyrolvm._methods.smc.evidence import Estimate
from pyrolvm._methods.smc.result import TEMPERING
from pyrolvm._methods.smc.sampler import Swarm
from pyrolvm._methods.smc.weights import Array, Index
from pyrolvm._program.problem import Problem
from pyrolvm._program.symmetry import Symmetries
from pyrolvm._program.symmetry.orbit import scattered
from pyrolvm._program.symmetry.orbits import Orbits, joined, replaced
from pyrolvm._results.build import chains_tree

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Spread", "dealt", "particles_tree", "spread"]


def dealt(swarm: Swarm) -> Index:
    """Which particles are the draws, as many for each island, shape ``(islands, particles of each)``.

    An island stands for its part of the evidence: particles of one that has more than the others stand in, again, for some of
    those that have less. Where islands agree, nearly every particle is a draw of its own island.
    """
    count, size = swarm.islands, len(swarm.ancestor) // swarm.islands
    share = np.exp(swarm.log_evidence - swarm.log_evidence.max())
    wanted = share / share.sum() * count * size
    ends = np.concatenate([[0], np.round(np.cumsum(wanted))]).astype(int)
    numbers = np.diff(ends)
    own = np.minimum(numbers, size)
    more = [k * size + _evenly(size, int(n) - size) for k, n in enumerate(numbers) if n > size]
    spare = np.concatenate([np.zeros(0, dtype=np.int64), *more])
    found, used = np.empty((count, size), dtype=np.int64), 0
    for k, kept in enumerate(own):
        found[k, :kept] = k * size + _evenly(size, int(kept))
        found[k, kept:] = spare[used : used + size - kept]
        used += size - int(kept)
    return found


def _evenly(size: int, count: int) -> Index:
    """``count`` places among ``size``, as even as they can be."""
    return (np.arange(count) * size // max(count, 1) % size).astype(np.int64)


@dataclass(frozen=True)
class Spread:
    """Draws in all copies of a posterior.

    Attributes:
        values: the draws by site.
        orbits: the copies that lie apart; ``None`` where there are none.
        hidden: nats of evidence in copies where no particle ever was; ``None`` where particles are in several, but perhaps not in all.
    """

    values: dict[str, Tensor]
    orbits: Orbits | None
    hidden: float | None = 0.0


def spread(values: dict[str, Tensor], symmetries: Symmetries, seed: int, *, everywhere: bool) -> Spread:
    """Draws mapped to all copies alike.

    Args:
        values: the draws by site.
        symmetries: of the posterior.
        seed: of the random actions.
        everywhere: whether particles started in all copies, so that the evidence is of all of them.
    """
    blocks = tuple(block for block in symmetries.blocks if block.generators)
    flat = joined(symmetries, values)
    if not symmetries.blocks or not np.isfinite(flat).all():
        return Spread(values, None)
    if everywhere and blocks:  # they are in one copy, even where copies overlap
        values = replaced(symmetries, values, scattered(blocks, flat, seed))
        flat = joined(symmetries, values)
    orbits = Orbits.of(symmetries, flat)
    if orbits is None:
        return Spread(values, None)
    hidden = 0.0 if everywhere else orbits.hidden(values)
    return Spread(orbits.spread(values, seed, evenly=True), orbits, hidden)


def particles_tree(
    problem: Problem,
    swarm: Swarm,
    which: Index,
    found: Spread,
    estimate: Estimate,
    shares: Array,
    attrs: Mapping[str, object],
) -> xr.DataTree:
    """Everything that follows from the draws; must be called inside a session.

    Args:
        problem: the problem.
        swarm: the particles.
        which: which of them are the draws, by :func:`dealt`.
        found: the draws.
        estimate: the evidence.
        shares: of modes, shape ``(islands, modes)``.
        attrs: attributes of the groups.
    """
    import xarray as xr

    size = which.shape[1]
    stats = {"island": which // size, "ancestor": swarm.ancestor[which]}
    tree = chains_tree(problem, found.values, swarm.islands, stats, attrs, found.orbits)
    tree[TEMPERING] = xr.DataTree(_tempering(swarm, estimate, shares))
    return tree


def _tempering(swarm: Swarm, estimate: Estimate, shares: Array) -> xr.Dataset:
    import xarray as xr

    stages = swarm.stages
    columns: dict[str, object] = {
        "beta": [stage.beta for stage in stages],
        "effective_share": [stage.effective for stage in stages],
        "acceptance_rate": [stage.acceptance for stage in stages],
        "jump_acceptance_rate": [stage.jumps for stage in stages],
        "moves": [stage.moves for stage in stages],
        "step_size": [stage.step for stage in stages],
        "correlation": [stage.correlation for stage in stages],
        "drift": [stage.drift for stage in stages],
        "modes": [stage.modes for stage in stages],
        "evaluations": [stage.evaluations for stage in stages],
    }
    data = {name: ("stage", np.asarray(values)) for name, values in columns.items()}
    by_island = ("stage", "chain")
    dataset = xr.Dataset(
        {
            **data,
            "ancestors": (by_island, np.stack([stage.ancestors for stage in stages])),
            "log_evidence": (by_island, np.cumsum(np.stack([stage.gained for stage in stages]), axis=0)),
            "mode_share": (("chain", "mode"), shares),
        },
        coords={"stage": np.arange(len(stages)), "chain": np.arange(swarm.islands)},
    )
    return dataset.assign_attrs(
        evidence=estimate.value, evidence_error=estimate.error, evidence_between=estimate.between,
        evidence_kinship=estimate.kinship, evidence_weights=estimate.weights,
        evaluations=sum(stage.evaluations for stage in stages),
    )  # fmt: skip
