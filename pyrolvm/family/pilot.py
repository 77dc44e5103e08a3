"""The frame of a posterior with many rows of data, found on a sample of them that stands for all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from pyrolvm._base.errors import ArgumentError
from pyrolvm._program.batching import slice_rows
from pyrolvm._program.density import Joint
from pyrolvm._program.density.target import Points, Target
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import has_latents, minibatch_plate, plate_of_rows
from pyrolvm._program.sites import Plate
from pyrolvm.family.frame import PAYS_DATA, PAYS_UNKNOWNS, Frame, find_frame, frame_pays

__all__ = ["find_pilot", "starting_frame", "starting_frame_pays"]

ROWS, ROWS_FOR_UNKNOWN = 5_000, 50
"""Rows of the sample: at least so many, and for each unknown. A covariance from fewer would be no better than a diagonal one."""

PASSES = 3
"""Newton steps on all rows from the sample's mode; each takes off all but a tenth of what is left."""

CHUNK = 50_000
"""Rows of a pass at a time."""


def starting_frame(problem: Problem, *, seed: int) -> Frame:
    """The frame in which a guide starts: the posterior's own, or that of a sample of rows where there are too many.

    Must be called inside a session.

    Raises:
        FitError: if the density is finite nowhere, or is Gaussian nowhere.
    """
    return find_frame(problem, seed=seed) if _sampled(problem) is None else find_pilot(problem, seed=seed)


def starting_frame_pays(problem: Problem) -> bool:
    """Whether to seek it by default: it takes seconds, and the model has no parameters to learn.

    Rows that a model shows only some of must have no latent sites of their own.
    """
    if any(plate.subsampled and has_latents(problem, plate.name) for plate in problem.plates.values()):
        return False
    return frame_pays(problem) or _sampled(problem) is not None


def _sampled(problem: Problem) -> Plate | None:
    """The plate to sample rows of, where that is the way to a frame."""
    size = problem.unconstrained_size
    if frame_pays(problem) or problem.parameters or not 0 < size <= PAYS_UNKNOWNS:
        return None
    if sum(site.numel for site in problem.observed) <= PAYS_DATA:
        return None
    plate = plate_of_rows(problem)
    if plate is None or has_latents(problem, plate.name) or plate.size < 2 * _rows(problem):
        return None
    return plate


def _rows(problem: Problem) -> int:
    return max(ROWS, ROWS_FOR_UNKNOWN * problem.unconstrained_size)


def find_pilot(problem: Problem, *, seed: int) -> Frame:
    """The frame of a sample of rows, each of which counts for several, at the mode of all rows; must be called inside a session.

    The sample's posterior is as wide as that of all rows, whose number its density is scaled to, but lies elsewhere: by
    the root of the number of rows that each stands for, in sds. A few Newton steps with the gradient of all rows and the sample's
    covariance take it where it belongs.

    Raises:
        ArgumentError: if rows have latent sites of their own, or it is not clear which plate's rows to sample.
        FitError: if the density is finite nowhere, or is Gaussian nowhere.
    """
    plate = minibatch_plate(problem)
    if has_latents(problem, plate.name):
        raise ArgumentError(
            f"rows of plate {plate.name!r} have latent sites of their own, so that some of them cannot stand for all. "
            'Fix: use guide="structured" or "amortized".'
        )
    order = torch.as_tensor(np.random.default_rng(seed).permutation(plate.size), device=problem.device)
    frame = find_frame(problem, seed=seed, batch=slice_rows(problem, plate, order[: _rows(problem)]))
    best = frame.best
    parts = order.split(CHUNK)
    joints = [Joint(problem, slice_rows(problem, plate, rows), centring=frame.centring) for rows in parts]
    density = _Mean(
        [(len(rows) / plate.size, Target.eager(one, one.potential)) for rows, one in zip(parts, joints, strict=True)]
    )
    with threadpool_limits(1, user_api="blas"):
        mean = _moved(frame, density)
    family = replace(best.family, means=mean[None])
    return replace(frame, modes=(replace(best, family=family), *frame.modes[1:]))


@dataclass(frozen=True)
class _Mean:
    """Density and gradient as the mean over parts of the rows, each of which is scaled to all of them."""

    parts: list[tuple[float, Target]]

    def __call__(self, point: Points) -> tuple[float, Points]:
        height, slope = 0.0, np.zeros(len(point))
        for share, target in self.parts:
            value, gradient = target.at(point)
            height, slope = height + share * value, slope + share * gradient
        return height, slope


def _moved(frame: Frame, density: _Mean) -> Points:
    """The mean of a frame's best Gaussian after Newton steps on all rows; where it is, if they do not lead uphill."""
    family = frame.best.family
    root, mean = family.trils[0], family.means[0]
    height, slope = density(mean)
    for _ in range(PASSES):
        trial = mean + root @ (root.T @ slope)
        there, next_slope = density(trial)
        if not there > height:
            break
        mean, height, slope = trial, there, next_slope
    return mean
