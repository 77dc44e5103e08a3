r"""Moment matching: draws moved to where a row that is left out puts the posterior, so that its weights have a shorter tail.

The draws are shifted, scaled and turned to have the mean, variances and covariance of their weighted selves, as long as the tail shape
k-hat falls. A move :math:`T` of draws from :math:`q` makes them draws of :math:`q(T^{-1}u) / |T|`, so that weights stay exact.

References:
    Paananen, Piironen, Bürkner and Vehtari (2021), "Implicitly adaptive importance sampling", https://arxiv.org/abs/1906.08850
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy  # its parts are imported when they are first used
import torch
from torch import Tensor

from pyrolvm._base.importance import smooth
from pyrolvm._base.numerics import Array
from pyrolvm._program.density import Evaluator, Joint, flattened
from pyrolvm._program.problem import Problem
from pyrolvm._results.one_row import draws_at, rows_of, rows_seen

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Matched", "matched", "smoothed_weights"]

ROUNDS = 20
"""Moves of the draws of a row, of each kind."""

FEW = 10
"""Draws for each unknown from which on a covariance is matched."""

MOST_ROWS = 50
"""Rows whose draws are moved; of more, the posterior is far from what leaves any of them out."""

Tree = dict[str, Tensor]


@dataclass(frozen=True)
class Matched:
    """What moving draws made of a row: its log predictive density given the others, and k-hat."""

    elpd: float
    khat: float


def matched(
    problem: Problem,
    params: Mapping[str, Tensor],
    data: xr.Dataset,
    sites: tuple[str, ...],
    places: Array,
    ratios: Array | None,
    rows: Array,
    threshold: float,
) -> dict[int, Matched]:
    """The rows whose k-hat falls, by their number.

    Args:
        problem: the problem.
        params: learnable parameters.
        data: the group of the draws.
        sites: the observed sites whose rows are left out together, as results call them.
        places: which draws of all.
        ratios: log p - log q of these; ``None`` where they are of the posterior.
        rows: which rows, among those that are not masked.
        threshold: the k-hat below which it ends.
    """
    if not len(rows) or len(rows) > MOST_ROWS or not problem.continuous:
        return {}
    with problem.session(seed=0, params=params), torch.no_grad():
        joint = Joint(problem)
        seen, positions = rows_seen(problem, sites)
        flat = flattened(joint, draws_at(problem, data, places))
        density = _Density(joint, seen, flat)
        if density.many.way == "loop":
            return {}  # each move would run the program for every draw
        found = {}
        for row in rows.tolist():
            one = _one(density, flat, ratios, row if positions is None else int(positions[row]), threshold)
            if one is not None:
                found[row] = one
    return found


class _Density:
    """The log density of flat vectors, and that of one row of the data."""

    def __init__(self, joint: Joint, sites: tuple[str, ...], flat: Tensor) -> None:
        self.joint, self.sites = joint, sites
        zero = torch.zeros(len(flat), dtype=torch.long, device=flat.device)
        self.many = Evaluator(self.one, {"u": flat, "row": zero}, what="moment matching")

    def one(self, draw: Mapping[str, Tensor]) -> Tree:
        terms = self.joint.terms(self.joint.constrain(draw["u"]))
        each = rows_of([terms[f"log_likelihood/{site}"] for site in self.sites])
        return {"log_p": -self.joint.potential(draw["u"]), "row": each.gather(0, draw["row"].reshape(1))[0]}

    def __call__(self, flat: Array, row: int, like: Tensor) -> tuple[Array, Array]:
        u = torch.as_tensor(flat, device=like.device).to(like.dtype)
        found = self.many({"u": u, "row": torch.full((len(u),), row, device=like.device)})
        return found["log_p"].double().cpu().numpy(), found["row"].double().cpu().numpy()


def _one(density: _Density, flat: Tensor, ratios: Array | None, row: int, threshold: float) -> Matched | None:
    """A row by draws that are moved; ``None`` where no move helps."""
    u = flat.double().cpu().numpy()
    log_p, seen = density(u, row, flat)
    log_q = log_p if ratios is None else log_p - ratios
    khat, weight = smoothed_weights(log_p - log_q - seen)
    first = khat
    for _ in range(ROUNDS):
        before = khat
        for kind in ("mean", "variance", "covariance"):
            move = _move(kind, u, weight)
            if move is None or khat <= threshold:
                continue
            there, log_det = move
            new_p, new_seen = density(there, row, flat)
            if not np.isfinite(new_p).any():
                continue
            new_khat, new_weight = smoothed_weights(new_p - (log_q - log_det) - new_seen)
            if new_khat < khat:
                u, log_p, seen, log_q = there, new_p, new_seen, log_q - log_det
                khat, weight = new_khat, new_weight
        if khat <= threshold or khat >= before:
            break
    if khat >= first:
        return None
    finite = np.isfinite(seen)
    return Matched(float(scipy.special.logsumexp((seen + weight)[finite])), khat)


def smoothed_weights(log_ratio: Array) -> tuple[float, Array]:
    """k-hat, and normalised log weights, Pareto smoothed."""
    finite = np.isfinite(log_ratio)
    khat, some = smooth(log_ratio[finite])
    smoothed = np.full(len(log_ratio), -np.inf)
    smoothed[finite] = some
    return khat, smoothed - scipy.special.logsumexp(smoothed)


def _move(kind: str, u: Array, weight: Array) -> tuple[Array, float] | None:
    """The draws with the moments of their weighted selves, and the logarithm of the volume that it multiplies."""
    share = np.exp(weight)
    middle, wanted = u.mean(axis=0), share @ u
    gap = u - middle
    if kind == "mean":
        return gap + wanted, 0.0
    off = u - wanted
    if kind == "variance":
        scale = np.sqrt((share @ off**2) / gap.var(axis=0))
        return (gap * scale + wanted, float(np.log(scale).sum())) if np.all(scale > 0) else None
    if len(u) < FEW * u.shape[1] or u.shape[1] < 2:
        return None
    try:
        old = np.linalg.cholesky(gap.T @ gap / len(u))
        new = np.linalg.cholesky((off * share[:, None]).T @ off)
    except np.linalg.LinAlgError:
        return None
    turned = scipy.linalg.solve_triangular(old, gap.T, lower=True).T @ new.T
    return turned + wanted, float(np.log(np.diag(new)).sum() - np.log(np.diag(old)).sum())
