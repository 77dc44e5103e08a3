"""Builds the ArviZ object of a result: the one converter from draws of a Pyro model to ``xarray.DataTree``.

Groups, dims and names are those of the ArviZ schema; dimensions come from plates by name, then from the model's
``dims``. Groups that would fill the memory keep every k-th draw, and say so in their attribute ``thinned_by``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base import budget
from pyrolvm._base.importance import weigh
from pyrolvm._base.numerics import Array
from pyrolvm._base.passing import passed_over
from pyrolvm._program.density import Evaluator, Joint, endless, map_draws, rounding, unconstrained
from pyrolvm._program.names import Dimensions, dump_names
from pyrolvm._program.origin import with_origin
from pyrolvm._program.problem import Problem
from pyrolvm._program.symmetry import SYMMETRY, Layout, Symmetries, find_symmetries
from pyrolvm._program.symmetry.orbit import separated
from pyrolvm._program.unused import reference
from pyrolvm._results.afresh import GIVEN
from pyrolvm._results.attempts import Attempts
from pyrolvm._results.datasets import (
    data_groups,
    named_dims,
    optimization_dataset,
    ordered,
    quantity_dims,
    site_dataset,
    unconstrained_dims,
)
from pyrolvm._results.divergence import site_divergences
from pyrolvm._results.draws import draw_guide, numpy
from pyrolvm._results.evaluating import deterministic_sites, drawn, evaluated, every, log_p, quantities_of
from pyrolvm._results.history import History
from pyrolvm._results.points import PointMass, all_one_value, point_mass
from pyrolvm._results.unmasked import present, present_groups
from pyrolvm.family.protocol import Hooks

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "CHANGES",
    "OUTSIDE",
    "chains_tree",
    "corrected_tree",
    "default_draws",
    "exact_tree",
    "lanes",
    "latent_dataset",
    "lean",
    "noted",
    "passed_on",
    "prior_groups",
    "variational_tree",
]

MAX_ELEMENTS = 20_000_000
"""A group's variables may hold this many numbers each, 80 MB in float32, before draws are thinned."""

PRIOR_DRAWS, PRIOR_LOOPED = 500, 200
"""Draws of the prior, and where the program runs them one by one."""

LANE = "_lane"
"""Stands for the latents in draws of none."""

CHANGES = "program_changes"
"""The attribute that says what of guide and model was not the same in every run, where anything was not."""

OUTSIDE = "outside_support"
"""The attribute that holds the share of draws outside the model's support, where there are any."""

FEW, ENOUGH = 256, 8
"""Draws by which to tell a point from a density: at most; and at least, since of many numbers some agree in two draws by chance."""

Draws = dict[str, Tensor]

_LEAN: ContextVar[bool] = ContextVar("lean", default=False)
_PASSED_ON: ContextVar[bool] = ContextVar("passed_on", default=False)


@contextmanager
def lean() -> Iterator[None]:
    """Results made inside have draws, densities and what a verdict reads, and no group more: for thousands, looked at once."""
    token = _LEAN.set(True)
    try:
        yield
    finally:
        _LEAN.reset(token)


@contextmanager
def passed_on() -> Iterator[None]:
    """Fits made inside go to a correction, which makes all groups afresh of other draws: they are lean.

    Not those that nothing corrects: point estimates and maximum likelihood.
    """
    token = _PASSED_ON.set(True)
    try:
        yield
    finally:
        _PASSED_ON.reset(token)


def default_draws(problem: Problem) -> int:
    """4,000 draws, or as many as keep the latents within memory."""
    latents = sum(site.numel for site in problem.latents)
    return max(200, min(4000, MAX_ELEMENTS // max(4 * latents, 1)))


def variational_tree(
    problem: Problem,
    guide: Any,
    history: History,
    *,
    draws: int | None,
    num_particles: int,
    batch_size: int | None,
    attrs: Mapping[str, Any],
) -> xr.DataTree:
    """Draws from the guide and everything that follows from them; must be called inside the fit's session."""
    import xarray as xr

    count, inside = draws or default_draws(problem), _rows(problem)
    values, log_q, attrs = drawn(problem, guide, count, attrs, asked=draws is not None, inside=inside)
    attempts = Attempts()
    point = _point(problem, guide, values) if problem.continuous else PointMass()
    outside = np.isposinf(log_q.detach().cpu().numpy()).reshape(1, -1)
    attrs = {**attrs, **point.attrs(), **({OUTSIDE: float(outside.mean())} if outside.any() else {})}
    likelihood = attrs["inference_method"] == "maximum_likelihood"
    with lean() if _PASSED_ON.get() and not point and not likelihood else nullcontext():
        groups = _groups(problem, values or lanes(problem, len(log_q)), attempts, chains=1, attrs=attrs)
    lp = groups.pop("lp")
    if likelihood:
        groups["sample_stats"] = site_dataset({"lp": lp}, {}, attrs=attrs)
        groups["optimization"] = optimization_dataset(history, num_particles, batch_size)
        return attempts.note(xr.DataTree.from_dict(ordered(groups)))
    with np.errstate(invalid="ignore"):
        log_weight = lp - log_q.detach().cpu().numpy().astype(float).reshape(1, -1)
    lp[outside], log_weight[outside] = -np.inf, -np.inf
    if point:  # which has no density
        log_weight = np.full_like(log_weight, np.nan)
    lp = _as_written(problem, values, lp)
    with np.errstate(invalid="ignore"):
        stats = {"lp": lp, "log_q": np.where(outside, np.inf, lp - log_weight), "log_weight": log_weight}
    groups["sample_stats"] = site_dataset(stats, {}, attrs=attrs)
    groups["sample_stats"]["khat"] = xr.DataArray(math.nan if point else _khat(log_weight))
    if problem.parameters and Hooks(guide).weighed is None and not point:
        apart = attempts("sample_stats/site_kl", lambda: site_divergences(problem, guide, inside=_rows(problem)))
        if apart:
            groups["sample_stats"]["site_kl"] = xr.DataArray(
                list(apart.values()), dims="site", coords={"site": list(apart)}
            )
    groups["optimization"] = optimization_dataset(history, num_particles, batch_size)
    return noted(problem, attempts.note(xr.DataTree.from_dict(ordered(groups))), values)


def _as_written(problem: Problem, draws: Draws, lp: Array) -> Array:
    """``lp``, shape ``(chains, draws)``, as the program has it: without the reference of entries that it has no density for."""
    if not problem.unused:
        return lp
    return lp - np.asarray(reference(problem, draws), dtype=float).reshape(lp.shape)


def _point(problem: Problem, guide: Any, values: Draws) -> PointMass:
    """What the guide has no density for. Values that are constant by the support itself, as zeros of a triangle, are no unknowns."""
    few = {site.name: values[site.name][:FEW] for site in problem.continuous}
    count = min(map(len, few.values()))
    with torch.no_grad():
        still = any(all_one_value(value.detach().cpu().numpy()) for value in few.values())
        if still and count < ENOUGH:
            with torch.random.fork_rng(devices=[]):
                more, _ = draw_guide(problem, guide, ENOUGH)
            few = {name: more[name] for name in few}
            still = any(all_one_value(value.detach().cpu().numpy()) for value in few.values())
        if still:
            few = unconstrained(Joint(problem), few)
        return point_mass(problem, guide, few)


def corrected_tree(
    problem: Problem,
    raw: xr.DataTree,
    draws: Draws,
    weighed: Mapping[str, Array],
    attrs: Mapping[str, Any],
    khats: Mapping[str, float],
    copies: Copies | None = None,
) -> xr.DataTree:
    """A variational result whose draws were corrected by their importance weights; must be called inside a session.

    Args:
        problem: the problem.
        raw: the fit's own tree, whose draws are kept in group ``uncorrected_posterior``.
        draws: the corrected draws by latent site, each of shape ``(draws, ...)``.
        weighed: ``lp``, ``log_q`` and ``log_weight`` of the draws they were chosen from, kept in group ``proposal_stats``.
        attrs: attributes of the groups.
        khats: the k-hat of single unknowns' variances, by name.
        copies: the symmetries by which the draws were mapped to all copies alike, if they were.
    """
    import xarray as xr

    kept = {**raw["posterior"].attrs, **attrs}
    attempts = Attempts()
    groups = _groups(problem, draws, attempts, chains=1, attrs=kept)
    groups["sample_stats"] = site_dataset({"lp": _as_written(problem, draws, groups.pop("lp"))}, {}, attrs=kept)
    groups["uncorrected_posterior"] = raw["posterior"].to_dataset()
    stats = {name: np.asarray(values, dtype=float).reshape(1, -1) for name, values in weighed.items()}
    groups["proposal_stats"] = site_dataset(stats, {}, attrs=kept)
    groups["proposal_stats"]["khat"] = xr.DataArray(_khat(stats["log_weight"]))
    if khats:
        groups["proposal_stats"]["quantity_khat"] = xr.DataArray(
            list(khats.values()), dims="quantity", coords={"quantity": list(khats)}
        )
    groups["optimization"] = raw["optimization"].to_dataset()
    return noted(problem, attempts.note(xr.DataTree.from_dict(ordered(groups))), draws, copies)


def exact_tree(
    problem: Problem, draws: Draws, log_q: Tensor, evidence: float, marginals: Draws, attrs: Mapping[str, Any]
) -> xr.DataTree:
    """Everything that follows from draws of the posterior itself; must be called inside a session.

    Args:
        problem: the problem.
        draws: values by latent site, each of shape ``(draws, ...)``.
        log_q: their log posterior density, shape ``(draws,)``.
        evidence: log p(data).
        marginals: probabilities of discrete latents' values, shape ``(*batch, K)``.
        attrs: attributes of the groups.
    """
    import xarray as xr

    attempts = Attempts()
    groups = _groups(problem, draws, attempts, chains=1, attrs=attrs)
    lp = groups.pop("lp")
    log_weight = lp - log_q.detach().cpu().numpy().reshape(1, -1)
    lp = _as_written(problem, draws, lp)
    stats = {"lp": lp, "log_q": lp - log_weight, "log_weight": log_weight}
    groups["sample_stats"] = site_dataset(stats, {}, attrs=attrs)
    groups["sample_stats"]["log_evidence"] = xr.DataArray(evidence)
    if marginals:
        names = named_dims(problem)
        shown = Dimensions(problem)
        dims = {n: [*names[n][: value.dim() - 1], shown(f"{n}_value")] for n, value in marginals.items()}
        groups["marginals"] = site_dataset(
            numpy(marginals), dims, attrs=attrs, coords=Dimensions(problem).coords(), sample_dims=()
        )
    return attempts.note(xr.DataTree.from_dict(ordered(groups)))


def chains_tree(
    problem: Problem,
    draws: Draws,
    chains: int,
    stats: Mapping[str, Array],
    attrs: Mapping[str, Any],
    copies: Copies | None = None,
    lp: Array | None = None,
) -> xr.DataTree:
    """Everything that follows from MCMC draws; must be called inside a session.

    Args:
        problem: the problem.
        draws: values by continuous latent site, each of shape ``(chains * draws, ...)``, chain after chain.
        chains: number of chains.
        stats: sampler statistics, each of shape ``(chains, draws)``.
        attrs: attributes of the groups.
        copies: the symmetries by which the draws were mapped to all copies alike, if they were.
        lp: log p(data, draw) of each, shape ``(chains, draws)``, where it is known.
    """
    import xarray as xr

    attempts = Attempts()
    groups = _groups(problem, draws, attempts, chains=chains, attrs=attrs, lp=lp)
    lp = _as_written(problem, draws, groups.pop("lp"))
    groups["sample_stats"] = site_dataset({"lp": lp, **stats}, {}, attrs=attrs)
    return noted(problem, attempts.note(xr.DataTree.from_dict(ordered(groups))), draws, copies)


class Copies(Protocol):
    """Copies of one mode that draws were spread over."""

    @property
    def record(self) -> str:
        """What a tree keeps of them."""


def noted(problem: Problem, tree: xr.DataTree, draws: Draws, copies: Copies | None = None) -> xr.DataTree:
    """The tree, with a record of the symmetries whose copies lie apart at its draws, or by which these were spread."""
    if copies is not None:
        tree.attrs[SYMMETRY] = copies.record
        return tree
    symmetries = Symmetries(Layout(())) if _LEAN.get() else find_symmetries(problem)
    blocks = separated(symmetries, symmetries.layout.join(numpy(draws))) if symmetries.blocks else ()
    if blocks:
        tree.attrs[SYMMETRY] = symmetries.only(blocks).dumps(complete=False)
    return tree


def latent_dataset(problem: Problem, draws: Draws) -> xr.Dataset:
    """Draws of the latents alone, deterministic sites included; must be called inside a session."""
    joint = Joint(problem)
    with torch.no_grad():
        draws = _completed(joint, draws, Attempts())
        shown = {site.name: draws[site.name] for site in (*problem.latents, *problem.predicted)}
        shown = shown | deterministic_sites(joint, draws, {}, inside=_rows(problem))
    values = {name: value[None] for name, value in numpy(shown).items()}
    return site_dataset(
        values, named_dims(problem), attrs={"pyrolvm_problem": problem.name}, coords=Dimensions(problem).coords()
    )


# --- groups -----------------------------------------------------------------------------------------------------------


def _groups(
    problem: Problem,
    draws: Draws,
    attempts: Attempts,
    *,
    chains: int,
    attrs: Mapping[str, Any],
    lp: Array | None = None,
) -> dict[str, Any]:
    """All groups that follow from draws of the latents and can be made, and ``lp``, an array of shape ``(chain, draw)``."""
    joint, dims = Joint(problem), named_dims(problem)
    count = len(next(iter(draws.values()))) // chains if draws else 0
    ways: dict[str, str] = {}
    with torch.no_grad():
        continuous = {site.name: draws[site.name] for site in problem.continuous}
        only = _LEAN.get()
        rows = _rows(problem)
        few, by = _thin(draws, chains, rows)
        terms: Draws = {}
        if not only:
            terms, by = attempts.thinned(
                "log_likelihood", lambda: evaluated(ways, "terms", joint.terms, few, chains, by), by
            )
        if lp is not None:
            terms["log_p"] = torch.as_tensor(lp.reshape(-1))
        elif by > 1 or "log_p" not in terms:
            terms |= attempts.log_p(lambda: log_p(ways, joint, draws, inside=rows), joint.log_p, draws)
        given = dump_names(site.name for site in problem.discrete if site.name in draws)
        draws = _completed(joint, draws, attempts)
        drawn = draws
        make = partial(deterministic_sites, joint, drawn, ways, inside=rows)
        found = attempts.by_name("posterior", make, joint.deterministic, drawn)
        deterministic = {name: value for name, value in found.items() if name in problem.sites}
        sites = (*problem.latents, *problem.predicted)
        shown = {site.name: draws[site.name] for site in sites if site.name in draws} | deterministic
        quantities, each = _quantities(problem, shown, chains, ways, attempts)
        reals: Draws = {}
        if continuous and not only:
            reals = attempts("unconstrained_posterior", partial(unconstrained, joint, continuous))
        predictive: Draws = {}
        step = 1
        if not only:
            kept, step = _thin(draws, chains, rows)
            predictive, step = attempts.thinned(
                "posterior_predictive",
                lambda: evaluated(ways, "predictive", joint.predictive, kept, chains, step),
                step,
            )
        digits = {} if only else rounding(problem, continuous) | endless(problem, reals)

    def by_chain(values: Draws) -> dict[str, Any]:
        return {n: v.reshape(chains, len(v) // chains, *v.shape[1:]) for n, v in numpy(values).items()}

    base = {**attrs, "pyrolvm_problem": problem.name, **({GIVEN: given} if given else {})}
    coords = Dimensions(problem).coords()

    def dataset(values: Draws, names: Mapping[str, list[str]], by: int = 1, how: str = "") -> Any:
        extra = {"thinned_by": by} if by > 1 else {}
        told = {"evaluated_by": ways[how]} if how in ways else {}
        return site_dataset(
            by_chain(values), names, attrs={**base, **extra, **told}, coords=coords, draws=np.arange(0, count, by)
        )

    def add(
        group: str, values: Draws, names: Callable[[], Mapping[str, list[str]]], by: int = 1, how: str = ""
    ) -> None:
        if values:
            groups.update(attempts(group, lambda: {group: dataset(values, names(), by, how)}))

    groups: dict[str, Any] = {"lp": by_chain({"lp": terms.pop("log_p")})["lp"].astype(float)}
    groups["posterior"] = dataset(shown, dims, how="deterministic").assign_attrs(with_origin(digits, problem))
    add(
        "quantities",
        quantities,
        lambda: {n: quantity_dims(problem, n, v) for n, v in quantities.items()},
        each,
        "quantities",
    )
    add("unconstrained_posterior", reals, lambda: unconstrained_dims(problem, dims))
    for group in ("log_likelihood", "log_prior"):
        found = {n.removeprefix(f"{group}/"): v for n, v in terms.items() if n.startswith(f"{group}/")}
        add(group, found, partial(_row_dims, found, dims), by, "terms")
    add("posterior_predictive", predictive, lambda: dims, step, "predictive")
    if only:
        return groups
    groups |= attempts("prior", lambda: prior_groups(problem, dims, base, PRIOR_DRAWS))
    groups |= attempts("observed_data", lambda: data_groups(problem, dims, base))
    return attempts("log_likelihood/masked", lambda: present_groups(groups, present(problem))) or groups


def lanes(problem: Problem, count: int) -> Draws:
    """As many draws of nothing: where discrete latents alone are unknown, all that follows from a draw follows from one of these."""
    return {LANE: torch.zeros(count, dtype=problem.dtype, device=problem.device)}


def _completed(joint: Joint, draws: Draws, attempts: Attempts) -> Draws:
    """Draws of all sites: discrete latents from their exact posterior given the others, then what is predicted from all of them."""
    problem, rows = joint.problem, _rows(joint.problem)
    if any(site.name not in draws for site in problem.discrete):
        given = {name: value for name, value in draws.items() if name not in {s.name for s in problem.discrete}}
        make = partial(map_draws, joint.discrete, given, inside=rows, what="discrete")
        draws = draws | attempts.by_name("posterior", make, joint.discrete, given)
    if problem.predicted:
        make = partial(map_draws, joint.predicted, draws, inside=rows, what="predicted")
        draws = draws | attempts.by_name("posterior", make, joint.predicted, draws)
    return draws


def _rows(problem: Problem) -> int:
    """How many numbers a model computes for its data, at least."""
    return max((site.numel for site in problem.observed), default=1)


def _thin(values: Draws, chains: int, elements: int) -> tuple[Draws, int]:
    """Every k-th draw of each chain, so that ``elements`` numbers a draw (or the values' own size) fit."""
    if not values:
        return values, 1
    total = len(next(iter(values.values())))
    size = max(elements, max(math.prod(v.shape[1:]) for v in values.values()))
    step = max(1, math.ceil(total * size / MAX_ELEMENTS))
    return every(values, chains, step), step


def _row_dims(values: Draws, dims: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {name: dims[name][: value.dim() - 1] for name, value in values.items()}


def _quantities(
    problem: Problem, draws: Draws, chains: int, ways: dict[str, str], attempts: Attempts
) -> tuple[Draws, int]:
    """The model's quantities, those that can be computed, and of every how-manieth draw."""
    try:
        return quantities_of(problem, draws, chains, ways)
    except Exception:
        passed_over("found again below, by name")
        found: Draws = {}
        for name, function in problem.quantities.items():
            found |= attempts(f"quantities/{name}", partial(map_draws, partial(_quantity, name, function), draws))
        return found, 1


def _quantity(name: str, function: Callable[..., Any], draw: Mapping[str, Tensor]) -> Draws:
    return {name: torch.as_tensor(function(draw))}


def prior_groups(
    problem: Problem, dims: Mapping[str, list[str]], attrs: Mapping[str, Any], most: int
) -> dict[str, Any]:
    """Prior draws, ``most`` of them, unless the prior is improper or even two draws would fill the memory; inside a session."""
    joint, coords = Joint(problem), Dimensions(problem).coords()
    observed = [site.name for site in problem.observed]
    size = max((site.numel for site in problem.sites.values()), default=1)
    count = min(most, MAX_ELEMENTS // max(4 * size, 1))
    if count < 2:
        return {}
    try:
        with torch.no_grad():
            many = Evaluator(lambda _: joint.predictive({}), lanes(problem, count), what="prior")
            if many.way == "loop":
                count = budget.affordable(many.cost, min(count, PRIOR_LOOPED))
            found = numpy(many(lanes(problem, count)))
    except NotImplementedError:
        return {}
    by_chain = {n: v[None] for n, v in found.items()}
    prior = {n: v for n, v in by_chain.items() if n not in observed}
    predictive = {n: v for n, v in by_chain.items() if n in observed}
    groups = {"prior": prior, "prior_predictive": predictive}
    return {g: site_dataset(v, dims, attrs=attrs, coords=coords) for g, v in groups.items() if v}


def _khat(log_weight: Array) -> float:
    return float(weigh(log_weight.reshape(-1))[0].khat)
