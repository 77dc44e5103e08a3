"""Whether a guide fits a model: the same sites, the same rows, supports that match."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from pyrolvm._base import runtime
from pyrolvm._base.bijections import of_components
from pyrolvm._base.errors import GuideError, PyrolvmWarning
from pyrolvm._base.explain import explained
from pyrolvm._compat.pyro import is_subsample
from pyrolvm._program.batching import Batch
from pyrolvm._program.inspection import STARTS, outside_support
from pyrolvm._program.peeling import innermost
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_random
from pyrolvm._program.starting import is_circle, is_discrete, support_of
from pyrolvm._program.steady import check_steady
from pyrolvm._program.traces import Trace
from pyrolvm._program.usage import Leaves

__all__ = ["check_guide", "guide_sites", "wide_sites"]

MOST_OUTSIDE = 0.05
"""The share of a guide's mass outside the model's support with which steps can still be taken: a step with a draw there is skipped."""

LOOKED_AT, MOST_NUMBERS = 10_000, 1_000_000
"""Draws by which that share is found, and the most numbers that they may have."""


def check_guide(
    problem: Problem, guide: Callable[..., Any], name: str, batch: Batch
) -> tuple[poutine.Trace, poutine.Trace]:
    """Runs guide and model, with validation on, and checks that they speak of the same latents.

    Both run on all rows first, since posterior draws are of all rows, and a guide that sizes its parameters by what it
    sees first must see them all; then on ``batch``, if that is a part.

    Must be called inside a session; the guide's parameters are created by it.

    Returns:
        Traces of the guide on ``batch`` and of the model at its draw, without gradients.

    Raises:
        GuideError: if a latent is missing from the guide, a guide site from the model, a support is wider than the
            model's, or the two see different rows of a plate.
    """
    whole = problem.whole
    guide_trace = _guide_run(problem, guide, name, whole)
    _check_sites(problem, name, guide_trace)
    _check_points(name, guide_trace)
    _check_supports(problem, name, guide_trace)
    _check_rows(problem, name, guide_trace, {plate.name: torch.arange(plate.size) for plate in problem.plates.values()})
    _check_shapes(name, guide_trace, {site.name: site.shape for site in problem.latents}, "")
    first = _model_run(problem, guide, name, whole, guide_trace)
    if batch is whole:
        check_steady(problem, guide, name, whole, first)
        return first
    guide_trace = _guide_run(problem, guide, name, batch)
    _check_shapes(name, guide_trace, _shapes_on(problem, batch), " in a minibatch")
    part, model_trace = _model_run(problem, guide, name, batch, guide_trace)
    nodes: Mapping[str, Any] = model_trace.nodes
    rows = {n: node["value"] for n, node in nodes.items() if is_subsample(node.get("fn"))}
    _check_rows(problem, name, guide_trace, rows)
    check_steady(problem, guide, name, batch, (part, model_trace))
    return part, model_trace


@contextmanager
def _checked(batch: Batch) -> Iterator[None]:
    with runtime.validation(True), batch.active(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _guide_run(problem: Problem, guide: Callable[..., object], name: str, batch: Batch) -> poutine.Trace:
    part = "" if batch is problem.whole else " on a minibatch"
    leaves = Leaves(f"guide {name!r}")
    with _checked(batch), explained(f"guide {name!r} for {problem.name!r}{part}", GuideError), leaves:
        trace = poutine.trace(guide).get_trace(*batch.args, **batch.kwargs)
    runtime.set_aside_gradients(leaves.bystanders)
    return trace


def _model_run(
    problem: Problem, guide: Callable[..., Any], name: str, batch: Batch, guide_trace: poutine.Trace
) -> tuple[poutine.Trace, poutine.Trace]:
    """A draw of the guide and the model on it: the draw given, or another one where data lie outside their support given the first."""
    start = 0
    while True:
        try:
            with _checked(batch), explained(f"model {problem.name!r} on a draw of guide {name!r}", GuideError):
                model = poutine.replay(problem.model, trace=guide_trace)
                trace = poutine.trace(model).get_trace(*batch.args, **batch.kwargs)
                trace.compute_log_prob()
                guide_trace.compute_log_prob()
            return guide_trace, trace
        except GuideError as error:
            start += 1
            if not outside_support(error) or start == STARTS:
                raise
        guide_trace = _guide_run(problem, guide, name, batch)


def _shapes_on(problem: Problem, batch: Batch) -> dict[str, tuple[int, ...]]:
    """The shapes that latents have when the model runs on ``batch`` alone."""
    trace = batch.trace(problem)
    return {
        site.name: tuple(trace.nodes[site.name]["fn"].shape()) for site in problem.latents if site.name in trace.nodes
    }


def guide_sites(trace: Trace) -> dict[str, Mapping[str, Any]]:
    """The guide's sample sites proper: neither observed nor auxiliary."""
    return {
        name: node
        for name, node in trace.nodes.items()
        if is_random(node) and not node["is_observed"] and not node["infer"].get("is_auxiliary")
    }


def _check_sites(problem: Problem, name: str, trace: Trace) -> None:
    sampled = guide_sites(trace)
    latent = {site.name: site for site in problem.latents}
    have = ", ".join(sorted(sampled)) or "none"
    for site in problem.latents:
        if site.name in sampled or (site.is_discrete and site.enumerable):
            continue
        if site.is_discrete:
            raise GuideError(
                f"guide {name!r} has no sample site {site.name!r}, which is {site.distribution}, {site.why_not_listed}, "
                f'and cannot be summed out. Fix: add pyro.sample("{site.name}", ...) to the guide, or {site.instead}.'
            )
        raise GuideError(
            f"guide {name!r} has no sample site {site.name!r} (it has: {have}). "
            f'Fix: add pyro.sample("{site.name}", ...) to the guide, or use guide="mean_field".'
        )
    for site in problem.observed:
        if site.name in trace.nodes and trace.nodes[site.name]["is_observed"]:
            raise GuideError(
                f"guide {name!r} observes {site.name!r}, as the model does, so the data would count in its own density. Fix: leave the "
                "site out of the guide, which is of the latents alone."
            )
    for extra in sampled.keys() - latent.keys():
        kind = "observed in the model" if extra in problem.sites else "no site of the model"
        raise GuideError(
            f"guide {name!r} samples {extra!r}, which is {kind} (latent sites: {', '.join(latent) or 'none'}). "
            f'Fix: rename or remove it, or mark it pyro.sample(..., infer={{"is_auxiliary": True}}).'
        )


def _check_points(name: str, trace: Trace) -> None:
    """Refuses a point that is pushed through a transform: rounding on the way back leaves it without a density at its own value."""
    for site, node in guide_sites(trace).items():
        fn = innermost(node["fn"])
        if type(fn).__name__ == "TransformedDistribution" and type(innermost(fn.base_dist)).__name__ == "Delta":
            raise GuideError(
                f"guide {name!r} draws site {site!r} from a Delta pushed through a transform, which has no density at its own value "
                f'once that is rounded. Fix: transform the value itself, pyro.sample("{site}", dist.Delta(transform(value))).'
            )


def _check_supports(problem: Problem, name: str, trace: Trace) -> None:
    for site_name, node in guide_sites(trace).items():
        site = problem.sites[site_name]
        support = support_of(node["fn"])
        if support is None:
            continue
        if type(innermost(node["fn"])).__name__ == "Delta":
            continue  # its value comes from auxiliary sites; whether it lies in the support, the model's run checks
        if is_discrete(node["fn"]) != site.is_discrete:
            here, there = ("discrete", "continuous") if is_discrete(node["fn"]) else ("continuous", "discrete")
            raise GuideError(
                f"site {site_name!r} is {there} in the model ({site.distribution}) but {here} in guide {name!r} "
                f"({type(node['fn']).__name__}). Fix: leave it out of the guide, where it is then summed out, or give it a "
                f"{there} distribution."
            )
        if site.is_discrete or site.support is None or is_circle(site.support):
            continue  # an angle is the same a turn further
        _check_range(site_name, name, support, site.support, node["fn"])


def wide_sites(problem: Problem, trace: Trace) -> list[str]:
    """The sites that a guide's run draws from a wider interval than the model's support."""
    found = []
    for name, node in guide_sites(trace).items():
        site = problem.sites.get(name)
        if site is None or site.is_discrete or site.support is None or type(innermost(node["fn"])).__name__ == "Delta":
            continue
        try:
            ranges = _range(node["fn"].support, node["fn"]), _range(site.support, None)
        except (NotImplementedError, AttributeError):
            continue
        if _is_wider(*ranges):
            found.append(name)
    return found


def _is_wider(guide_range: tuple[float, float] | None, model_range: tuple[float, float] | None) -> bool:
    if guide_range is None or model_range is None:
        return False
    return guide_range[0] < model_range[0] or guide_range[1] > model_range[1]


def _share_outside(fn: dist.TorchDistribution, model_range: tuple[float, float]) -> float:
    """The share of a distribution's mass outside an interval, by its draws."""
    count = max(1, min(LOOKED_AT, MOST_NUMBERS // max(fn.shape().numel(), 1)))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        values = fn.sample((count,))
    return float(((values < model_range[0]) | (values > model_range[1])).double().mean())


def _check_range(
    site_name: str, name: str, guide_support: object, model_support: object, fn: dist.TorchDistribution
) -> None:
    """Compares supports by their values: does each accept what the other can hold?

    What is wider is refused where mass does lie outside, and else warned of: a Normal far from an edge has none there.
    """
    guide_range, model_range = _range(guide_support, fn), _range(model_support, None)
    if guide_range is None or model_range is None or guide_range == model_range:
        return
    if _is_wider(guide_range, model_range):
        share = _share_outside(fn, model_range)
        text = (
            f"guide {name!r} draws site {site_name!r} from {_interval(guide_range)} ({type(innermost(fn)).__name__}), wider than the "
            f"model's support {_interval(model_range)}: "
        )
        fix = f"Fix: use a distribution on {_interval(model_range)}, such as {_suggestion(model_range)}"
        if share > MOST_OUTSIDE:
            raise GuideError(f"{text}{share:.1%} of its draws lie outside, where the density is zero. {fix}.")
        lie = f"{share:.2%} of its draws lie" if share else "none of its draws lies"
        warnings.warn(
            f"{text}{lie} outside at the start, and one that does has density zero. {fix}, unless its mass stays inside.",
            PyrolvmWarning,
            stacklevel=2,
        )
        return
    warnings.warn(
        f"guide {name!r} draws site {site_name!r} from {_interval(guide_range)}, narrower than the model's support "
        f"{_interval(model_range)}: the rest can never be represented. "
        f"Fix: use a distribution on {_interval(model_range)}, such as {_suggestion(model_range)}, unless you mean it.",
        PyrolvmWarning,
        stacklevel=2,
    )


def _range(support: object, fn: dist.TorchDistribution | None) -> tuple[float, float] | None:
    """The interval that a univariate support stands for; ``None`` for others (simplices, matrices, orders).

    A transformed distribution declares the codomain of its last transform, which is wider than its support where that
    transform is affine: nothing is read from it.
    """
    if type(innermost(fn)).__name__ == "TransformedDistribution":
        return None
    support = of_components(support)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    infinity = float("inf")
    if isinstance(support, type(constraints.real)):
        return (-infinity, infinity)
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None and high is None:
        return None
    try:
        lower = float(torch.as_tensor(low).min()) if low is not None else -infinity
        upper = float(torch.as_tensor(high).max()) if high is not None else infinity
    except (RuntimeError, TypeError):
        return None
    return (lower, upper)


def _interval(values: tuple[float, float]) -> str:
    low, high = (f"{value:g}" for value in values)
    return f"({low}, {high})"


def _suggestion(values: tuple[float, float]) -> str:
    if values == (-float("inf"), float("inf")):
        return "Normal"
    if values[1] == float("inf"):
        return "LogNormal"
    return "a Beta, or a Normal pushed through a sigmoid"


def _check_rows(problem: Problem, name: str, guide_trace: Trace, rows: Mapping[str, Tensor]) -> None:
    for plate, node in guide_trace.nodes.items():
        if not is_subsample(node.get("fn")):
            continue
        here = node["value"]
        if plate not in rows and len(here) < node["fn"].size:
            raise GuideError(
                f"plate {plate!r} takes {len(here)} of {node['fn'].size} rows in guide {name!r}, but the model has no plate of that "
                f"name (its plates: {', '.join(problem.plates) or 'none'}), so it sees other rows. "
                "Fix: give the plate the model's name, so that both see the same rows."
            )
        if plate in rows and not torch.equal(here.cpu(), rows[plate].cpu()):
            raise GuideError(
                f"plate {plate!r} takes rows {_some(here)} in guide {name!r} and {_some(rows[plate])} in the model. "
                "Fix: declare it once, with the same size and subsample in both; lvm.fit(batch_size=...) then chooses the rows."
            )


def _some(rows: Tensor) -> str:
    shown = ", ".join(map(str, rows[:5].tolist()))
    return f"[{shown}]" if len(rows) <= 5 else f"[{shown}, ...; {len(rows)} rows]"


def _check_shapes(name: str, guide_trace: Trace, wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    for site_name, node in guide_sites(guide_trace).items():
        shape = tuple(node["value"].shape)
        if site_name in wanted and shape != wanted[site_name]:
            remedy = (
                "take the rows of the batch, by pyro.plate of the model's name and pyro.param(..., event_dim=...) inside it, "
                'or use guide="mean_field", which does; a guide over all latents at once cannot'
                if where
                else "give the guide's distribution the model's batch shape (plates, by the same names) and event shape (.to_event)"
            )
            raise GuideError(
                f"guide {name!r} draws site {site_name!r} with shape {shape}{where}, the model has {wanted[site_name]}. Fix: {remedy}."
            )
