"""Runs of a model at draws of a posterior, on new arguments: what is predicted, its mean, and the density of what is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._base.errors import ArgumentError
from pyrolvm._check.predict.members import Kept
from pyrolvm._check.predict.onward import onward
from pyrolvm._program.batching import Batch
from pyrolvm._program.peeling import innermost
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_deterministic, is_observation, is_random
from pyrolvm._program.starting import Start, centre
from pyrolvm._program.traces import Message

__all__ = ["TOGETHER", "Given", "Going", "Predicting", "Quantity", "observed_values", "prior_terms"]

TOGETHER = "log_score_of_rows"
"""Where the density of all observations of a row together is, whose latents are integrated out."""

Tree = dict[str, Tensor]
Quantity = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Going:
    """Observations that a law ties together: those of the fit, behind which new ones come.

    Attributes:
        known: the values in the fit.
        axis: the dimension along which they go on, from the right.
    """

    known: Tensor
    axis: int


class Given(Messenger):
    """Gives latents the values of a draw where members are known; others come from their distribution given those."""

    def __init__(
        self,
        draw: Mapping[str, Tensor],
        kept: Mapping[str, Kept],
        predicted: frozenset[str],
        going: Mapping[str, Going] | None = None,
        *,
        mean: bool = False,
    ) -> None:
        super().__init__()
        self.draw, self.kept, self.predicted, self.going, self.mean = draw, kept, predicted, going or {}, mean

    def _pyro_sample(self, msg: Message) -> None:
        name = msg["name"]
        if name in self.predicted and is_observation(msg):
            msg["is_observed"], msg["value"] = False, None
            if name in self.going:
                one = self.going[name]
                msg["value"], _ = onward(msg["fn"], one.known, one.axis, name, mean=self.mean)
        elif not msg["is_observed"] and name in self.kept and name in self.draw:
            kept = self.kept[name]
            value = kept.known(self.draw[name])
            if kept.onward is not None:
                value, _ = onward(msg["fn"], value, kept.onward, name)
            elif not kept.whole:
                fresh = msg["fn"]()
                value = torch.where(kept.mask(fresh.shape), value.to(fresh.dtype), fresh)
            msg["value"] = value


class Predicting:
    """What one draw predicts.

    Attributes:
        problem: the model with its new arguments.
        kept: the latents whose draws go on.
        predicted: the observed sites that are predicted; the others are scored.
        mean: whether means of predicted sites are wanted in place of draws, where their distribution knows one.
        going: the observed sites whose law goes on from their values in the fit.
        quantities: functions of all values of a run, by the names of their results.
        shown: of a result, the part that was asked for, by the name of the site; ``None`` for nothing of it.
        inferred: gives latents of new rows, and the density of these rows' observations, for a draw with latents from their prior.
    """

    def __init__(
        self,
        problem: Problem,
        kept: Mapping[str, Kept],
        predicted: frozenset[str],
        *,
        mean: bool,
        going: Mapping[str, Going] | None = None,
        quantities: Mapping[str, Quantity] | None = None,
        shown: Callable[[str, Tensor, bool], Tensor | None] = lambda name, value, by_row: value,
        inferred: Callable[[Tree], tuple[Tree, Tensor | None]] | None = None,
    ) -> None:
        self.problem, self.kept, self.predicted, self.mean = problem, kept, predicted, mean
        self.going, self.quantities, self.shown, self.inferred = going or {}, quantities or {}, shown, inferred
        self._batch = Batch.of(problem, None)

    def __call__(self, draw: Tree) -> Tree:
        """Values under ``predictions/site``; of what is given, which is predicted too, log densities under ``log_score/site``."""
        nodes = self.run(draw)
        found, values = self._predicted(nodes)
        if self.inferred is not None:
            values |= self._given_rows(nodes, found)
        for name, function in self.quantities.items():
            self._add(found, "predictions", name, _number(name, function(values)))
        return found

    def _predicted(self, nodes: Mapping[str, Any]) -> tuple[Tree, Tree]:
        """What a run tells, and the values of its sites."""
        found: Tree = {}
        values: Tree = {}
        for name, node in nodes.items():
            if not is_random(node) or isinstance(node["fn"], dist.Unit):
                continue
            values[name] = node["value"]
            if is_deterministic(node) or (name not in self.kept and not node["is_observed"]):
                middle = _mean(node["fn"]) if self.mean and name in self.predicted and name not in self.going else None
                drawn = _endless(node["fn"], node["value"]) if name in self.predicted else node["value"]
                self._add(found, "predictions", name, drawn if middle is None else middle)
            elif node["is_observed"]:
                term, again = self._scored(name, node)
                self._add(found, "log_score", name, term, by_row=True)
                self._add(found, "predictions", name, again)
                values[name] = again
            elif not self.kept[name].whole:
                self._add(found, "predictions", name, node["value"])
        return found, values

    def _given_rows(self, nodes: Mapping[str, Any], found: Tree) -> Tree:
        """What the observations of new rows say of their latents, and of all that follows from these."""
        assert self.inferred is not None
        values = {site.name: nodes[site.name]["value"] for site in self.problem.latents if site.name in nodes}
        latents, density = self.inferred(values)
        every = {**values, **latents}
        given = Given(every, {name: Kept({}) for name in every}, self.predicted)
        with self._batch.active(), given, poutine.trace() as tracer:
            self.problem.program(*self._batch.args, **self._batch.kwargs)
        new = dict(latents)
        scored = [name for name in nodes if f"log_score/{name}" in found]
        again: dict[str, Any] = dict(tracer.trace.nodes)
        for name, node in again.items():
            if not is_random(node) or isinstance(node["fn"], dist.Unit):
                continue
            middle = _mean(node["fn"]) if self.mean and (name in scored or name in self.predicted) else None
            if name in scored:
                self._add(found, "reconstructions", name, node["fn"]() if middle is None else middle)
            elif name in self.predicted or is_deterministic(node):
                new[name] = node["value"] if middle is None else middle
        for name, value in new.items():
            self._add(found, "predictions", name, value)
        if density is not None:
            found[f"log_score/{scored[0]}" if len(scored) == 1 else TOGETHER] = density
        return new

    def run(self, draw: Tree) -> dict[str, Any]:
        """The nodes of a run at a draw."""
        given = Given(draw, self.kept, self.predicted, self.going, mean=self.mean)
        with self._batch.active(), given, poutine.trace() as tracer:
            self.problem.program(*self._batch.args, **self._batch.kwargs)
        return dict(tracer.trace.nodes)

    def _scored(self, name: str, node: Any) -> tuple[Tensor, Tensor]:
        """The log density of what is given, and what is predicted in its place."""
        term = torch.as_tensor(scale_and_mask(torch.as_tensor(node["fn"].log_prob(node["value"])), 1.0, node["mask"]))
        if name in self.going:
            one = self.going[name]
            again, before = onward(node["fn"], one.known, one.axis, name, mean=self.mean)
            return term.sum() - before, again
        middle = _mean(node["fn"]) if self.mean else None
        return term, _endless(node["fn"], node["fn"]()) if middle is None else middle

    def _add(self, found: Tree, group: str, name: str, value: Tensor, *, by_row: bool = False) -> None:
        part = self.shown(name, value, by_row)
        if part is not None:
            found[f"{group}/{name}"] = part


def _number(name: str, value: object) -> Tensor:
    """What a quantity is, as a tensor."""
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(
            f"quantity {name!r} is {type(value).__name__}, expected a tensor or a number. "
            "Fix: return one, such as values['theta'] ** 2."
        ) from error


def _endless(fn: dist.TorchDistribution, value: Tensor) -> Tensor:
    """Counts whose law has no finite rate as infinite, which generators draw as the least of all numbers."""
    support: Any = innermost(fn).support
    counts = getattr(support, "is_discrete", False) and getattr(support, "lower_bound", None) == 0
    return torch.where(value < 0, math.inf, value) if counts and value.is_floating_point() else value


def _mean(fn: dist.TorchDistribution) -> Tensor | None:
    """A distribution's mean, where it knows one; the probabilities of values that have no order."""
    inner = innermost(fn)
    if isinstance(inner, torch.distributions.Categorical):
        probabilities: Tensor = inner.probs
        return probabilities.expand(*fn.shape(), probabilities.shape[-1])
    try:
        value: Tensor = fn.mean
    except (NotImplementedError, AttributeError, TypeError):
        return None
    return value if value.shape == fn.shape() else None


def observed_values(
    problem: Problem, args: tuple[object, ...] | None = None, kwargs: Mapping[str, object] | None = None
) -> Tree:
    """The values at observed sites, of the problem's own arguments or of others."""
    whole = Batch.of(problem, None)
    batch = whole if args is None else Batch(args, kwargs or {}, whole.plates)
    with problem.session(seed=0), torch.no_grad():
        nodes = batch.trace(problem).nodes
    return {
        name: node["value"]
        for name, node in nodes.items()
        if is_random(node) and node["is_observed"] and not is_deterministic(node) and isinstance(node["value"], Tensor)
    }


def prior_terms(problem: Problem, draw: Tree, kept: Mapping[str, Kept], batch: Batch | None = None) -> Tree:
    """The log density of each latent of a draw given the others, by the dimensions of its batch; inside a session.

    Latents that do not go on are at the centre of their support.
    """
    batch = batch or Batch.of(problem, None)
    with batch.active(), poutine.trace() as tracer, Start(centre), Given(draw, kept, frozenset()):
        problem.program(*batch.args, **batch.kwargs)
    nodes: dict[str, Any] = dict(tracer.trace.nodes)
    return {
        name: torch.as_tensor(nodes[name]["fn"].log_prob(nodes[name]["value"]))
        for name in kept
        if name in nodes and kept[name].onward is None
    }
