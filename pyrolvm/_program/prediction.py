"""Latent sites that no observation depends on and that cannot be summed out: counts to forecast, for example.

Their posterior is their conditional given everything above them, so that inference does without them and draws them afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.ops.provenance import extract_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._base.passing import passed_over
from pyrolvm._program.program import Program
from pyrolvm._program.sites import Site, is_deterministic, is_random
from pyrolvm._program.starting import Start, centre
from pyrolvm._program.traces import Message

__all__ = ["AtOnce", "Hide", "predicted"]

RUNS = 4
"""Runs with other values of the sites in question, each of which must leave all other densities as they are."""


class Hide(Messenger):
    """Takes sites out of a program's runs: each holds one value, and no handler outside sees it."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.hidden = dict(values)

    def _pyro_sample(self, msg: Message) -> None:
        value = self.hidden.get(msg["name"])
        if value is None or msg["is_observed"]:
            return
        shape = msg["fn"].shape()
        if value.shape != shape:  # other rows, or values that are summed out
            event = shape[len(shape) - msg["fn"].event_dim :]
            value = value.reshape(-1, *event)[0].expand(shape)
        msg["value"], msg["stop"] = value, True


class AtOnce(Messenger):
    """Sums sites that ask to be enumerated one value after the other over all values at once, which gives the same sum."""

    def _pyro_sample(self, msg: Message) -> None:
        if msg["infer"].get("enumerate") == "sequential":
            msg["infer"] = {**msg["infer"], "enumerate": "parallel"}


class _Track(Messenger):
    """Marks each sample with its name, so that what is computed from it can be told."""

    def _pyro_post_sample(self, msg: Message) -> None:
        if isinstance(msg["value"], Tensor) and is_random(msg) and not is_deterministic(msg) and not msg["is_observed"]:
            msg["value"] = track_provenance(extract_provenance(msg["value"])[0], frozenset({msg["name"]}))


def predicted(problem: Program, sites: Mapping[str, Site]) -> dict[str, Tensor]:
    """The sites that can be drawn after inference because no data depend on them, with a value for each.

    They are discrete sites that cannot be summed out, and what depends on those. Empty where a program has no data at all.
    """
    asked = [s.name for s in sites.values() if s.kind == "latent" and s.is_discrete and not s.enumerable]
    if not asked or not any(site.kind in ("observed", "factor") for site in sites.values()):
        return {}
    with problem.session(seed=0), torch.no_grad():
        try:
            children, values = _children(problem)
        except Exception:
            passed_over("whatever marked tensors cannot do: the site then stays what it is")
            return {}
        found: set[str] = set()
        for name in asked:
            below = _below(name, children)
            if all(sites[one].kind == "latent" for one in below if one in sites) and below <= sites.keys():
                found |= below
        if not found or not _stay(problem, found):
            return {}
    return {name: values[name] for name in sites if name in found}


def _children(problem: Program) -> tuple[dict[str, set[str]], dict[str, Tensor]]:
    """The sites whose densities are computed from each site, and values of all latents."""
    with poutine.trace() as tracer, _Track(), Start(centre):
        problem.model(*problem.args, **problem.kwargs)
    tracer.trace.compute_log_prob()
    children: dict[str, set[str]] = {}
    values: dict[str, Tensor] = {}
    nodes: dict[str, Any] = dict(tracer.trace.nodes.items())
    for name, node in nodes.items():
        if not is_random(node) or is_deterministic(node):
            continue
        for parent in get_provenance(node["log_prob"]):
            children.setdefault(parent, set()).add(name)
        values[name] = torch.as_tensor(extract_provenance(node["value"])[0])
    return children, values


def _below(name: str, children: Mapping[str, set[str]]) -> set[str]:
    """A site and all that depends on it."""
    found, left = {name}, [name]
    while left:
        new = children.get(left.pop(), set()) - found
        found |= new
        left += new
    return found


def _stay(problem: Program, names: set[str]) -> bool:
    """Whether all other densities are the same at several values of the sites, also by ways that leave no mark."""

    def run(seed: int) -> dict[str, Tensor]:
        def choose(msg: Mapping[str, Any]) -> Tensor:
            if msg["name"] not in names:
                return centre(msg)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                value: Tensor = msg["fn"].sample()
            return value

        torch.manual_seed(0)
        with poutine.trace() as tracer, Start(choose):
            problem.model(*problem.args, **problem.kwargs)
        tracer.trace.compute_log_prob()
        return {
            name: node["log_prob"]
            for name, node in tracer.trace.nodes.items()
            if is_random(node) and not is_deterministic(node) and name not in names
        }

    try:
        runs = [run(seed) for seed in range(RUNS)]
    except Exception:
        passed_over("a program that cannot run at other values depends on them")
        return False
    return all(run.keys() == runs[0].keys() for run in runs) and _fixed(runs) == runs[0].keys()


def _fixed(runs: list[dict[str, Tensor]]) -> set[str]:
    """Sites with one density in all runs."""
    first, *rest = runs
    return {
        name
        for name, value in first.items()
        if all(name in run and run[name].shape == value.shape and torch.equal(run[name], value) for run in rest)
    }
