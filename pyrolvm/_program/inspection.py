"""Reads a model by running it once: its sites, supports, plates and learnable parameters.

The run has validation on and latent values at the centre of their unconstrained space, so that reading a model draws
nothing from improper priors and never fails by an unlucky draw.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from pyrolvm._base import runtime
from pyrolvm._base.bijections import bijection, one_interval, shape_before, shown
from pyrolvm._base.errors import DataError, ProblemError
from pyrolvm._base.explain import explained, reason, remedy
from pyrolvm._base.habits import belongs_to
from pyrolvm._program.data import first_non_finite
from pyrolvm._program.missing import REMEDY
from pyrolvm._program.peeling import innermost, own_masks, untransformed
from pyrolvm._program.program import Program
from pyrolvm._program.sites import Parameter, Plate, Site, is_deterministic, is_observation, is_random
from pyrolvm._program.starting import Start, around, centre, is_discrete, support_of
from pyrolvm._program.traces import Message, Trace
from pyrolvm._program.usage import Watch, surroundings

__all__ = [
    "Reading",
    "outside_support",
    "read",
]

STARTS = 10

_INSTEAD = {
    "CoalescentTimes": "draw the waiting times, each dist.Exponential(rate * k * (k - 1) / 2) while there are k lineages, and compute "
    "the times from them, by pyro.deterministic; Pyro has no gradient of this density by its times",
}
_OTHERWISE = "compute it from sites that have one, by pyro.deterministic; or register one, torch.distributions.biject_to.register(...)"

MOST_LISTED = 1_000
"""Orders of nodes up to which matchings are summed out."""


@dataclass(frozen=True)
class Reading:
    """What a run of a model shows."""

    sites: dict[str, Site]
    plates: dict[str, Plate]
    parameters: dict[str, Parameter]
    bystanders: list[Tensor]
    lossy: str
    one_by_one: bool
    masked: bool


def read(problem: Program) -> Reading:
    """Runs the model of ``problem`` once and describes what it does.

    Raises:
        ProblemError: if the model does not run, repeats a name, or broadcasts an observation.
        DataError: if observations or other data are not finite.
    """
    reading, left_open = _read(problem, {})
    sizes = _row_counts(left_open, reading.nodes)
    return (_read(problem, sizes)[0] if sizes else reading).described()


def _read(problem: Program, sizes: Mapping[str, int]) -> tuple[_Run, list[str]]:
    """One run, with plates that the model declares without a size at ``sizes``, and the names of such plates."""
    with (
        problem.session(seed=0, validate=True, sizes=sizes),
        runtime.record_plates() as calls,
    ):
        watch = Watch(f"model {problem.name!r}", problem.arguments, surroundings(problem.function))
        try:
            with torch.no_grad(), watch:
                trace = _trace(problem)
            watch.finish()
        except ProblemError as error:
            _check_plate_sizes(calls)
            if _ABOUT_VALUES.search(str(error)):
                _check_arguments_finite(problem)
            raise
        _check_plate_sizes(calls)
        nodes = {name: node for name, node in trace.nodes.items() if is_random(node)}
        _check_finite(problem, nodes)
        _check_broadcasting(nodes)
        parameters = {
            name: Parameter(name, tuple(node["value"].shape))
            for name, node in trace.nodes.items()
            if node["type"] == "param" and not _is_coordinate(name, trace)
        }
        bystanders = runtime.apart_from_parameters(watch.bystanders)
    run = _Run(nodes, calls, parameters, sizes, bystanders, next(iter(watch.lossy.values()), ""))
    return run, [name for name, call in calls.items() if call.size is None]


def _is_coordinate(name: str, trace: Trace) -> bool:
    """Whether a parameter is how centred ``LocScaleReparam`` writes a site: it moves coordinates, not the posterior."""
    site = name.removesuffix("_centered")
    return site != name and f"{site}_decentered" in trace.nodes


@dataclass(frozen=True)
class _Run:
    """What one run of a model showed."""

    nodes: dict[str, Mapping[str, Any]]
    calls: Mapping[str, runtime.PlateCall]
    parameters: dict[str, Parameter]
    sizes: Mapping[str, int]
    bystanders: list[Tensor]
    lossy: str

    def described(self) -> Reading:
        """The same without the run itself."""
        sites = {name: _site(name, node) for name, node in self.nodes.items()}
        plates = _plates(self.calls, self.nodes, self.sizes)
        one_by_one = any(node["infer"].get("enumerate") == "sequential" for node in self.nodes.values())
        masked = any(
            sites[name].kind == "latent" and (node["mask"] is not None or bool(own_masks(node["fn"])))
            for name, node in self.nodes.items()
        )
        return Reading(sites, plates, self.parameters, self.bystanders, self.lossy, one_by_one, masked)


def _row_counts(names: Sequence[str], nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many rows plates without a size have: as many as every site inside has along their dimension.

    One whose sites differ is no plate of rows, but a name for whatever shapes its sites have, and stays that.
    """
    found: dict[str, set[int]] = {}
    for node in nodes.values():
        if is_deterministic(node) or isinstance(node["fn"], dist.Unit):
            continue
        shape = tuple(node["fn"].batch_shape)
        if node["is_observed"]:
            value = node["value"]
            shape = np.broadcast_shapes(shape, value.shape[: value.dim() - node["fn"].event_dim])
        for frame in node["cond_indep_stack"]:
            if frame.name in names and frame.dim is not None:
                found.setdefault(frame.name, set()).add(shape[frame.dim] if len(shape) >= -frame.dim else 1)
    return {name: next(iter(sizes)) for name, sizes in found.items() if len(sizes) == 1 and 0 not in sizes}


class _PyroAlone(Messenger):
    """Refuses distributions of other libraries, and mixtures over several intervals, by name before they fail somewhere."""

    def _pyro_sample(self, msg: Message) -> None:
        hint = belongs_to(msg["fn"])
        if hint and not isinstance(msg["fn"], torch.distributions.Distribution):
            raise ProblemError(
                f"site {msg['name']!r} has a {type(msg['fn']).__name__} that is no distribution of Pyro; {hint}. "
                f"Fix: use pyro.distributions.{type(msg['fn']).__name__}."
            )
        if isinstance(msg["fn"], torch.distributions.Distribution) and not hasattr(msg["fn"], "to_event"):
            name = type(msg["fn"]).__name__
            fix = (
                f"use pyro.distributions.{name}"
                if hasattr(dist, name)
                else "write it as a pyro.distributions.TorchDistribution"
            )
            raise ProblemError(
                f"site {msg['name']!r} has torch's own {name}, which pyro.sample cannot take: it has no plates' methods. Fix: {fix}."
            )
        if not msg["is_observed"] and not one_interval(getattr(msg["fn"], "support", None)):
            raise ProblemError(
                f"latent site {msg['name']!r} is a mixture whose components have different bounds, so its support is no interval. "
                'Fix: draw the component, k = pyro.sample("k", dist.Categorical(...)), which is summed out, and a fraction of its '
                "interval, dist.Uniform(0.0, 1.0), from which the value is computed."
            )


_ABOUT_VALUES = re.compile(r"support|invalid values|constraint|\bnan\b|\binf\b", re.IGNORECASE)


def outside_support(error: Exception) -> bool:
    """Whether a value lies outside a support, or an argument is none that its distribution takes, which another draw may mend."""
    told = ("to be within the support", "to satisfy the constraint")
    return any(text in str(error) for text in told) or isinstance(error.__cause__, LinAlgError)


def _trace(problem: Program) -> Any:
    """A scored run of the model, with latents at the centre or, where data lie outside their support then, near it."""
    for start in range(STARTS):
        try:
            with explained(f"model {problem.name!r}"):
                model = Start(around if start else centre)(_PyroAlone()(problem.model))
                trace = poutine.trace(model).get_trace(*problem.args, **problem.kwargs)
                _score(problem, trace)
            return trace
        except ProblemError as error:
            if not outside_support(error) or start == STARTS - 1:
                raise


def _score(problem: Program, trace: Trace) -> None:
    """Computes log densities; an error names its site."""
    try:
        trace.compute_log_prob()
    except (RuntimeError, TypeError) as error:  # Pyro names the site in a ValueError only
        for name, node in trace.nodes.items():
            if not is_random(node):
                continue
            try:
                node["fn"].log_prob(node["value"])
            except NotImplementedError as lacking:
                if not _has_none(lacking):
                    raise ProblemError(_fails_in(problem, name, node, error)) from error
                raise ProblemError(
                    f"site {name!r} has no log density: {type(innermost(node['fn'])).__name__}{_last_transform(node['fn'])} computes "
                    "none. Fix: sample what it is computed from, and compute the value by pyro.deterministic."
                ) from error
            except (RuntimeError, TypeError):
                raise ProblemError(_fails_in(problem, name, node, error)) from error
        raise


def _has_none(error: NotImplementedError) -> bool:
    """Whether a distribution has no density, where torch says of an operation that it does not take such values."""
    return not str(error) or re.search(r"log_prob\w*(\(\))? (is|are) not|is not implemented$", str(error)) is not None


def _fails_in(problem: Program, name: str, node: Mapping[str, Any], error: Exception) -> str:
    return (
        f"model {problem.name!r} fails in the density of site {name!r}, whose value has shape {_shape(node['value'])} and whose "
        f"distribution {tuple(node['fn'].shape())}: {reason(error)} Fix: {remedy(reason(error))}"
    )


def _last_transform(fn: dist.TorchDistribution) -> str:
    """Which transforms keep a distribution from a density; empty for one without."""
    lost = [type(part).__name__ for part in untransformed(fn)[1] if not part.bijective]
    return f", whose {' and '.join(lost)} cannot be inverted," if lost else ""


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"of a {type(value).__name__}"


def _full_shape(shape: Sequence[int], event_dim: int, frames: Sequence[Any]) -> tuple[int, ...]:
    """``shape`` with every subsampled plate dimension at its full length."""
    full = list(shape)
    for frame in frames:
        if not frame.vectorized:
            continue
        axis = len(full) - event_dim + frame.dim
        if 0 <= axis < len(full) and full[axis] == frame.size:
            full[axis] = frame.full_size or frame.size
    return tuple(full)


def _event_dim(value: Tensor, fn: dist.TorchDistribution, frames: Sequence[Any]) -> int:
    """The event dimensions of a deterministic value: as declared, or else what the plates around it leave over."""
    if fn.event_dim < value.dim():
        return int(fn.event_dim)
    vectorized = [frame for frame in frames if frame.vectorized]
    depth = max((-frame.dim for frame in vectorized), default=value.dim() + 1)
    for event_dim in range(value.dim() - depth, -1, -1):
        if all(value.shape[value.dim() - event_dim + frame.dim] == frame.size for frame in vectorized):
            return event_dim
    return value.dim()


def _site(name: str, node: Mapping[str, Any]) -> Site:
    fn, frames = node["fn"], [frame for frame in node["cond_indep_stack"] if frame.size != -1]
    plates = tuple(frame.name for frame in frames)
    base = innermost(fn)
    label = type(base).__name__
    if is_deterministic(node):
        shape, event_dim = tuple(node["value"].shape), _event_dim(node["value"], fn, frames)
        return Site(
            name,
            "deterministic",
            _full_shape(shape, event_dim, frames),
            event_dim,
            None,
            plates,
            False,
            False,
            label,
            None,
        )
    if isinstance(base, dist.Unit):
        return Site(name, "factor", tuple(fn.batch_shape), 0, None, plates, False, False, "factor", None)
    support = support_of(fn)
    shape = _full_shape(fn.shape(), fn.event_dim, frames)
    if node["is_observed"]:
        return Site(name, "observed", shape, fn.event_dim, support, plates, False, False, label, None)
    discrete = is_discrete(fn)
    unconstrained: tuple[int, ...] | None = None
    if not discrete and support is not None:
        try:
            unconstrained = tuple(shape_before(bijection(support), shape))
        except NotImplementedError:
            raise ProblemError(
                f"latent site {name!r} ({label}) has support {shown(support)}, which no bijection maps to the real line. "
                f"Fix: {_INSTEAD.get(label, _OTHERWISE)}."
            ) from None
    enumerable = discrete and _has_finite_support(fn)
    return Site(name, "latent", shape, fn.event_dim, support, plates, discrete, enumerable, label, unconstrained)


def _has_finite_support(fn: dist.TorchDistribution) -> bool:
    """Whether a distribution's values can be listed: those of a Binomial only where its counts are all alike, matchings of few."""
    if (
        not getattr(fn, "has_enumerate_support", False) or fn.event_dim > 1
    ):  # such as trees, which Pyro cannot enumerate
        return False
    if isinstance(fn, (dist.OneOneMatching, dist.OneTwoMatching)) and math.factorial(fn.event_shape[0]) > MOST_LISTED:
        return False
    try:
        fn.enumerate_support(expand=False)
    except NotImplementedError:
        return False
    return True


def _plates(
    calls: Mapping[str, runtime.PlateCall], nodes: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int]
) -> dict[str, Plate]:
    dims = {frame.name: frame.dim for node in nodes.values() for frame in node["cond_indep_stack"]}
    found = {}
    for name, call in calls.items():
        size = sizes.get(name) if call.size is None else call.size
        if name in dims and size is not None:
            found[name] = Plate(name, size, dims[name], call.subsampled, call.rows or size, open=call.size is None)
    return found


# --- checks -----------------------------------------------------------------------------------------------------------


def _check_plate_sizes(calls: Mapping[str, runtime.PlateCall]) -> None:
    for call in calls.values():
        if call.size is not None and call.size <= 0:
            raise ProblemError(
                f"plate {call.name!r} has size {call.size}, expected at least 1. "
                "Fix: size the plate by its data, pyro.plate(name, len(y)), and pass at least one row."
            )


def _check_arguments_finite(problem: Program) -> None:
    for name, value in problem.arguments.items():
        where = first_non_finite(value) if isinstance(value, Tensor) else None
        if where:
            raise DataError(f"argument {name!r} has {where}. Fix: {REMEDY}")


def _check_finite(problem: Program, nodes: Mapping[str, Mapping[str, Any]]) -> None:
    """Non-finite data are an error where they reach the density; masked out, they are the model's business."""
    for name, node in nodes.items():
        if not node["is_observed"] or is_deterministic(node) or torch.isfinite(node["log_prob"]).all():
            continue
        where = first_non_finite(node["value"])
        if where:
            argument = next((key for key, value in problem.arguments.items() if value is node["value"]), None)
            given = f" (argument {argument!r})" if argument and argument != name else ""
            raise DataError(f"observed site {name!r}{given} has {where}. Fix: {REMEDY}")
        _check_arguments_finite(problem)


def _check_broadcasting(nodes: Mapping[str, Mapping[str, Any]]) -> None:
    for name, node in nodes.items():
        fn, value = node["fn"], node["value"]
        if not is_observation(node) or value.numel() <= 1:
            continue
        terms = np.broadcast_shapes(fn.shape(), value.shape)
        if math.prod(terms) > value.numel():
            raise ProblemError(
                f"observed site {name!r} broadcasts: its value has shape {tuple(value.shape)}, its distribution "
                f"{tuple(fn.shape())}, so that {math.prod(terms)} terms of shape {terms} would be counted instead of "
                f"{value.numel()}. Fix: give location and scale the shape of the data, for example loc.squeeze(-1)."
            )
