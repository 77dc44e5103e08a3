r"""A metric of many unknowns, learnt before the chains that are kept: scales, and the few directions in which scales do not suffice.

Short chains in coordinates without a frame give draws x and scores g. The coordinates

.. math:: z = m + D\,(I + U (F - I) U^\top)\, e

with diagonal D and k orthonormal directions U are those of the Gaussian, of that form, whose scores are nearest to theirs (the least
Fisher divergence): :math:`D_i^2 = \mathrm{sd}(x_i) / \mathrm{sd}(g_i)`, and in the space of the largest draws and scores in units of D
the covariance is the geometric mean of that of the draws and the inverse of that of the scores. Draws of all chains count together.
How many directions are kept follows from what a gradient takes: each costs all later gradients, and saves steps.

References:
    Seyboldt, Carlson, Carpenter, *Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence*,
    https://arxiv.org/abs/2603.18845
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from pyrolvm._base.errors import CaptureError, FitError
from pyrolvm._base.numerics import Array
from pyrolvm._base.progress import Progress, Show
from pyrolvm._methods.nuts import nutpie_kernel
from pyrolvm._methods.nuts.base import LowRank, Settings
from pyrolvm._methods.nuts.finishing import require_draws
from pyrolvm._methods.nuts.starts import find_starts, fitted_points
from pyrolvm._program.density import Joint
from pyrolvm._program.density.target import Target
from pyrolvm._program.problem import Problem
from pyrolvm._results import Fit
from pyrolvm.family.frame import PAYS_UNKNOWNS, informed

__all__ = ["STRETCHING", "Learnt", "Unmoved", "learn", "matched", "why_not"]

MOST_UNKNOWNS = 20_000
"""Up to so many unknowns the draws that it is learnt from fit well into memory and their singular vectors into seconds."""

LEAST_WARMUP = 200
"""Transitions of warmup from which on there are enough for both parts."""

LEARNING, KEPT = 0.5, 0.4
"""The share of the warmup that learns the metric, and the share of that whose draws it is learnt from."""

DIRECTIONS = 64
"""Directions of draws, and as many of scores, that are looked at, at most; and one for each eight draws."""

EACH = 8

FLAT = 1e-5
"""What is added to variances in units of the diagonal, where a direction has no draws."""

PLAIN = 1.5
"""The factor by which a variance may differ from the diagonal's to be left to it."""

STRETCHING = 1.5e-9
"""Seconds of an ordinary processor for an entry of a direction, in each gradient."""


class Unmoved(FitError):
    """The short chains did not move in every unknown."""


@dataclass(frozen=True)
class Learnt:
    """What the first part of the warmup leaves.

    Attributes:
        target: the density in the coordinates that chains go on in.
        metric: theirs.
        starts: where each chain is, shape ``(chains, n)``.
        steps: the leapfrog steps that each chain took, shape ``(chains,)``.
        left: transitions of warmup that are left.
        seconds: of compiling.
    """

    target: Target
    metric: LowRank
    starts: Tensor
    steps: Array
    left: int
    seconds: float


def why_not(problem: Problem, settings: Settings, *, engine: str, kernel: str, dense_mass: bool | str) -> str:
    """Why no metric is learnt of a problem; empty where it is."""
    size = problem.unconstrained_size
    if engine not in ("auto", "c") or kernel not in ("auto", "nutpie") or problem.device.type != "cpu":
        return "directions are learnt by nutpie's chains on a gradient in C"
    if problem.parameters:
        return "parameters without a prior have no metric"
    if dense_mass != "auto":
        return "a mass matrix was asked for"
    if settings.warmup < LEAST_WARMUP:
        return f"a warmup of fewer than {LEAST_WARMUP} transitions is too short to learn directions"
    if not PAYS_UNKNOWNS < size <= MOST_UNKNOWNS:
        return f"directions are learnt of more than {PAYS_UNKNOWNS} and up to {MOST_UNKNOWNS:,} unknowns"
    return "" if nutpie_kernel.usable() else "nutpie does not work here"


def learn(problem: Problem, init: object, chains: int, settings: Settings, seed: int, progress: Show) -> Learnt:
    """Runs short chains and learns the metric of what they draw; must be called inside a session.

    Sites that depend on others are taken in units of their parents, and where the draws show that data inform them, in coordinates that
    know of it.

    Args:
        problem: the problem.
        init: where chains start, as for :func:`pyrolvm.nuts`; of a fit, the draws and their scores make the metric of these chains.
        chains: how many.
        settings: of the whole run.
        seed: of the run.
        progress: how it is shown.

    Raises:
        CaptureError: if the density cannot be compiled from C, or is another than Pyro's.
        FitError: if the chains do not move, as :class:`Unmoved`, or are stopped.
    """
    target = Target.of(Joint(problem).non_centred())
    if target.native is None:
        raise CaptureError(target.reason)
    starts = find_starts(target.joint, init, chains, seed)
    moves = int(LEARNING * settings.warmup)
    kept = int(KEPT * moves)
    with (
        Progress(f"nuts on {problem.name}: its scales", chains * moves, progress) as bar,
        threadpool_limits(1, user_api="blas"),
    ):
        first = replace(settings, warmup=moves - kept, draws=kept, progress=bar, keeper=None, dense=True)
        if isinstance(init, Fit):
            first = replace(first, metric=_matched_at(target, fitted_points(target.joint, init)), dense=False)
        seeds = [int(s) for s in np.random.SeedSequence([seed, 1]).generate_state(chains)]
        raw = nutpie_kernel.run_native(target.joint, starts, seeds, first, target.native)
        if raw.interrupted:
            require_draws(0)
        points = raw.draws.double().cpu().numpy()
        flat = points.reshape(-1, target.size)
        better = informed(target, flat)
        if better is not None:
            other = Target.of(target.joint.recentred(better))
            if other.native is not None:
                flat = other.points(target.draws(flat))
                other.evaluations += target.evaluations
                target = other
        metric = _matched_at(target, flat)
    ends = torch.as_tensor(flat.reshape(points.shape)[:, -1]).to(starts)
    steps = raw.warmup_steps + raw.stats["n_steps"].sum(axis=1)
    return Learnt(target, metric, ends, steps, settings.warmup - moves, raw.seconds.get("compile", 0.0))


def _matched_at(target: Target, points: Array) -> LowRank:
    """The metric of a density's draws.

    Raises:
        Unmoved: if these do not tell it.
    """
    values, scores = target(points)
    good = np.isfinite(values) & np.isfinite(scores).all(axis=1) & np.isfinite(points).all(axis=1)
    found = matched(points[good], scores[good], target.each.of(1)) if good.sum() > EACH else None
    if found is None:
        raise Unmoved("the chains that learn scales did not move in every unknown.")
    return found


def matched(draws: Array, scores: Array, gradient: float = 0.0) -> LowRank | None:
    """The Gaussian of a diagonal and a few directions whose scores are nearest to those of draws; ``None`` where these do not vary.

    Args:
        draws: shape ``(count, n)``.
        scores: gradients of the log density there, of the same shape.
        gradient: seconds of an ordinary processor for one; directions are kept as far as what they save is more than they cost.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt(draws.std(axis=0) / scores.std(axis=0))
    if not (np.isfinite(scale) & (scale > 0)).all():
        return None
    mean = draws.mean(axis=0)
    x, g = (draws - mean) / scale, (scores - scores.mean(axis=0)) * scale
    most = min(DIRECTIONS, len(x) // EACH)
    parts = [np.linalg.svd(part, full_matrices=False)[2][:most].T for part in (x, g)]
    space = np.linalg.qr(np.concatenate(parts, axis=1))[0]
    flat = FLAT * np.eye(space.shape[1])
    along, against = ((part @ space).T @ (part @ space) / len(x) + flat for part in (x, g))
    variances, turn = np.linalg.eigh(_geometric_mean(along, against))
    order = np.argsort(-np.abs(np.log(variances)))
    order = order[np.abs(np.log(variances[order])) > np.log(PLAIN)]
    order = order[: _that_pay(np.log(variances[order]), gradient, STRETCHING * draws.shape[1])]
    return LowRank(mean, scale, space @ turn[:, order], np.sqrt(variances[order]))


def _geometric_mean(along: Array, against: Array) -> Array:
    """The covariance C with ``C against C = along``."""
    values, vectors = np.linalg.eigh(against)
    root, inverse = (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T
    inner, turn = np.linalg.eigh(root @ along @ root)
    found: Array = inverse @ (turn * np.sqrt(np.maximum(inner, 0.0))) @ turn.T @ inverse
    return (found + found.T) / 2


def _that_pay(logs: Array, gradient: float, direction: float) -> int:
    """How many directions to keep, the farthest from the diagonal first.

    A trajectory takes steps as the ratio of the largest scale that is left to the smallest, each of a gradient and what the kept
    directions cost it. What is left in any case differs by ``PLAIN``.
    """
    left = np.concatenate([logs, [0.0]])
    top = np.maximum.accumulate(np.maximum(left, np.log(PLAIN))[::-1])[::-1]
    bottom = np.minimum.accumulate(np.minimum(left, -np.log(PLAIN))[::-1])[::-1]
    cost = (gradient + direction * np.arange(len(left))) * np.exp((top - bottom) / 2)
    return int(np.argmin(cost)) if gradient > 0 else len(logs)
