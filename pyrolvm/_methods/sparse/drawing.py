"""Draws of blocks given the shared unknowns."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import scipy
from numpy.typing import NDArray

from pyrolvm._base.importance import khat_threshold, weigh
from pyrolvm._base.quadrature import rules
from pyrolvm._methods.sparse.marginal import Local, Marginal, Nest

__all__ = ["BlockDraws", "draw_blocks"]

Array = NDArray[np.float64]

ALIKE, NEARLY, TRIED = 0.999, 0.95, 64
"""The effective share of a block's draws from which on they need no weights: where 96% of the draws of a Gaussian for a logarithm
are effective, the sd of what it is the logarithm of may still be a quarter too large. The share from which on they need no heavier
tails; and the draws of shared unknowns where that is tried."""

MOST, TOGETHER = 16, 4_000_000
"""Candidates of a draw at most, and those of all draws of all blocks together, where a proposal's own number is smaller."""

SPREADS = 0.1, 10.0
"""How much narrower or wider than its curvature says a block's law is taken to be."""

JUDGED, WATCHED = 200, 2_000
"""Blocks whose weights' tails are looked at: those whose draws are the least effective, of so many that were it at a trial."""


@dataclass(frozen=True)
class Proposal:
    """How a block is proposed, from the Gaussian with the moments that quadrature gives.

    Attributes:
        freedom: degrees of freedom; infinitely many of the Gaussian itself.
        wider: how much wider it is.
        candidates: draws among which one is chosen by its weight, at least. The fewer, the more is left of what it is drawn from.
    """

    freedom: float
    wider: float
    candidates: int

    def among(self, draws: int) -> Proposal:
        """With as many candidates as so many draws can pay for."""
        return replace(self, candidates=max(self.candidates, min(MOST, TOGETHER // max(draws, 1))))


AS_IT_IS, STUDENT, HEAVY = Proposal(math.inf, 1.0, 4), Proposal(8.0, 1.0, 4), Proposal(4.0, 1.15, 12)
"""Proposals where laws are nearly Gaussian; where they are not; and of blocks whose weights have a tail by those, such as laws that are
skew, with a longer tail on one side."""


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
    blocks, none = marginal.shape[0], np.zeros(0, dtype=np.int64)
    random = np.random.default_rng([seed, 73, marginal.size])
    if not blocks:
        empty = np.zeros(0)
        return [BlockDraws(np.zeros((len(shared), 0, 0)), empty, empty, none, 1)]
    trial = np.linspace(0, len(shared) - 1, min(TRIED, len(shared))).astype(int)
    found = _candidates(
        marginal, shared[trial], None if known is None else known.of(trial), AS_IT_IS, random, None, none
    )
    values = np.empty((len(shared), *marginal.shape))
    if found.share.min() > ALIKE:
        start = 0
        for part in _pieces(marginal, shared, known):
            values[start : start + len(part[0])] = _gaussian(marginal, *part, random)
            start += len(part[0])
        found = replace(found, values=values, candidates=1)
    else:
        watched = np.sort(np.argsort(found.share, kind="stable")[:WATCHED])
        proposal = (AS_IT_IS if found.share.min() > NEARLY else STUDENT).among(len(shared) * blocks)
        found = _candidates(marginal, shared, known, proposal, random, values, watched)
        poor = found.khats > khat_threshold(proposal.candidates * len(shared))
        if poor.any():
            found = _again(marginal, shared, known, random, found, poor)
    if not isinstance(marginal.layer, Nest):
        return [found]
    inside = marginal.layer.assembled(shared, found.values)
    return [found, *draw_blocks(marginal.layer.inner, inside, None, seed=seed)]


def _again(
    marginal: Marginal,
    shared: Array,
    known: Local | None,
    random: np.random.Generator,
    found: BlockDraws,
    poor: NDArray[np.bool_],
) -> BlockDraws:
    """With draws by proposals of heavier tails in place of those of blocks whose weights have a tail."""
    which = np.sort(found.which[poor])
    values = np.empty((len(shared), len(which), marginal.shape[1]))
    proposal = HEAVY.among(len(shared) * len(which))
    again = _candidates(marginal, shared, known, proposal, random, values, which)
    found.values[:, which] = values
    share, khats = found.share.copy(), found.khats.copy()
    share[which] = again.share[which]
    judged = dict(zip(again.which.tolist(), again.khats.tolist(), strict=True))
    khats[poor] = [judged.get(block, 0.0) for block in found.which[poor].tolist()]
    return replace(found, share=share, khats=khats, candidates=proposal.candidates)


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
    least = rules(marginal.shape[1])[1]  # Laplace's one node has no moments
    fine = replace(marginal, rule=max(least, marginal.rule, key=lambda rule: len(rule.nodes)))
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
    marginal: Marginal,
    shared: Array,
    known: Local | None,
    proposal: Proposal,
    random: np.random.Generator,
    values: Array | None,
    watched: NDArray[np.int64],
) -> BlockDraws:
    """Draws of each block by proposals of its mode and curvature, their weights, and one of them by its weight.

    Args:
        marginal: the density.
        shared: shape ``(D, K)``.
        known: the blocks given each, where they are known.
        proposal: how blocks are proposed.
        random: where noise comes from.
        values: where draws are put, shape ``(D, C, W)``, or of the watched blocks alone; ``None`` where weights alone are wanted.
        watched: the blocks whose weights are kept, for their tails: those of a million blocks fill no memory otherwise than as sums.
    """
    blocks = marginal.shape[0]
    sums, kept, start = _Sums(np.full(blocks, -np.inf), np.zeros(blocks), np.zeros(blocks), 0), list[Array](), 0
    for part, given in _pieces(marginal, shared, known):
        local, log_block = _refined(marginal, part, given)
        drawn = None if values is None else np.empty((proposal.candidates, *local.mode.shape))
        weight = np.empty((proposal.candidates, *log_block.shape))
        shift = random.uniform(size=local.mode.shape)
        for k in range(proposal.candidates):
            # Points of a lattice that is shifted at random: each a draw, together more even, so that less is left of the proposal.
            at = scipy.special.ndtri((shift + _lattice(k, proposal.candidates, shift.shape[-1])) % 1.0)
            one, weight[k] = _weighed(marginal, part, local, log_block, proposal, at, random)
            if drawn is not None:
                drawn[k] = one
        weight = np.where(np.isfinite(weight), weight, -np.inf)
        sums = sums.with_more(weight.reshape(-1, blocks))
        kept.append(weight.reshape(-1, blocks)[:, watched])
        if values is not None and drawn is not None:
            gumbel = random.gumbel(size=weight.shape)
            best = np.argmax(weight + gumbel, axis=0)
            chosen = np.take_along_axis(drawn, best[None, ..., None], axis=0)[0]
            values[start : start + len(part)] = chosen if values.shape[1] == blocks else chosen[:, watched]
        start += len(part)
    share = sums.share
    worst = np.argsort(share[watched], kind="stable")[:JUDGED]
    worst = worst[share[watched[worst]] < NEARLY]  # the tail of others has no weight
    together = np.concatenate(kept)
    khats = np.array([_khat(together[:, block]) for block in worst])
    return BlockDraws(
        np.zeros((0, *marginal.shape)) if values is None else values, share, khats, watched[worst], proposal.candidates
    )


def _lattice(k: int, count: int, width: int) -> Array:
    """The k-th of ``count`` points of a lattice of that width, each of whose coordinates takes ``count`` values."""
    steps = [step for step in range(1, count) if math.gcd(step, count) == 1]
    return k * np.resize(np.asarray(steps, dtype=float), width) / count % 1.0


@dataclass(frozen=True)
class _Sums:
    """Sums of weights and of their squares by block, in units of the largest so far.

    Attributes:
        top: the logarithm of the largest, shape ``(C,)``.
        weights: shape ``(C,)``.
        squares: shape ``(C,)``.
        count: of how many weights.
    """

    top: Array
    weights: Array
    squares: Array
    count: int

    def with_more(self, log_weight: Array) -> _Sums:
        """With the weights of more draws, shape ``(S, C)``."""
        top = np.maximum(self.top, log_weight.max(axis=0))
        unit = np.where(np.isfinite(top), top, 0.0)
        before = np.exp(self.top - unit)
        scaled = np.exp(log_weight - unit)
        return _Sums(
            top,
            self.weights * before + scaled.sum(axis=0),
            self.squares * before**2 + (scaled**2).sum(axis=0),
            self.count + len(log_weight),
        )

    @property
    def share(self) -> Array:
        """How much of each block's draws is effective."""
        found: Array = self.weights**2 / np.maximum(self.squares * self.count, 1e-300)
        return found


def _khat(log_weight: Array) -> float:
    finite = log_weight[np.isfinite(log_weight)]
    return weigh(finite)[0].khat if np.ptp(finite) > 0 else 0.0


def _weighed(
    marginal: Marginal,
    shared: Array,
    local: Local,
    log_block: Array,
    proposal: Proposal,
    noise: Array,
    random: np.random.Generator,
) -> tuple[Array, Array]:
    """A draw of each block by normal ``noise``, both of shape ``(D, C, W)``, and its log weight by the block's integral, ``(D, C)``."""
    mask, width = marginal.layer.blocks.local, marginal.layer.blocks.local.sum(axis=1)
    noise, freedom = noise * mask, proposal.freedom
    if math.isinf(freedom):
        log_q = -0.5 * (noise**2).sum(-1) - 0.5 * width * math.log(2 * math.pi)
    else:
        noise = noise / np.sqrt(random.chisquare(freedom, size=local.mode.shape[:2]) / freedom)[..., None]
        squared = (noise**2).sum(-1)
        noise = proposal.wider * noise
        constant = (
            scipy.special.gammaln((freedom + width) / 2)
            - math.lgamma(freedom / 2)
            - width / 2 * math.log(freedom * math.pi)
            - width * math.log(proposal.wider)
        )
        log_q = constant - (freedom + width) / 2 * np.log1p(squared / freedom)
    values = local.at(noise)
    totals = marginal.layer(shared, values).totals[:, : len(mask)]
    return values, totals - (log_q - local.log_volume) - log_block
