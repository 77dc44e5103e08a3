"""Runs of a model at draws of a posterior, on new arguments: what is predicted, its mean, and the density of what is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._check.predict.members import Kept
from pyrolvm._program.batching import Batch
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_deterministic, is_observation, is_random
from pyrolvm._program.traces import Message

__all__ = ["Predicting", "observed_values", "prior_terms"]

Tree = dict[str, Tensor]


class _Given(Messenger):
    """Gives latents the values of a draw where members are known; others come from their distribution given those."""

    def __init__(self, draw: Mapping[str, Tensor], kept: Mapping[str, Kept], predicted: frozenset[str]) -> None:
        super().__init__()
        self.draw, self.kept, self.predicted = draw, kept, predicted

    def _pyro_sample(self, msg: Message) -> None:
        name = msg["name"]
        if name in self.predicted and is_observation(msg):
            msg["is_observed"], msg["value"] = False, None
        elif not msg["is_observed"] and name in self.kept and name in self.draw:
            kept = self.kept[name]
            value = kept.known(self.draw[name])
            if not kept.whole:
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
    """

    def __init__(self, problem: Problem, kept: Mapping[str, Kept], predicted: frozenset[str], *, mean: bool) -> None:
        self.problem, self.kept, self.predicted, self.mean = problem, kept, predicted, mean
        self._batch = Batch.of(problem, None)

    def __call__(self, draw: Tree) -> Tree:
        """Values under ``predictions/site``; of what is given, which is predicted too, log densities under ``log_score/site``."""
        with self._batch.active(), _Given(draw, self.kept, self.predicted), poutine.trace() as tracer:
            self.problem.program(*self._batch.args, **self._batch.kwargs)
        found: Tree = {}
        nodes: dict[str, Any] = dict(tracer.trace.nodes)
        for name, node in nodes.items():
            if not is_random(node) or isinstance(node["fn"], dist.Unit):
                continue
            if is_deterministic(node) or (name not in self.kept and not node["is_observed"]):
                middle = _mean(node["fn"]) if self.mean and name in self.predicted else None
                found[f"predictions/{name}"] = node["value"] if middle is None else middle
            elif node["is_observed"]:
                term = torch.as_tensor(node["fn"].log_prob(node["value"]))
                found[f"log_score/{name}"] = torch.as_tensor(scale_and_mask(term, 1.0, node["mask"]))
                middle = _mean(node["fn"]) if self.mean else None
                found[f"predictions/{name}"] = node["fn"]() if middle is None else middle
            elif not self.kept[name].whole:
                found[f"predictions/{name}"] = node["value"]
        return found


def _mean(fn: dist.TorchDistribution) -> Tensor | None:
    """A distribution's mean, where it knows one."""
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
    """The log density of each latent of a draw given the others, by the dimensions of its batch; inside a session."""
    batch = batch or Batch.of(problem, None)
    with batch.active(), _Given(draw, kept, frozenset()), poutine.trace() as tracer:
        problem.program(*batch.args, **batch.kwargs)
    nodes: dict[str, Any] = dict(tracer.trace.nodes)
    return {name: torch.as_tensor(nodes[name]["fn"].log_prob(nodes[name]["value"])) for name in kept if name in nodes}
