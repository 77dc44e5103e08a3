"""What a method leaves of the modes that ascents found before it, for its verdict."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # its parts are imported when they are first used
import torch
from numpy.typing import NDArray

from pyrolvm._base import budget
from pyrolvm._base.errors import FitError
from pyrolvm._base.numerics import Array
from pyrolvm._diagnosis.core import diagnose
from pyrolvm._diagnosis.modes import LEFT_OUT, UNLIKE
from pyrolvm._program.density import Joint, flattened
from pyrolvm._program.problem import Problem
from pyrolvm._results.evaluating import deterministic_sites, quantities_of
from pyrolvm._results.one_row import draws_at
from pyrolvm._results.reading import blocks
from pyrolvm.family import Frame, find_frame, frame_pays, last_frame
from pyrolvm.family.modes import inside, local_evidence
from pyrolvm.family.student import Student

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["left_out", "sought", "uncovered", "unlike"]

LEAST = 0.02
"""Mass at modes apart that is worth a word."""

MOVED = 0.05
"""What less mass at modes apart may do to a mean, in sds, or to an sd, as a share of it: a mode far away does much with little."""

LOOKED_AT = 4_000
"""Draws of a guide that are looked at for modes without any."""

APART = 5.0
"""Sds of a quantity's draws from which on a mode has another value of it."""


def left_out(frame: Frame | None, draws: Array) -> dict[str, float]:
    """The attribute of draws that says which share of the mass they are nowhere near to.

    Args:
        frame: the modes that ascents found, if any were sought.
        draws: in its coordinates, shape ``(n, size)``.
    """
    if frame is None or len(frame.modes) < 2 or not len(draws):
        return {}
    seen = np.array([inside(draws, mode.family).any() for mode in frame.modes])
    if not seen.any():  # ascents may have ended where the density is high and there is no mass
        share = float(scipy.special.expit(np.logaddexp.reduce(frame.evidence) - _evidence_at(frame, draws)))
        return {LEFT_OUT: share} if share >= LEAST else {}
    weights = np.exp(frame.evidence - frame.evidence.max())
    weights /= weights.sum()
    share = float(weights[~seen].sum())
    return {LEFT_OUT: share} if share >= LEAST or (share > 0 and _moves(frame, weights, seen)) else {}


def _evidence_at(frame: Frame, draws: Array) -> float:
    """The log evidence where draws are, by their Gaussian, which leaves out some of it; minus infinity where they have none."""
    try:
        tril = np.linalg.cholesky(np.atleast_2d(np.cov(draws.T)))
    except np.linalg.LinAlgError:
        return -np.inf
    return local_evidence(frame.target, Student.one(draws.mean(axis=0), tril), 0)


def _moves(frame: Frame, weights: Array, seen: NDArray[np.bool_]) -> bool:
    """Whether a mean or sd of all modes is another than that of those seen."""
    means = np.concatenate([mode.family.means[:1] for mode in frame.modes])
    variances = np.array([np.sum(mode.family.trils[0] ** 2, axis=1) for mode in frame.modes])

    def of(weights: Array) -> tuple[Array, Array]:
        mean = weights @ means
        return mean, np.sqrt(weights @ (variances + (means - mean) ** 2))

    mean, sd = of(weights)
    other, less = of(np.where(seen, weights, 0.0) / weights[seen].sum())
    return bool((np.abs(other - mean) > MOVED * sd).any() or (np.abs(less - sd) > MOVED * sd).any())


def sought(problem: Problem, data: xr.DataTree, seed: int) -> None:
    """Seeks the modes of a problem, once, where draws of a guide would be trusted and nobody has looked for any.

    Weights are blind to a mode in which no draw fell. Must be called inside a session.
    """
    if not last_frame(problem) and frame_pays(problem) and not budget.spent() and diagnose(data).verdict.trusted:
        with suppress(FitError):  # there is none, which says nothing of these draws
            find_frame(problem, seed=seed)


def uncovered(problem: Problem, data: xr.DataTree) -> dict[str, Any]:
    """The attributes of a guide's draws that say what they leave out of the modes that ascents found.

    Must be called inside a session.
    """
    frame = last_frame(problem)
    if frame is None or len(frame.modes) < 2:
        return {}
    posterior = data["posterior"].to_dataset()
    count = posterior.sizes["chain"] * posterior.sizes["draw"]
    some = np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int)
    with torch.no_grad():
        flat = flattened(frame.target.joint, draws_at(problem, posterior, some))
    return left_out(frame, flat.double().cpu().numpy()) | unlike(problem, data)


def unlike(problem: Problem, data: xr.DataTree) -> dict[str, Any]:
    """The attribute of draws that says how many of the modes found have other values of the model's quantities.

    Must be called inside a session. Nothing is said where there are no modes apart, no quantities, or discrete latents.
    """
    frame = last_frame(problem)
    if frame is None or len(frame.modes) < 2 or "quantities" not in data.children or problem.discrete:
        return {}
    try:
        rows = sum(site.numel for site in problem.observed)
        with torch.no_grad():
            values = frame.target.draws(np.concatenate([mode.family.means[:1] for mode in frame.modes]))
            derived = deterministic_sites(Joint(problem), values, {}, inside=rows)
            found = quantities_of(problem, values | derived, 1, {})[0]
    except Exception as error:  # of a quantity that fails at a mode, which its draws do not
        return {"modes_note": f"quantities at modes: {type(error).__name__}: {error}"[:300]}
    other = np.zeros(len(frame.modes), dtype=bool)
    for part in blocks(data, "quantities"):
        if part.variable in found:
            at = found[part.variable].double().cpu().numpy().reshape(len(other), -1)
            flat = part.draws.reshape(-1, part.draws.shape[-1])
            other |= (np.abs(at - flat.mean(0)) > APART * flat.std(0) + 1e-6 * np.abs(flat).max(0)).any(axis=1)
    return {UNLIKE: int(other.sum())}
