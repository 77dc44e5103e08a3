"""Entries of continuous latents that a mask takes out of the density, and that nothing depends on.

Pyro's ``obs_mask=`` makes a latent of the whole shape of the data, of which only the entries that are not seen have a density; a
mask around a latent does the same. What is left has no posterior: its density is flat. Inference draws such entries from a reference
of their own, standard normal on the unconstrained scale and independent of everything, in model and guide alike; ``lp`` and ``log_q``
of a result are without it, as Pyro's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from pyrolvm._base.bijections import bijection, shape_before
from pyrolvm._base.passing import passed_over
from pyrolvm._program.peeling import unmasked
from pyrolvm._program.program import Program
from pyrolvm._program.sites import Site, is_deterministic, is_random
from pyrolvm._program.starting import Start, around, support_of
from pyrolvm._program.traces import Message

__all__ = ["Fill", "reference", "unused"]

RUNS = 3
"""Points at which nothing may depend on the entries."""


class _Filled(dist.MaskedMixture):
    """A distribution with the reference in some of its batch; both have one support."""

    @constraints.dependent_property
    def support(self) -> Any:
        return self.component0.support


class Fill(Messenger):
    """Gives the entries of sites that a mask takes out the reference, and takes the mask off. Values given for all entries stay."""

    def __init__(self, names: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = frozenset(names)

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] not in self.names or msg["is_observed"]:
            return
        fn, left_out = _left_out(msg["fn"], msg["mask"])
        if left_out is None or isinstance(fn, dist.Delta):
            return
        other = _standard(support_of(fn), fn.batch_shape, fn.event_shape, left_out.device)
        msg["fn"], msg["mask"] = _Filled(left_out.expand(fn.batch_shape), fn, other), None


class Given(Fill):
    """The same of a guide's sites, whether the guide masks them or not."""

    def __init__(self, entries: Mapping[str, Tensor]) -> None:
        super().__init__(entries)
        self.entries = dict(entries)

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self.names and not isinstance(msg["fn"], dist.Delta):
            left_out = self.entries[msg["name"]]
            msg["mask"] = ~left_out if msg["mask"] is None else msg["mask"] & ~left_out
            super()._pyro_sample(msg)


def _left_out(fn: dist.TorchDistribution, mask: Any) -> tuple[Any, Tensor | None]:
    """A distribution without its own mask, and which entries of its batch no density is asked of; ``None`` if of all."""
    fn, masks = unmasked(fn)
    for own in masks:
        mask = own if mask is None else mask & own
    if mask is None or mask is True:
        return fn, None
    return fn, ~torch.as_tensor(mask)


def _standard(support: Any, batch: torch.Size, event: torch.Size, device: Any) -> Any:
    """The image of standard normals in a support."""
    transform = bijection(support)
    shape = shape_before(transform, batch + event)
    base = dist.Normal(torch.zeros(shape, device=device), torch.ones(shape, device=device))
    base = base.to_event(len(shape) - len(batch))
    return base if _is_real(support) else dist.TransformedDistribution(base, [transform])


def _is_real(support: object) -> bool:
    return getattr(support, "base_constraint", support) is constraints.real


def reference(problem: Program, draws: Mapping[str, Tensor]) -> Tensor | float:
    """The log density of the reference at draws of shape ``(draws, ...)`` by site; shape ``(draws,)``, or 0 without such entries."""
    total: Tensor | float = 0.0
    for name, left_out in problem.unused.items():
        site, value = problem.sites[name], draws[name].detach()
        batch = value.shape[: value.dim() - site.event_dim]
        fn = _standard(site.support, batch, value.shape[len(batch) :], value.device)
        log_prob = fn.log_prob(value)
        total = total + torch.where(left_out, log_prob, torch.zeros_like(log_prob)).reshape(len(value), -1).sum(-1)
    return total


def unused(problem: Program, sites: Mapping[str, Site]) -> dict[str, Tensor]:
    """By site, the entries of its batch that a mask takes out, where nothing depends on any of them.

    Empty where a model has parameters, whose guides are trained for many such sites at once, and masked alike.
    """
    if problem.parameters or problem.modules:
        return {}
    masks = _masks(problem)
    masks = {n: mask for n, mask in masks.items() if n in sites and _fits(sites[n], mask)}
    if not masks:
        return {}
    with problem.session(seed=0):
        try:
            return {name: mask for name, mask in masks.items() if _apart(problem, name, mask)}
        except Exception:
            passed_over("a program that does not run at other values: what depends on them is not known")
            return {}


def _masks(problem: Program) -> dict[str, Tensor]:
    with problem.session(seed=0), torch.no_grad():
        try:
            with poutine.trace() as tracer, Start(around):
                problem.model(*problem.args, **problem.kwargs)
        except Exception:
            passed_over("said where the program is run next")
            return {}
    found = {}
    nodes: dict[str, Any] = dict(tracer.trace.nodes.items())
    for name, node in nodes.items():
        if is_random(node) and not is_deterministic(node) and not node["is_observed"]:
            fn, left_out = _left_out(node["fn"], node["mask"])
            if left_out is not None and bool(left_out.any()):
                found[name] = left_out.expand(fn.batch_shape).clone()
    return found


def _fits(site: Site, mask: Tensor) -> bool:
    """Whether it is a continuous latent whose support has one transform, and the mask is of its whole batch."""
    if site.kind != "latent" or site.is_discrete or site.unconstrained_shape is None:
        return False
    return mask.shape == site.batch_shape


def _apart(problem: Program, name: str, mask: Tensor) -> bool:
    """Whether all densities, and the site's own transform, stay as they are at other values of the entries."""
    for point in range(RUNS):
        first, second = (_densities(problem, name, mask, point, other) for other in (1, 2))
        if first.keys() != second.keys() or not all(torch.equal(first[k], second[k]) for k in first):
            return False
    return True


def _densities(problem: Program, name: str, mask: Tensor, point: int, other: int) -> dict[str, Tensor]:
    """All log densities at a point, with the entries at other values, and the image of fixed numbers in the site's support."""

    def choose(msg: Mapping[str, object]) -> Tensor:
        value = around(msg)
        if msg["name"] == name:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(other)
                changed = around(msg)
            left_out = mask.reshape(mask.shape + (1,) * (value.dim() - mask.dim()))
            value = torch.where(left_out, changed, value)
        return value

    torch.manual_seed(point)
    with torch.no_grad(), poutine.trace() as tracer, Start(choose):
        problem.model(*problem.args, **problem.kwargs)
    tracer.trace.compute_log_prob()
    nodes: dict[str, Any] = dict(tracer.trace.nodes.items())
    found = {n: torch.as_tensor(node["log_prob"]) for n, node in nodes.items() if is_random(node)}
    support = support_of(nodes[name]["fn"])
    transform = bijection(support)
    shape = nodes[name]["fn"].shape()
    return found | {"": transform(torch.full(shape_before(transform, shape), 0.3))}
