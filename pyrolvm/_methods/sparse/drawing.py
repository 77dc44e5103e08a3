"""Draws of blocks given the shared unknowns."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import scipy
from numpy.typing import NDArray

from pyrolvm._base.importance import weigh
from pyrolvm._base.quadrature import rules
from pyrolvm._methods.sparse.marginal import Local, Marginal, Nest

__all__ = ["CANDIDATES", "BlockDraws", "draw_blocks"]

Array = NDArray[np.float64]

CANDIDATES = 4
"""Draws of a block among which one is chosen by its weight."""

NEARLY, TRIED = 0.95, 64
"""The effective share of a block's draws from which on they need no weights, and the draws of shared unknowns where that is tried."""

TAILS = 8.0
"""Degrees of freedom of the blocks' own proposals, where they are weighed."""

SPREADS = 0.1, 10.0
"""How much narrower or wider than its curvature says a block's law is taken to be."""

JUDGED = 200
"""Blocks whose weights' tails are looked at: those whose draws are the least effective."""


@dataclass(frozen=True)
class BlockDraws:
    """A draw of all blocks for each of D values of the shared unknowns.

    Attributes:
        values: shape ``(D, C, W)``.
        share: how much of each block's draws was effective, shape ``(C,)``.
        khats: the tail of the weights of the blocks with the least effective draws, shape ``(B,)``.
        which: the numbers of these blocks, shape ``(B,)``.
        candidates: among how many each draw was chosen; 1 where the curvature's Gaussian was as good as the block's own law.
    """

    values: Array
    share: Array
    khats: Array
    which: NDArray[np.int64]
    candidates: int


def draw_blocks(marginal: Marginal, shared: Array, known: Local | None, *, seed: int) -> list[BlockDraws]:
    """Draws blocks given shared unknowns, corrected by weights of their own where their law is not nearly Gaussian.

    Args:
        marginal: the density.
        shared: shape ``(D, K)``, those that are alike side by side.
        known: the blocks given each, where they are known.
        seed: makes it repeatable.

    Returns:
        The draws of the blocks, then of those inside them, and so on.
    """
    blocks = marginal.shape[0]
    random = np.random.default_rng([seed, 73, marginal.size])
    if not blocks:
        empty = np.zeros(0)
        return [BlockDraws(np.zeros((len(shared), 0, 0)), empty, empty, np.zeros(0, dtype=np.int64), 1)]
    trial = np.linspace(0, len(shared) - 1, min(TRIED, len(shared))).astype(int)
    found = _candidates(
        marginal, shared[trial], None if known is None else known.of(trial), math.inf, random, keep=False
    )
    if found.share.min() > NEARLY:
        values = [_gaussian(marginal, *part, random) for part in _pieces(marginal, shared, known)]
        found = replace(found, values=np.concatenate(values), candidates=1)
    else:
        found = _candidates(marginal, shared, known, TAILS, random, keep=True)
    if not isinstance(marginal.layer, Nest):
        return [found]
    inside = marginal.layer.assembled(shared, found.values)
    return [found, *draw_blocks(marginal.layer.inner, inside, None, seed=seed)]


def _pieces(marginal: Marginal, shared: Array, known: Local | None) -> list[tuple[Array, Local | None]]:
    ends = np.cumsum([0, *(len(part) for part in marginal.pieces(shared))])
    return [
        (shared[start:stop], None if known is None else known.of(np.arange(start, stop)))
        for start, stop in pairwise(ends)
    ]


def _gaussian(marginal: Marginal, shared: Array, known: Local | None, random: np.random.Generator) -> Array:
    refined = _refined(marginal, shared, known)[0]
    return refined.at(random.normal(size=refined.mode.shape) * marginal.layer.blocks.local)


def _refined(marginal: Marginal, shared: Array, known: Local | None) -> tuple[Local, Array]:
    """Blocks given points, those that are alike once.

    Returns:
        The blocks, and their log integrals, both for each point.
    """
    unique, first, back = np.unique(shared, axis=0, return_index=True, return_inverse=True)
    refined, log_block = _with_moments(marginal, unique, None if known is None else known.of(first))
    return refined.of(back), log_block[back]


def _with_moments(marginal: Marginal, shared: Array, known: Local | None) -> tuple[Local, Array]:
    """Blocks with the means and covariances that quadrature gives in place of modes and curvatures, and their log integrals ``(D, C)``.

    A mode is not the mean where a law is skew, which is most of what its Gaussian gets wrong.
    """
    levels = rules(marginal.shape[1])
    fine = replace(marginal, rule=levels[1])
    local = fine.local(shared) if known is None else known
    shares = fine.weighed(shared, local)
    log_block = scipy.special.logsumexp(shares, axis=0)
    with np.errstate(invalid="ignore"):
        parts = np.nan_to_num(np.exp(shares - log_block))
    nodes = fine.rule.nodes
    mean = np.einsum("sdc,si->dci", parts, nodes)
    covariance = np.einsum("sdc,si,sj->dcij", parts, nodes, nodes) - mean[..., :, None] * mean[..., None, :]
    unit = np.eye(nodes.shape[1])
    both = marginal.layer.blocks.local[:, :, None] & marginal.layer.blocks.local[:, None, :]
    covariance = np.where(both, covariance, unit)
    values, vectors = np.linalg.eigh(covariance)
    values = np.clip(values, *SPREADS)
    within = np.linalg.cholesky((vectors * values[..., None, :]) @ vectors.swapaxes(-1, -2))
    return replace(local, mode=local.at(mean), root=local.root @ within), log_block


def _candidates(
    marginal: Marginal, shared: Array, known: Local | None, freedom: float, random: np.random.Generator, *, keep: bool
) -> BlockDraws:
    """Draws of each block by proposals of its mode and curvature, their weights, and one of them by its weight."""
    blocks, width = marginal.shape
    kept: list[Array] = []
    logs: list[Array] = []
    for part, given in _pieces(marginal, shared, known):
        local, log_block = _refined(marginal, part, given)
        drawn = np.empty((CANDIDATES, *local.mode.shape))
        weight = np.empty((CANDIDATES, *log_block.shape))
        for k in range(CANDIDATES):
            drawn[k], weight[k] = _weighed(marginal, part, local, log_block, freedom, random)
        weight = np.where(np.isfinite(weight), weight, -np.inf)
        logs.append(weight)
        if keep:
            gumbel = random.gumbel(size=weight.shape)
            best = np.argmax(weight + gumbel, axis=0)
            kept.append(np.take_along_axis(drawn, best[None, ..., None], axis=0)[0])
    together = np.concatenate(logs, axis=1).reshape(-1, blocks)
    top = together.max(axis=0)
    scaled = np.exp(together - top)
    share = scaled.sum(axis=0) ** 2 / np.maximum((scaled**2).sum(axis=0) * len(together), 1e-300)
    worst = np.argsort(share, kind="stable")[:JUDGED]
    worst = worst[share[worst] < NEARLY]  # the tail of others has no weight
    khats = np.array([_khat(together[:, block]) for block in worst])
    values = np.concatenate(kept) if keep else np.zeros((0, blocks, width))
    return BlockDraws(values, share, khats, worst.astype(np.int64), CANDIDATES)


def _khat(log_weight: Array) -> float:
    finite = log_weight[np.isfinite(log_weight)]
    return weigh(finite)[0].khat if np.ptp(finite) > 0 else 0.0


def _weighed(
    marginal: Marginal, shared: Array, local: Local, log_block: Array, freedom: float, random: np.random.Generator
) -> tuple[Array, Array]:
    """A draw of each block, shape ``(D, C, W)``, and its log weight, normalised by the block's integral, ``(D, C)``."""
    mask, width = marginal.layer.blocks.local, marginal.layer.blocks.local.sum(axis=1)
    noise = random.normal(size=local.mode.shape) * mask
    if math.isinf(freedom):
        log_q = -0.5 * (noise**2).sum(-1) - 0.5 * width * math.log(2 * math.pi)
    else:
        noise = noise / np.sqrt(random.chisquare(freedom, size=local.mode.shape[:2]) / freedom)[..., None]
        squared = (noise**2).sum(-1)
        constant = (
            scipy.special.gammaln((freedom + width) / 2)
            - math.lgamma(freedom / 2)
            - width / 2 * math.log(freedom * math.pi)
        )
        log_q = constant - (freedom + width) / 2 * np.log1p(squared / freedom)
    values = local.at(noise)
    totals = marginal.layer(shared, values).totals[:, : len(mask)]
    return values, totals - (log_q - local.log_volume) - log_block
