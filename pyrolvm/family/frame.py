r"""The frame of a posterior: coordinates in which it is nearly standard normal, found before any family is fitted.

Sites are made independent of their parents as far as the data leave them so (:mod:`pyrolvm._program.density.centring`), ascents from
several starts find the mass, and natural gradients find the Gaussian that fits best. In the coordinates that it
makes standard, what is left to learn has the scale one in every direction, whatever the units of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from pyrolvm._base import budget
from pyrolvm._base.errors import FitError
from pyrolvm._base.machine import require_memory
from pyrolvm._program.batching import Batch
from pyrolvm._program.density import Joint, flattened, map_draws
from pyrolvm._program.density.target import Points, Target
from pyrolvm._program.problem import Problem
from pyrolvm.family.climb import elbo
from pyrolvm.family.modes import MOST_MODES, find_modes, joined, local_evidence
from pyrolvm.family.natural import Fitted, batch_and_match, natural_gradient
from pyrolvm.family.student import Student

__all__ = [
    "METHODS",
    "Found",
    "Frame",
    "Solution",
    "find_frame",
    "frame_engine",
    "frame_pays",
    "gradient_seconds",
    "informed",
    "known_frame",
    "last_frame",
    "pathfinder_family",
    "plain_moments",
]

CENTRED_FROM = 0.1
"""The mean share that data have in the precision of a site's elements from which on coordinates are worth informing by them."""

LEAST_SHARE = 0.05
"""The share that data must have in the precision of an element, or they have none."""

ALONE = 0.01
"""The largest correlation of what the data say of a vector's elements at which each may be taken by itself."""

MOST_SITES = 40
"""Dependent sites up to which each is asked what the data say of it: a program in a loop has one for each step."""

EXPANDED_ROWS = 512
"""Densities at a time by which a site's likelihood is expanded; the more draws, the fewer elements it has."""

MOST_EXPANDED = 8_000_000
"""Unknowns of a site times all unknowns up to which so many points that differ in one of them each are affordable."""

PAYS_UNKNOWNS = 500
"""Up to so many unknowns it costs little beside what is done in it."""

PAYS_DATA = 50_000
"""Up to so many observed numbers the thousands of densities of all rows that a frame takes are a matter of seconds."""

SAVES_SECONDS = 60.0
"""Seconds of an ordinary processor for densities after which the search for a frame has cost what it can save, and ends without one.

A frame takes thousands of gradients and saves the tens of thousands that chains and guides lose to scales that they must
learn; where its own take a minute, what evaluates it is slower than the samplers' engines.
"""


@dataclass(frozen=True)
class Frame:
    """Coordinates, and the Gaussian of each mode in them.

    Attributes:
        target: the log density of these coordinates.
        centring: what the data say of each dependent site in them, by name.
        modes: the best Gaussian at each mode, the one with the most mass first.
        evidence: the local log evidence of each mode by importance sampling, for weights.
        paths: how many ascents there were.
        distinct: at how many places they ended.
        unseen: the share of ascents from elsewhere that are expected to end at modes not found; zero where there is no sign of any.
        evaluations: how many densities it took.
    """

    target: Target
    centring: Mapping[str, Tensor]
    modes: tuple[Fitted, ...]
    evidence: Points
    paths: int
    distinct: int
    unseen: float
    evaluations: int

    @property
    def best(self) -> Fitted:
        """The Gaussian with the most mass."""
        return self.modes[0]

    @property
    def family(self) -> Student:
        """All modes, weighted by their evidence."""
        return joined([mode.family for mode in self.modes], self.evidence)


@dataclass(frozen=True)
class Solution:
    """How a guide that has an algorithm of its own was fitted.

    Attributes:
        elbos: the ELBO at each iteration.
        converged: whether the algorithm says so.
        reason: why it ended.
        evaluations: how many densities it took.
        engine: what evaluated them, as of a target.
        engine_reason: why not a faster one.
        unseen: the share of the posterior's modes that ascents are taken not to have found, as of :class:`Frame`.
    """

    elbos: Points
    converged: bool
    reason: str
    evaluations: int
    engine: str
    engine_reason: str
    unseen: float = 0.0


@dataclass(frozen=True)
class Found:
    """What Pathfinder found.

    Attributes:
        family: a Gaussian for each mode.
        elbos: their ELBOs.
        paths: how many ascents there were.
        unseen: as of :class:`Frame`.
        target: the density.
    """

    family: Student
    elbos: Points
    paths: int
    unseen: float
    target: Target


def pathfinder_family(problem: Problem, *, seed: int, most: int = MOST_MODES) -> Found:
    """A Gaussian for each of at most ``most`` modes, in plain unconstrained space; must be called inside a session.

    Raises:
        FitError: if the density is finite nowhere.
    """
    target = Target.of(Joint(problem))
    with threadpool_limits(1, user_api="blas"):
        found = find_modes(target, seed, _as_it_is, lambda target, gaussian, _: elbo(target, gaussian))
    parts, elbos = [fitted.family for fitted in found.fitted][:most], found.evidence[:most]
    return Found(joined(parts, elbos), elbos, found.paths, found.unseen, target)


def _as_it_is(target: Target, start: Student, *, seed: int) -> Fitted:
    return Fitted(start, np.zeros(0), True, 0.0)


METHODS: dict[str, Callable[..., Fitted]] = {"natural_gradient": natural_gradient, "batch_and_match": batch_and_match}
"""How the Gaussian of a mode may be fitted."""


def frame_pays(problem: Problem) -> bool:
    """Whether to seek the frame of a problem by default: all its rows are quickly run, and it has no parameters to learn."""
    data = sum(site.numel for site in problem.observed)
    return not problem.parameters and 0 < problem.unconstrained_size <= PAYS_UNKNOWNS and data <= PAYS_DATA


def find_frame(
    problem: Problem, *, seed: int = 0, method: str = "natural_gradient", batch: Batch | None = None
) -> Frame:
    """Finds the frame of a problem; must be called inside a session of it.

    The result follows from the problem, the seed and the method alone, and is kept with the problem, as is that there is none.

    Args:
        problem: the model with its data.
        seed: makes it repeatable.
        method: ``"natural_gradient"`` for the Gaussian of the highest ELBO, ``"batch_and_match"`` for the one that matches scores.
        batch: the rows that it is the frame of; by default all, and only that is kept.

    Raises:
        FitError: if the density is finite nowhere, is Gaussian nowhere, or takes more seconds than a frame can save.
    """
    size = problem.unconstrained_size
    require_memory(
        f"the frame of {problem.name} with {size:,} unknowns takes, for curvatures and Gaussians of {size:,} x {size:,} numbers",
        6.0 * 8 * size**2,
        'pass precondition="none", or a guide with fewer parameters such as mean_field.',
    )
    if batch is not None:
        with threadpool_limits(1, user_api="blas"):
            return _find(Joint(problem, batch), seed, METHODS[method])
    kept: dict[tuple[int, str], Frame] = problem.kept.setdefault("frames", {})
    failed: dict[tuple[int, str], FitError] = problem.kept.setdefault("frameless", {})
    key = (seed, method)
    if key in failed:
        raise FitError(str(failed[key]))
    if key not in kept:
        try:
            with threadpool_limits(1, user_api="blas"):  # threads cost more than such matrices do
                frame = _find(Joint(problem), seed, METHODS[method])
        except FitError as error:
            if not budget.spent():  # the next method need not search again for what is not there
                failed[key] = error
            raise
        if budget.spent():  # and it may be half done
            return frame
        kept[key] = frame
    return kept[key]


def plain_moments(frame: Frame, *, draws: int = 4_000, seed: int = 0) -> tuple[Points, Points]:
    """Mean and covariance of a frame's best Gaussian in plain unconstrained space, whatever its coordinates are.

    Must be called inside a session.
    """
    family = frame.best.family
    if not frame.centring:
        return family.means[0], family.trils[0] @ family.trils[0].T
    values = frame.target.draws(family.sample(draws, seed))
    plain = frame.target.joint.recentred({})
    with torch.no_grad():
        reals = flattened(plain, values).cpu().double().numpy()
    return reals.mean(axis=0), np.cov(reals.T).reshape(frame.target.size, -1)


def frame_engine(problem: Problem) -> str:
    """What evaluates the density of a problem's frame, and why not a faster engine; empty where no frame was sought."""
    frame = last_frame(problem)
    if frame is None:
        return ""
    target = frame.target
    return f"{target.engine}: {target.reason}" if target.reason else target.engine


def gradient_seconds(problem: Problem) -> float | None:
    """What one density with its gradient takes in C on an ordinary processor; ``None`` where no frame has one in C."""
    targets = [
        frame.target for frame in _frames(problem) if frame.target.native is not None and frame.target.evaluations
    ]
    return targets[-1].each.point if targets else None


def last_frame(problem: Problem) -> Frame | None:
    """The frame of a problem that was found last; ``None`` where none was sought, or there is none."""
    return next(reversed(_frames(problem)), None)


def known_frame(problem: Problem, centring: Mapping[str, Tensor]) -> Frame | None:
    """A frame of a problem that was found before and has these coordinates, so that its target need not be compiled again."""
    for frame in _frames(problem):
        if frame.centring.keys() == centring.keys() and all(
            torch.equal(value.reshape(-1), centring[name].reshape(-1)) for name, value in frame.centring.items()
        ):
            return frame
    return None


def _frames(problem: Problem) -> list[Frame]:
    """All that were found, in order."""
    kept: dict[tuple[int, str], Frame] = problem.kept.get("frames", {})
    return list(kept.values())


def _find(joint: Joint, seed: int, fit: Callable[..., Fitted]) -> Frame:
    frame = _with(joint.non_centred(), seed, fit)
    if not 0 < len(frame.centring) <= MOST_SITES:
        return frame
    family = frame.best.family
    better, share = _said_by_data(
        frame.target, lambda count: family.sample(count, seed) if count > 1 else family.means[:1].copy()
    )
    if share < CENTRED_FROM:
        return frame
    try:
        second = _with(joint.recentred(better), seed, fit, SAVES_SECONDS - frame.target.effort)
    except (
        FitError
    ):  # of other coordinates, which may have no Gaussian or cost more than they save: there is a frame already
        return frame
    chosen = second if second.best.elbos[-1] > frame.best.elbos[-1] else frame
    return replace(chosen, evaluations=frame.evaluations + second.evaluations)


def informed(target: Target, draws: Points) -> dict[str, Tensor] | None:
    """Coordinates that know what the data say of each dependent site, as draws show it; ``None`` where that is next to nothing.

    Must be called inside a session.

    Args:
        target: a density in which these sites are in units of their parents.
        draws: of the posterior in its coordinates, shape ``(count, n)``.
    """
    lengths = [held[0].numel() for held in target.joint.centring.values()]
    if not 0 < len(lengths) <= MOST_SITES or max(lengths) * target.size > MOST_EXPANDED:
        return None

    def some(count: int) -> Points:
        if count == 1:
            return draws.mean(axis=0, keepdims=True)
        return draws[np.linspace(0, len(draws) - 1, count).astype(int)].copy()

    better, share = _said_by_data(target, some)
    return better if share >= CENTRED_FROM else None


def _said_by_data(target: Target, draws: Callable[[int], Points]) -> tuple[dict[str, Tensor], float]:
    """What the data say of each dependent site, and the largest mean share that they have in a site's precision.

    Site by site, the density of all else is expanded to second order in the site's value, or in each of its vectors whose elements
    have a scale together, at so many draws; its descendants are held in coordinates that move with it.
    """
    found: dict[str, Tensor] = {}
    largest = 0.0
    for name, before in target.joint.centring.items():
        blocks, shift, share = _expanded(target, draws, name, len(before) - 1)
        keep = np.where(share > LEAST_SHARE, 1.0, 0.0).reshape(shift.shape)
        rows = np.moveaxis(_decoupled(blocks * keep[:, :, None] * keep[:, None, :]), 1, 0)
        held = torch.as_tensor(np.stack([*rows, keep * shift]))
        found[name] = held.reshape(before.shape).to(before)
        largest = max(largest, float(share.mean()))
    return found, largest


def _decoupled(blocks: Points) -> Points:
    """Precision matrices without what they hold beside the diagonal, where that is next to nothing."""
    diagonal = np.sqrt(np.diagonal(blocks, axis1=1, axis2=2))
    scale = diagonal[:, :, None] * diagonal[:, None, :]
    beside = np.abs(blocks) * (1 - np.eye(blocks.shape[1]))
    return blocks if (beside > ALONE * scale).any() else blocks * np.eye(blocks.shape[1])


def _expanded(target: Target, draws: Callable[[int], Points], name: str, length: int) -> tuple[Points, Points, Points]:
    """What the data say of a site's elements, and the share that they have in the precision of each.

    Args:
        target: the density.
        draws: so many draws of all else.
        name: the site.
        length: of the vectors that the site consists of.

    Returns:
        The precision of each vector, shape ``(vectors, length, length)``; its product with the value, shape ``(vectors, length)``;
        and the shares, shape ``(vectors * length,)``.
    """
    joint = target.joint
    here = joint.recentred({other: held for other, held in joint.centring.items() if other != name})
    own = joint.split(torch.arange(target.size, device="cpu"))[name].reshape(-1).numpy()
    size = len(own)
    count = max(EXPANDED_ROWS // (2 * size), 1)
    points = draws(count)
    there = map_draws(lambda one: joint.spread(one["u"], name), {"u": target.tensor(points)})
    points[:, own], variances = (
        there[part].cpu().double().numpy().reshape(count, size) for part in ("real", "variance")
    )
    rest = Target.eager(here, lambda flat: here.rest(flat, name))
    step = 1e-4 * np.maximum(1.0, np.abs(points[:, own]))
    moved = np.zeros((count, size, target.size))
    moved[:, np.arange(size), own] = step
    ends = [(points[:, None] + sign * moved).reshape(-1, points.shape[1]) for sign in (1, -1)]
    asked = np.concatenate([points, *ends])
    room = EXPANDED_ROWS + count  # the draws and what differs from them, at once where they have few elements
    found = np.concatenate([rest(asked[k : k + room])[1] for k in range(0, len(asked), room)])
    slopes, *apart = np.split(found, [count, count + len(ends[0])])
    up, down = (end.reshape(moved.shape)[:, :, own] for end in apart)
    of = np.arange(size).reshape(-1, length)  # the elements of each vector
    curvature = ((down - up) / (2 * step[:, :, None]))[:, of[:, :, None], of[:, None, :]]
    fine = np.isfinite(curvature).all(axis=(1, 2, 3)) & np.isfinite(slopes).all(axis=1)
    if not fine.any():
        return np.zeros((len(of), length, length)), np.zeros(of.shape), np.zeros(size)
    blocks = _positive(curvature[fine].mean(axis=0))
    pulled = np.einsum("vij,dvj->dvi", blocks, points[fine][:, own].reshape(-1, *of.shape))
    shift = (slopes[fine][:, own].reshape(pulled.shape) + pulled).mean(axis=0)
    weight = np.diagonal(blocks, axis1=1, axis2=2).reshape(-1) * np.median(variances[fine], axis=0)
    return blocks, shift, weight / (1 + weight)


def _positive(blocks: Points) -> Points:
    """The nearest matrices that are precisions."""
    values, vectors = np.linalg.eigh((blocks + np.moveaxis(blocks, 1, 2)) / 2)
    return (vectors * np.maximum(values, 0.0)[:, None, :]) @ np.moveaxis(vectors, 1, 2)


def _with(joint: Joint, seed: int, fit: Callable[..., Fitted], seconds: float = SAVES_SECONDS) -> Frame:
    """The frame in the coordinates of a density.

    Raises:
        FitError: if there is no Gaussian, or the search takes more than so many seconds.
    """
    target = Target.of(joint)
    target.allowance = seconds
    found = find_modes(target, seed, fit, local_evidence)
    target.allowance = np.inf
    return Frame(
        target,
        joint.centring,
        found.fitted,
        found.evidence,
        found.paths,
        found.distinct,
        found.unseen,
        target.evaluations,
    )
