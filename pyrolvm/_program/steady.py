"""Whether a program is the same one in every run: its sites, their shapes, the rows of its plates and what it observes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._base import runtime
from pyrolvm._base.errors import GuideError, ProblemError
from pyrolvm._base.passing import passed_over
from pyrolvm._compat.pyro import is_subsample
from pyrolvm._program.batching import Batch
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_deterministic, is_random
from pyrolvm._program.starting import Start, centre
from pyrolvm._program.traces import Message, Trace

__all__ = ["Seen", "Watch", "changes", "check_steady", "check_steady_model", "seen"]

RUNS = 8
"""Runs that are compared with each other."""

FEW, MANY = 2, 500_000
"""So few runs of programs that observe so many numbers, which take long."""

PLACES = 3
"""Values of the latents at which the sites of a model are compared."""

ROUNDING = 1e-4
"""Share of a log density by which runs of one program may differ: sums in another order, no more."""


@dataclass(frozen=True)
class Seen:
    """What a run of a guide or a model shows.

    Attributes:
        sites: in words by name: its kind and shape, or the rows of a plate.
        observed: the values at observed sites.
        log_p: the log density of all sites together; NaN where it was not asked for.
    """

    sites: Mapping[str, str]
    observed: Mapping[str, Tensor] = field(default_factory=dict)
    log_p: float = math.nan


def check_steady(
    problem: Problem,
    guide: Callable[..., object],
    name: str,
    batch: Batch,
    first: tuple[poutine.Trace, poutine.Trace] | None = None,
) -> None:
    """Runs guide and model several times, and refuses those that are not the same in every run; inside a session.

    Args:
        problem: the problem.
        guide: its guide.
        name: the guide's name.
        batch: as in :func:`changes`.
        first: as there.

    Raises:
        GuideError: if a site of the guide comes and goes or changes its shape.
        ProblemError: if a site of the model does, a plate changes its size, or an observation or the density its value, all at the
            same values of the latents.
    """
    found = changes(problem, guide, batch, first)
    if found is None:
        return
    what, text = found
    if what == "guide":
        raise GuideError(
            f"guide {name!r} is not the same in every run: {text} Fix: sample every latent site in every run; choose between "
            "distributions for it, not between having and not having it."
        )
    raise ProblemError(_refusal(problem, text))


def check_steady_model(problem: Problem) -> None:
    """The same of the model alone, at one value of the latents, for methods without a guide.

    Raises:
        ProblemError: as :func:`check_steady`.
    """
    with problem.session(seed=0), torch.no_grad(), problem.whole.active():
        start = poutine.trace(Start(centre)(problem.model)).get_trace(*problem.args, **problem.kwargs)
        latent = {site.name for site in problem.latents}
        for name in [name for name in start.nodes if name not in latent]:
            start.remove_node(name)  # rows of plates and observations are what may change
        text = _model_changes(problem, problem.whole, start)
    if text is not None:
        raise ProblemError(_refusal(problem, text))


def _refusal(problem: Problem, text: str) -> str:
    return (
        f"model {problem.name!r} is not the same in every run: {text} So it has no density to fit. Fix: make it a function of its "
        "arguments: the same sites, sizes and observations in every call, random numbers by pyro.sample alone."
    )


def changes(
    problem: Problem,
    guide: Callable[..., object],
    batch: Batch,
    first: tuple[poutine.Trace, poutine.Trace] | None = None,
) -> tuple[str, str] | None:
    """What changes from run to run, of the ``"guide"`` or of the ``"model"``, and how, in a sentence; inside a session.

    Args:
        problem: the problem.
        guide: its guide.
        batch: the rows that they run on: what comes and goes does so on a part of the rows, too, and a run on all of many takes long.
        first: traces of a run of the guide, and of the model at its draw, on these rows, which need not be made again.
    """
    modules = [
        *problem.modules.values(),
        *(part for part in (guide, getattr(guide, "guide", None)) if isinstance(part, torch.nn.Module)),
    ]
    # In evaluation mode: running averages are those of the steps, and dropout is no change of the program.
    with torch.no_grad(), batch.active(), runtime.validation(False), runtime.evaluating(modules):
        traces = [poutine.trace(guide).get_trace(*batch.args, **batch.kwargs) for _ in range(_runs(problem, batch))]
        text = _difference([Seen(_described(trace)) for trace in traces])
        if text is not None:
            return "guide", text
        ran: Iterator[tuple[object, Seen | None]] = ((trace, _run_at(problem, batch, trace)) for trace in traces)
        if (
            first is not None and not problem.modules and not problem.discrete
        ):  # in which runs differ by what is drawn anew
            ran = chain([(first[0], seen(problem, first[1]))], ran)
        usable = list(islice(((trace, run) for trace, run in ran if run is not None), PLACES))
        if not usable:
            return None
        text = _model_changes(problem, batch, *usable[0])
        if text is not None:
            return "model", text
        text = _difference([Seen(run.sites) for _, run in usable])
        return None if text is None else ("model", f"with other values of its latents, {text}")


def _run_at(problem: Problem, batch: Batch, values: object) -> Seen | None:
    """A run of the model at these values of its latents; ``None`` where it has no density, as of a matrix without a factor."""
    try:
        return _model_run(problem, batch, values)
    except Exception:
        passed_over("whether it runs at all is checked elsewhere, and explained there")
        return None


def _model_changes(problem: Problem, batch: Batch, values: object, first: Seen | None = None) -> str | None:
    """What is not the same in several runs at one place, of which one may have been made."""
    with torch.no_grad(), runtime.evaluating(problem.modules.values()), runtime.validation(False):
        runs = [] if first is None else [first]
        more = _runs(problem, batch) - len(runs)
        return _difference(runs + [_model_run(problem, batch, values) for _ in range(more)])


def _runs(problem: Problem, batch: Batch) -> int:
    many = batch is problem.whole and sum(site.numel for site in problem.observed) > MANY
    return FEW if many else RUNS


def _model_run(problem: Problem, batch: Batch, values: Any) -> Seen:
    model = poutine.replay(problem.model, trace=values)
    return seen(problem, poutine.trace(model).get_trace(*batch.args, **batch.kwargs))


def seen(problem: Problem, trace: Trace) -> Seen:
    """What a run of the model shows."""
    enumerated = bool(problem.discrete)  # drawn anew in each run, so that densities and what follows may differ
    observed = {
        name: node["value"].detach().clone()
        for name, node in trace.nodes.items()
        if is_random(node) and node["is_observed"] and not is_deterministic(node) and isinstance(node["value"], Tensor)
    }
    log_p = math.nan if enumerated else float(trace.log_prob_sum())
    return Seen(_described(trace), {} if enumerated else observed, log_p)


def _described(trace: Trace) -> dict[str, str]:
    found = {}
    for name, node in trace.nodes.items():
        if is_subsample(node.get("fn")):
            found[f"plate {name!r}"] = f"of {node['fn'].size} rows"
        elif is_random(node) and not is_deterministic(node):
            kind = "observed" if node["is_observed"] else "drawn"
            shape = tuple(node["value"].shape) if isinstance(node["value"], Tensor) else ()
            found[f"site {name!r}"] = f"{kind}, of shape {shape}"
    return found


def _difference(runs: list[Seen]) -> str | None:
    return next(_differences(runs), None)


def _differences(runs: list[Seen]) -> Iterator[str]:
    """What is not the same in all runs, the coarsest first."""
    count = len(runs)
    for what in {what: None for run in runs for what in run.sites}:
        there = [run.sites[what] for run in runs if what in run.sites]
        if len(there) < count:
            yield f"{what} is there in {len(there)} of {count} runs."
        elif len(set(there)) > 1:
            yield f"{what} is {there[0]} in one and {next(one for one in there if one != there[0])} in another."
    first = runs[0]
    for name, value in first.observed.items():
        for run in runs[1:]:
            other = run.observed.get(name)
            if other is not None and (other.shape != value.shape or not torch.equal(other, value)):
                yield f"site {name!r} observes other values in one than in another."
                break
    for run in runs[1:]:
        if math.isfinite(first.log_p) and math.isfinite(run.log_p):
            gap = abs(first.log_p - run.log_p)
            if gap > ROUNDING * (1 + abs(first.log_p)):
                yield f"at the same values its log density is {first.log_p:.6g} in one and {run.log_p:.6g} in another."
                return


class Watch(Messenger):
    """Counts the sites of every step, and says in how many steps they were others than in the first.

    To be entered around each step's run of guide and model, whatever objective runs them.

    Attributes:
        steps: how many steps were watched.
    """

    def __init__(self, *, values: bool) -> None:
        super().__init__()
        self.steps = 0
        self._values = values
        self._first: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self._others: dict[str, int] = {}
        self._observed: dict[str, Tensor] = {}
        self._moving: dict[str, int] = {}

    def __enter__(self) -> Any:
        """Begins a step."""
        self._now = {}
        return super().__enter__()

    def __exit__(self, *exc: Any) -> None:
        """Ends a step, and compares it with the first."""
        super().__exit__(*exc)
        if exc and exc[0] is not None:
            return
        self.steps += 1
        if self.steps == 1:
            self._first = self._now
        for name in self._first.keys() | self._now.keys():
            if self._first.get(name) != self._now.get(name):
                self._others[name] = self._others.get(name, 0) + 1

    def _pyro_post_sample(self, msg: Message) -> None:
        if not is_random(msg) or is_deterministic(msg):
            return
        name = str(msg["name"])
        self._now[name] = self._now.get(name, 0) + 1
        if self._values and msg["is_observed"] and isinstance(msg["value"], Tensor):
            self._look(name, msg["value"])

    def _look(self, name: str, value: Tensor) -> None:
        """Compares an observation with that of the first step."""
        first = self._observed.setdefault(name, value.detach())
        if first is value or value.requires_grad:
            return
        try:
            same = first.shape == value.shape and torch.equal(first, value)
        except RuntimeError:  # a lane of vmap, which cannot be asked
            return
        if not same:
            self._moving[name] = self._moving.get(name, 0) + 1

    @property
    def changes(self) -> str:
        """What changed, in a sentence; empty where nothing did. An observation that changes in most steps follows the latents."""
        told = [f"site `{name}` in {count:,} of {self.steps:,} steps" for name, count in sorted(self._others.items())]
        text = f"It came or went from step to step: {', '.join(told)}." if told else ""
        moved = [
            f"`{name}` in {count:,} of {self.steps:,} steps"
            for name, count in sorted(self._moving.items())
            if count <= self.steps // 2
        ]
        return f"{text} It observed other values: {', '.join(moved)}.".strip() if moved else text
