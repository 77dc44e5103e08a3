"""What particles tell of themselves: whether islands agree, moves were accepted, and no mode was lost on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._methods.smc.evidence import Estimate
from pyrolvm._methods.smc.modes import find_modes
from pyrolvm._methods.smc.sampler import Swarm
from pyrolvm._methods.smc.walk import LAST, Settings, allowed_drift
from pyrolvm._methods.smc.weights import Array

__all__ = ["STEPS", "judge", "mode_shares"]

DISAGREE = 2.5
"""How many times what weights and kinship say the islands' evidence may differ; three degrees of freedom pass it once in 2,000."""

COARSE = 0.5
"""Standard error of the log evidence from which on it tells little, in nats."""

ALONE = 2.0
"""How many times its part one island may have of the evidence before the draws are in effect of that island."""

FEW_ANCESTORS, NO_ANCESTORS = 20.0, 1.5
"""Effective ancestors of all islands together, and of one island, below which what came of other starts is not known."""

FEW_STARTS = 20
"""Draws of the base with a density, of each island."""

STUCK = 0.3
"""The acceptance probability of glides and jumps at the last stage below which draws may be copies of each other."""

CHANCE = 0.002
"""The probability that moves change a mean by more than is allowed although particles are where they should be."""

SEEN = 0.01
"""The share of all particles from which on a mode has to be on every island."""

STEPS = {
    "rhat": (
        "Take more particles (particles=): the islands disagree; if they still do, look for modes or switching labels (quantities=)."
    ),
    "ess_bulk": "Take more particles (particles=).",
    "draws": "Take more particles (particles=).",
    "chains": "Run at least 4 islands (islands=4).",
}
"""What to do about figures that chains of any kind have."""

MORE = "Take more particles (particles=), or smaller steps (ess=0.8)."


def mode_shares(swarm: Swarm) -> Array:
    """The share of each mode in each island, shape ``(islands, modes)``."""
    modes = find_modes(swarm.cloud.points)
    labels = modes.labels(swarm.cloud.points).reshape(swarm.islands, -1)
    return np.stack([(labels == mode).mean(axis=1) for mode in range(modes.count)], axis=1)


def judge(swarm: Swarm, settings: Settings, found: Estimate, shares: Array, alive: Array) -> Verdict:
    """What is to be said of particles that have arrived.

    Args:
        swarm: the particles.
        settings: how they climbed.
        found: their evidence.
        shares: of modes, by :func:`mode_shares`.
        alive: draws of the base with a density, shape ``(islands,)``.
    """
    reasons = [
        *_judge_evidence(swarm, found), *_judge_ancestors(swarm), *_judge_moves(swarm, settings), *_judge_drift(swarm),
        *_judge_modes(shares),
        *_judge_start(alive, len(swarm.ancestor) // swarm.islands),
    ]  # fmt: skip
    return Verdict.of(reasons, [MORE] if any(reason.status != "trusted" for reason in reasons) else [])


def _judge_evidence(swarm: Swarm, found: Estimate) -> Iterator[Reason]:
    expected = max(found.kinship, found.weights)
    figures = {"evidence": found.value, "evidence_error": found.error, "error_between_islands": found.between}
    if not math.isfinite(found.value) or not math.isfinite(found.error):
        yield Reason("failed", "The evidence is not finite: no island has arrived.", figures)
        return
    if swarm.islands > 1:
        share = np.exp(swarm.log_evidence - swarm.log_evidence.max())
        largest = float(1 / share.sum())
        span = float(np.ptp(swarm.log_evidence))
        said = f"The islands' log evidence differs by up to {span:.2g} nats"
        if found.between > DISAGREE * expected:
            text = f"{said}, {found.between / expected:.1f} times what their weights and kinship say: moves do not mix."
            yield Reason("doubtful", text, figures)
            return
        if largest > ALONE / swarm.islands and found.error > COARSE:
            yield Reason("doubtful", f"{said}: {largest:.0%} of it is of one of {swarm.islands} islands.", figures)
            return
    if found.error > COARSE:
        yield Reason(
            "doubtful", f"The standard error of the log evidence is {found.error:.2g} nats: it tells little.", figures
        )
    else:
        yield Reason(
            "trusted", f"Log evidence {found.value:.2f} +- {found.error:.2g}, about which the islands agree.", figures
        )


def _judge_ancestors(swarm: Swarm) -> Iterator[Reason]:
    ancestors = swarm.stages[-1].ancestors
    total, least = float(ancestors.sum()), float(ancestors.min())
    figures = {"ancestors": total}
    if total < FEW_ANCESTORS or least < NO_ANCESTORS:
        text = f"The particles descend from {total:.0f} starts in effect: too few to tell the shares of modes."
        yield Reason("doubtful", text, figures)
    else:
        yield Reason(
            "trusted", f"The particles descend from {total:.0f} starts in effect (bound {FEW_ANCESTORS:.0f}).", figures
        )


def _judge_moves(swarm: Swarm, settings: Settings) -> Iterator[Reason]:
    last, noise = swarm.stages[-1], 3 / math.sqrt(len(swarm.ancestor) / min(swarm.islands, 2))
    figures = {"acceptance": last.acceptance, "jump_acceptance": last.jumps, "correlation": last.correlation}
    late = [stage for stage in swarm.stages if stage.correlation > settings.forget + noise]
    if max(last.acceptance, last.jumps) < STUCK:
        text = f"Only {last.acceptance:.0%} of the last moves were accepted: draws may be copies of each other."
        yield Reason("doubtful", text, figures)
    elif last.correlation > settings.forget * LAST + noise:
        text = f"After {last.moves} moves the draws still have a correlation of {last.correlation:.2f} with where they were."
        yield Reason("doubtful", text, figures)
    elif late:
        worst = max(stage.correlation for stage in late)
        text = f"At {len(late)} of {len(swarm.stages)} stages, particles had a correlation of up to {worst:.2f} with where they were."
        yield Reason("doubtful", text, figures | {"correlation": worst})
    else:
        text = f"{last.acceptance:.0%} of the last moves were accepted, and particles forgot where they were at every stage."
        yield Reason("trusted", text, figures)


def _judge_drift(swarm: Swarm) -> Iterator[Reason]:
    worst = max(swarm.stages, key=lambda stage: stage.drift)
    bound = allowed_drift(swarm.cloud.points.shape[1], len(swarm.stages), CHANCE)
    if worst.drift > bound:
        text = (
            f"At the inverse temperature {worst.beta:.2g} moves changed a mean by {worst.drift:.1f} standard errors (bound "
            f"{bound:.1f}): particles were not where the density is, and may not be yet."
        )
        yield Reason("doubtful", text, {"drift": worst.drift})


def _judge_modes(shares: Array) -> Iterator[Reason]:
    count = shares.shape[1]
    if count == 1:
        return
    overall = shares.mean(axis=0)
    figures = {"modes": float(count)}
    lost = [mode for mode in range(count) if overall[mode] >= SEEN and not shares[:, mode].all()]
    told = " to ".join(f"{share:.0%}" for share in (overall.min(), overall.max()))
    if lost:
        share, islands = overall[lost[0]], int((shares[:, lost[0]] == 0).sum())
        text = f"{islands} of {len(shares)} islands lost a mode that has {share:.0%} of all particles: its share is not known."
        yield Reason("doubtful", text, figures)
    else:
        yield Reason("trusted", f"Particles are in {count} modes, with {told} of them each, on every island.", figures)


def _judge_start(alive: Array, size: int) -> Iterator[Reason]:
    if alive.min() < FEW_STARTS:
        text = f"Only {int(alive.min())} of {size:,} starts of an island have a density at all: particles may have missed a mode."
        yield Reason("doubtful", text, {"starts": float(alive.min())})
