"""Reading a problem's layout: one run of its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyrolvm import GuideError, Problem
from pyrolvm.family import is_deterministic, is_discrete, is_random, support_of
from pyrolvm_guides._layout import Latent, Layout, Rows, argument_shapes, bijection
from pyrolvm_guides._start import StartMessenger

__all__ = ["read_layout"]

_JITTER = 0.1


def read_layout(problem: Problem, *, init: Mapping[str, Any] | None = None) -> Layout:
    """Runs the model once to lay out its continuous latent sites and to find where to start.

    Every site starts at its prior median given the starts of the sites above it (see
    :class:`~pyrolvm_guides._start.StartMessenger`), moved at random by a tenth of its prior spread, at most 0.1, so
    that a symmetric model does not start on a saddle. Discrete latent sites are left out.

    Args:
        problem: the model with its data.
        init: constrained values to start at, by site name, for some or all sites. They are not moved.

    Raises:
        GuideError: if a support has no bijection from the real line, if it depends on other latent sites, or if
            ``init`` does not fit the model.
    """
    messenger = StartMessenger(dict(init or {}))
    trace = _run(problem, messenger)
    _check_init(dict(init or {}), messenger)
    latents: list[Latent] = []
    plates: dict[str, Rows] = {}
    observed: dict[str, tuple[Tensor, int, tuple[str, ...]]] = {}
    starts: list[Tensor] = []
    spreads: list[Tensor] = []
    for name, site in trace.nodes.items():
        if not is_random(site):
            continue
        frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.size != -1]
        for frame in frames:
            plates[frame.name] = Rows(frame.name, _full(frame), int(frame.dim), int(frame.size))
        if site["is_observed"]:
            if isinstance(site["value"], Tensor) and not _is_computed(site):
                observed[name] = (site["value"].detach(), site["fn"].event_dim, tuple(f.name for f in frames))
        elif not is_discrete(site["fn"]):
            latent = _latent(name, site, frames, messenger, sum(one.numel for one in latents))
            latents.append(latent)
            start, spread = (_all_rows(one, latent, frames) for one in messenger.starts[name])
            starts.append(start.reshape(-1))
            spreads.append(spread.reshape(-1))
    if any(_bounds(latent.support) for latent in latents):
        _check_supports(latents, _run(problem, StartMessenger({})))
    like: dict[str, Any] = {"dtype": problem.dtype, "device": problem.device}
    start = torch.cat(starts).to(**like) if starts else torch.zeros(0, **like)
    spread = torch.cat(spreads).to(**like) if spreads else torch.zeros(0, **like)
    given = [torch.full((latent.numel,), latent.name in (init or {})) for latent in latents]
    moved = ~torch.cat(given).to(problem.device) if given else torch.zeros(0, **like)
    start = start + moved * _JITTER * spread.clamp(max=1.0) * torch.randn(start.shape, **like)
    return Layout(
        latents=tuple(latents),
        plates=dict(sorted(plates.items(), key=lambda item: item[1].dim)),
        start=start,
        spread=spread,
        arguments=argument_shapes(problem.args, problem.kwargs),
        observed=observed,
        dtype=problem.dtype,
        device=problem.device,
    )


def _run(problem: Problem, messenger: StartMessenger) -> Any:
    # The model may hold parameters of its own: they must not stay in the global store because a guide looked at it.
    with pyro.get_param_store().scope(), torch.no_grad(), poutine.block(), messenger:
        return poutine.trace(problem.model).get_trace(*problem.args, **problem.kwargs)


def _is_computed(site: Mapping[str, Any]) -> bool:
    """Whether an observed site is a deterministic value or a factor, not data."""
    return is_deterministic(site) or isinstance(site["fn"], dist.Unit)


def _full(frame: Any) -> int:
    return int(frame.full_size or frame.size)


def _latent(
    name: str, site: Mapping[str, Any], frames: Sequence[Any], messenger: StartMessenger, offset: int
) -> Latent:
    fn = site["fn"]
    shape, u_shape = list(site["value"].shape), list(messenger.starts[name][0].shape)
    u_event_dim = fn.event_dim + len(u_shape) - len(shape)
    for frame in frames:
        dim, u_dim = frame.dim - fn.event_dim, frame.dim - u_event_dim
        if len(shape) < -dim or shape[dim] != frame.size:
            raise GuideError(
                f"site {name!r} has shape {tuple(shape)}, which does not have the {frame.size} rows of plate "
                f"{frame.name!r} along dimension {frame.dim}. Fix: expand its distribution to the plate."
            )
        shape[dim] = u_shape[u_dim] = _full(frame)
    return Latent(
        name=name,
        shape=tuple(shape),
        event_dim=fn.event_dim,
        support=support_of(fn),
        plates=tuple(frame.name for frame in frames),
        transform=bijection(support_of(fn)),
        u_shape=tuple(u_shape),
        u_event_dim=u_event_dim,
        start=offset,
    )


def _all_rows(value: Tensor, latent: Latent, frames: Sequence[Any]) -> Tensor:
    """A start for every row of a plate of which the model showed some: their median."""
    for frame in frames:
        if frame.size != _full(frame):
            value = value.median(dim=frame.dim - latent.u_event_dim, keepdim=True).values
    return value.expand(latent.u_shape)


def _check_init(init: Mapping[str, Any], messenger: StartMessenger) -> None:
    for name in init:
        if name not in messenger.starts:
            raise GuideError(
                f"init names {name!r}, which is no continuous latent site of the model. "
                f"Fix: use one of {', '.join(messenger.starts)}."
            )


def _bounds(support: Any) -> list[Tensor]:
    """The numbers that a support depends on."""
    while isinstance(support, torch.distributions.constraints.independent):
        support = support.base_constraint
    named = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    return [torch.as_tensor(bound) for bound in named if bound is not None]


def _check_supports(latents: Sequence[Latent], again: Any) -> None:
    for latent in latents:
        other = _bounds(support_of(again.nodes[latent.name]["fn"]))
        for before, after in zip(_bounds(latent.support), other, strict=True):
            if not torch.equal(before, after):
                raise GuideError(
                    f"the support of site {latent.name!r} changes from run to run: a bound was {_short(before)}, "
                    f"then {_short(after)}. It depends on another latent site, which this guide cannot follow. "
                    "Fix: sample on a fixed support, such as a fraction in (0, 1), and compute the site from it."
                )


def _short(bound: Tensor) -> str:
    return f"{float(bound.flatten()[0]):.4g}"
