r"""Rows left out with the latents that they have of their own, or share with few others, integrated out.

With latents :math:`u_g` of members that are independent given all else, :math:`\theta`, the density of row i of member g given the
others is

.. math:: p(y_i \mid \theta, y_{-i}) = \frac{\int p(y_g, u \mid \theta)\, du}{\int p(y_g, u \mid \theta) / p(y_i \mid u, \theta)\, du},

and the weights of leaving the row out are its inverse. Where members belong to others, pupils to schools, integrals over one level
are inside those over the next, and :math:`\theta` is what is above all. Weights of :math:`1 / p(y_i \mid u, \theta)` have heavy
tails, since the draws of :math:`u_g` follow the very row that is left out, and their k-hat of some thousand draws does not always
show it.

Draws of a guide are in the place of the posterior's where log p - log q of all unknowns has light tails. Where it has not,
:math:`\theta` is drawn anew, from Student t laws fitted to the weights of the draws before, by its density with all members' latents
integrated out.

References:
    Vehtari, Mononen, Tolvanen, Sivula and Winther (2016), "Bayesian leave-one-out cross-validation approximations for Gaussian latent
    variable models", https://arxiv.org/abs/1412.7461; Merkle, Furr and Rabe-Hesketh (2019), "Bayesian comparison of latent variable
    models: conditional versus marginal likelihoods", https://arxiv.org/abs/1802.04452
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base.importance import Weights, khat_threshold, weigh
from pyrolvm._base.numerics import Array
from pyrolvm._program.density import Evaluator, Joint, flattened
from pyrolvm._program.problem import Problem
from pyrolvm._results.apart import Apart
from pyrolvm._results.matching import smoothed_weights
from pyrolvm._results.one_row import draws_at, recorded, rows_of, rows_seen
from pyrolvm._results.tied import Tied
from pyrolvm.family.importance import Weighed, refitted
from pyrolvm.family.student import Student

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Integrated", "integrated"]

CELLS = 4_000_000
"""Rows times draws at most; of more rows fewer draws are taken, but no fewer than ``FEWEST``."""

FEWEST = 200

CLOSE = 0.2
"""Nats by which a rougher rule may be off of a row, at 99 in 100 draws, where the finer one is believed."""

TRIED = 32
"""Draws at which it is tried whether they run at once."""

AT_ONCE = 1_000_000
"""Rows times draws that run at once."""

LIGHT = 0.5
"""The k-hat up to which weights have a variance."""

FREEDOM, ROUNDS, SHARE = 7.0, 6, 0.3
"""Degrees of freedom of laws that are drawn from anew, how often they are fitted, and the effective share that is enough."""

DRAWS, SOUGHT, MOST_SHARED = 2_000, 8, 60
"""Draws of these laws, how many times fewer they are sought with, and shared unknowns up to which they are fitted."""

Tree = dict[str, Tensor]


@dataclass(frozen=True)
class Integrated:
    """What rows are left out by.

    Attributes:
        latents: the sites that were integrated out; empty where none could be.
        values: log densities of rows given the others, by draw, ``(draws, rows)``.
        ratios: log p - log q of these draws; ``None`` where they are of the posterior.
        owned: where nothing was integrated out, whether each row has unknowns of its own.
        known: whether the integral of each row is fine enough.
    """

    latents: tuple[str, ...]
    values: Array | None = None
    ratios: Array | None = None
    owned: Array | None = None
    known: NDArray[np.bool_] | None = None


def integrated(
    problem: Problem,
    params: Mapping[str, Tensor],
    data: xr.Dataset,
    sites: tuple[str, ...],
    places: Array,
    ratios: Array | None,
    *,
    integrate: bool = True,
    seed: int = 0,
) -> Integrated:
    """The log densities of rows given the others, latents of members integrated out.

    Args:
        problem: the problem.
        params: learnable parameters.
        data: the group of the draws.
        sites: the observed sites whose rows are left out together, as results call them.
        places: which draws of all.
        ratios: log p - log q of these; ``None`` where they are of the posterior.
        integrate: whether to; else it is found out alone which rows have unknowns of their own.
        seed: of new draws.
    """
    if not problem.continuous or problem.discrete:
        return Integrated(())
    told = None
    for way in (Apart, Tied) if integrate else ():
        if told is None or not _light(told):
            with _exact(problem, params, way is Tied, seed) as here, torch.no_grad():
                told = _better(told, _by(way, here, data, sites, places, ratios, seed))
    if told is not None:
        return told
    with problem.session(seed=seed, params=params), torch.no_grad():
        seen, kept = rows_seen(problem, sites)
        joint = Joint(problem)
        owned = _owned(joint, flattened(joint, draws_at(problem, data, places[:1]))[0], seen)
        return Integrated((), owned=owned if kept is None else owned[kept])


@contextmanager
def _exact(problem: Problem, params: Mapping[str, Tensor], exact: bool, seed: int) -> Iterator[Problem]:
    """A session of the problem, in double precision where that is wanted and nothing was learnt in single."""
    learnt = problem.parameters or problem.modules or problem.stream is not None
    here = problem.to(dtype=torch.float64) if exact and not learnt else problem
    with here.session(seed=seed, params=params):
        yield here


def _by(
    way: type[Apart] | type[Tied],
    problem: Problem,
    data: xr.Dataset,
    sites: tuple[str, ...],
    places: Array,
    ratios: Array | None,
    seed: int,
) -> Integrated | None:
    """The densities one way; ``None`` where it does not go."""
    joint = Joint(problem)
    seen, kept = rows_seen(problem, sites)
    flat = flattened(joint, draws_at(problem, data, places))
    found = way.of(joint, recorded(joint.elements, flat[0]), seen, flat)
    told = None if found is None else _left_out(found, flat, ratios, seed)
    if found is None or told is None or told.values is None or told.known is None:
        return None
    told = replace(told, known=told.known & found.sure(flat))
    assert told.values is not None and told.known is not None
    if kept is not None:
        told = replace(told, values=told.values[:, kept], known=told.known[kept])
    return told if told.known is not None and told.known.any() else None


def _khats(told: Integrated) -> Array:
    """The tail shape of each row's weights, infinite where its integral is not known."""
    assert told.values is not None
    ratios = 0.0 if told.ratios is None else told.ratios
    found = np.array([smoothed_weights(ratios - row)[0] for row in told.values.T])
    return found if told.known is None else np.where(told.known, found, math.inf)


def _light(told: Integrated) -> bool:
    """Whether the weights of all rows have a variance."""
    return bool((_khats(told) <= LIGHT).all())


def _better(one: Integrated | None, other: Integrated | None) -> Integrated | None:
    """Of two ways the one by which more rows have weights with a variance."""
    if one is None or other is None:
        return other or one
    light = [(_khats(told) <= LIGHT).sum() for told in (one, other)]
    return other if light[1] > light[0] else one


def _many(found: Apart | Tied, flat: Tensor) -> Callable[[Tensor], dict[str, Array]] | None:
    """Densities at many draws; ``None`` if they do not run at once, or have no second derivatives."""
    try:  # too few for a graph, which is no match for vmap
        every = Evaluator(found, {"u": flat[:TRIED]}, what="integrated rows")
    except (RuntimeError, NotImplementedError, ValueError):
        return None
    chunk = max(1, AT_ONCE // found.numbers)

    def run(flat: Tensor) -> dict[str, Array]:
        return {name: value.double().cpu().numpy() for name, value in every({"u": flat}, chunk=chunk).items()}

    return None if every.way == "loop" else run


def _left_out(found: Apart | Tied, flat: Tensor, ratios: Array | None, seed: int) -> Integrated | None:
    """The densities at the draws, or at new ones where a guide's weights have heavy tails; ``None`` if draws do not run at once."""
    most = max(FEWEST, int(CELLS / max(found.count * found.work, 1)))
    many = _many(found, flat)
    if many is None:
        return None
    if ratios is not None and not _enough(weigh(ratios)[0]):
        few = most if isinstance(found, Apart) else max(FEWEST, most // (2 * ROUNDS))
        anew = _anew(many, flat, found, min(DRAWS, few), seed)
        if anew is not None:
            return anew
    step = math.ceil(len(flat) / most)
    told = many(flat[::step])
    fine = np.isfinite(told["rows"]).all(axis=1)
    if not fine.any():
        return None
    weights = None if ratios is None else ratios[::step][fine]
    return Integrated(found.latents, told["rows"][fine], weights, known=_known(told))


def _enough(figures: Weights) -> bool:
    """Whether weights need no other draws."""
    return figures.khat <= LIGHT and figures.ess > SHARE * figures.num_draws


def _known(told: Mapping[str, Array]) -> NDArray[np.bool_]:
    """Of each row, whether both rules have the same density, as far as draws have any."""
    fine = np.isfinite(told["rows"]).all(axis=1)
    if not fine.any():
        return np.zeros(told["rows"].shape[1], dtype=bool)
    return np.asarray(np.quantile(np.abs(told["rows"][fine] - told["rough"][fine]), 0.99, axis=0) < CLOSE)


def _anew(
    many: Callable[[Tensor], dict[str, Array]], flat: Tensor, found: Apart | Tied, count: int, seed: int
) -> Integrated | None:
    """Draws of what is shared by its density with members' latents integrated out, and their log weights."""
    shared = np.setdiff1d(np.arange(flat.shape[1]), found.places.cpu().numpy())
    size = len(shared)
    points = flat[:, shared].double().cpu().numpy()
    if size > MOST_SHARED or len(points) < 10 * max(size, 1):
        return None

    def evaluated(points: Array) -> dict[str, Array]:
        u = flat[:1].repeat(len(points), 1)
        u[:, shared] = torch.as_tensor(points).to(u)
        return many(u)

    if not size:
        told = evaluated(points[:1])
        return Integrated(found.latents, told["rows"].repeat(100, 0), known=_known(told))
    spread: Array = np.atleast_2d(np.cov(points.T)) + 1e-10 * np.eye(size)
    tril = np.asarray(np.linalg.cholesky(spread), dtype=np.float64)
    family = Student.one(points.mean(0), tril, FREEDOM)
    best: tuple[float, dict[str, Array], Array] | None = None
    few = max(FEWEST, count // SOUGHT)
    taken, left, number = few, 2 * ROUNDS, 0
    while left:
        drawn = family.sample(taken, seed + number)
        left, number = left - 1, number + 1
        told, log_q = evaluated(drawn), family.log_density(drawn)
        fine = np.isfinite(told["log_p"]) & np.isfinite(told["rows"]).all(1)
        if not fine.any():
            break
        ratio = np.where(fine, told["log_p"] - log_q, -np.inf)
        figures, weights = weigh(ratio)
        khat = figures.khat if math.isfinite(figures.khat) else math.inf
        enough = _enough(figures)
        if taken < count and khat <= (LIGHT if left else khat_threshold(count)):  # found, as far as these tell
            taken, left = count, ROUNDS
        elif taken >= count and (best is None or khat < best[0] or enough):
            best = khat, told, ratio
        if enough and best is not None:
            break
        family = refitted(family, Weighed(drawn, told["log_p"], log_q, weights, figures, family))
    if best is None or best[0] > khat_threshold(count):
        return None
    kept = np.isfinite(best[2])
    return Integrated(found.latents, best[1]["rows"][kept], best[2][kept], known=_known(best[1]))


def _owned(joint: Joint, flat: Tensor, sites: tuple[str, ...]) -> Array:
    """Whether each row has unknowns of its own: such a one's slopes are of one row alone, as their first two moments over rows show."""

    def rows(u: Tensor) -> Tensor:
        terms: Any = joint.terms(joint.constrain(u))
        return rows_of([terms[f"log_likelihood/{site}"] for site in sites])

    with torch.enable_grad():
        traced = torch.func.vjp(rows, flat)
        value, pull = traced[0], traced[1]
        count = len(value)
        number = torch.arange(1, count + 1, dtype=flat.dtype, device=flat.device) / count
        sums = [pull(weight)[0].double() for weight in (torch.ones_like(number), number, number**2)]
    owned = np.zeros(count, dtype=bool)
    some = (sums[0] != 0) & torch.isfinite(sums[0])
    first, second = sums[1][some] / sums[0][some], sums[2][some] / sums[0][some]
    place = first * count - 1
    alone = ((second - first**2).abs() < 1e-5) & ((place - place.round()).abs() < 1e-2)
    for row in place[alone].round().long().tolist():
        if 0 <= row < count:
            owned[row] = True
    return owned
