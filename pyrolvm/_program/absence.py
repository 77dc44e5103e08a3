"""Finds out what a program's missing observations are: which sites observe them, and whether anything else depends on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from pyrolvm._base.errors import DataError
from pyrolvm._base.explain import explained
from pyrolvm._program.binding import written
from pyrolvm._program.data import mapped, named_leaves
from pyrolvm._program.imputing import Absent, Impute, elementwise, partly
from pyrolvm._program.missing import covariate_error
from pyrolvm._program.program import Program
from pyrolvm._program.sites import is_deterministic, is_observation, is_random
from pyrolvm._program.starting import Start, around
from pyrolvm._program.traces import Message

__all__ = ["imputed"]

POINTS = 3
"""Points at which nothing may depend on missing values that are left out."""

Values = Mapping[str, Tensor]
Nodes = Mapping[str, Any]


class _Fill(Messenger):
    """Puts a value that the site has seen in the place of each NaN that it observes, and notes where they were."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.absent: dict[str, Tensor] = {}
        self.placeholders: dict[str, float] = {}

    def _pyro_sample(self, msg: Message) -> None:
        value = msg["value"]
        if not is_observation(msg) or not isinstance(value, Tensor) or not value.is_floating_point():
            return
        missing = torch.isnan(value)
        if not bool(missing.any()):
            return
        seen = value[~missing].unique()
        if not len(seen):
            raise DataError(
                f"observed site {msg['name']!r} has no value that is not missing. Fix: leave it out of the model."
            )
        self.absent[msg["name"]] = missing
        self.placeholders[msg["name"]] = float(seen[self.rank % len(seen)])
        msg["value"] = torch.where(missing, torch.full_like(value, self.placeholders[msg["name"]]), value)


def imputed(problem: Program) -> Impute | None:
    """The program with its missing observations as sites; ``None`` where it has none, or takes care of them itself.

    Raises:
        DataError: if values are missing that no site observes, or that cannot be summed out.
    """
    gaps = {
        label: torch.isnan(leaf)
        for label, leaf in named_leaves(problem.arguments)
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and bool(torch.isnan(leaf).any())
    }
    if not gaps:
        return None
    with problem.session(seed=0), torch.no_grad():
        found = _found(problem, gaps)
    return Impute(written(problem.program), found, tuple(problem.arguments)) if found else None


def _found(problem: Program, gaps: Values) -> dict[str, Absent]:
    first, nodes = _run(problem, {}, 0, 0)
    if not first.absent and all(bool(torch.isfinite(term).all()) for term in _terms(nodes, {}).values()):
        return {}  # a model that masks NaN by itself
    clean = all(_apart(problem, point) for point in range(POINTS))
    partial = [name for name, absent in first.absent.items() if _partial(nodes[name]["fn"], absent)]
    names = {name: _free(f"{name}_missing", nodes) for name in first.absent}
    made = {
        names[name]: Absent(
            name, names[name], tuple(absent.shape), absent.reshape(-1).nonzero()[:, 0], first.placeholders[name]
        )
        for name, absent in first.absent.items()
    }
    if clean and not partial:
        return made
    return _latents(problem, gaps, made, nodes, partial)


def _apart(problem: Program, point: int) -> bool:
    """Whether all other densities are numbers, and the same ones whatever stands for the missing values."""
    one, other = (_terms(nodes, fill.absent) for fill, nodes in (_run(problem, {}, rank, point) for rank in (0, 1)))
    return all(bool(torch.isfinite(term).all()) and _same(term, other[name]) for name, term in one.items())


def _partial(fn: dist.TorchDistribution, absent: Tensor) -> bool:
    return bool(fn.event_dim) and elementwise(fn) is None and partly(absent, fn.event_dim)


def _free(name: str, nodes: Nodes) -> str:
    return name if name not in nodes else _free(f"{name}_", nodes)


def _run(problem: Program, values: Values, rank: int, point: int) -> tuple[_Fill, Nodes]:
    """A run with arguments filled by ``values`` where given, and what is missing at sites by a value that these have seen.

    Args:
        problem: the problem.
        values: numbers for the missing values of arguments, by place.
        rank: which of the values that a site has seen.
        point: at which values of the latents.
    """

    def put(label: str, leaf: Any) -> object:
        if label not in values:
            return leaf
        return leaf.masked_scatter(torch.isnan(leaf), values[label].to(leaf.dtype))

    named = {name: mapped(value, name, put) for name, value in problem.arguments.items()}
    count, fill = len(problem.args), _Fill(rank)
    args, kwargs = list(named.values())[:count], dict(list(named.items())[count:])
    torch.manual_seed(point)
    with (
        explained(f"model {problem.name!r} with values that are missing"),
        poutine.trace() as tracer,
        fill,
        Start(around),
    ):
        written(problem.program)(*args, **kwargs)
    return fill, dict(tracer.trace.nodes)


def _terms(nodes: Nodes, absent: Values) -> dict[str, Tensor]:
    """Log densities by site, zero where what is observed is missing."""
    found = {}
    for name, node in nodes.items():
        if not is_random(node) or is_deterministic(node):
            continue
        term = torch.as_tensor(node["fn"].log_prob(node["value"]))
        missing = absent.get(name)
        if missing is not None:
            rows = missing.reshape(*missing.shape[: missing.dim() - node["fn"].event_dim], -1).any(-1)
            term = torch.where(rows, torch.zeros((), dtype=term.dtype), term)
        mask = node["mask"]
        found[name] = (
            term if mask is None else torch.where(torch.as_tensor(mask), term, torch.zeros((), dtype=term.dtype))
        )
    return found


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


# --- where something depends on them ----------------------------------------------------------------------------------


def _latents(
    problem: Program, gaps: Values, made: Mapping[str, Absent], nodes: Nodes, partial: list[str]
) -> dict[str, Absent]:
    """Missing values as latents, each tied to the place in the arguments that it is the value of."""
    generator = torch.Generator().manual_seed(0)
    values = {
        label: _between(leaf, gaps[label], generator)
        for label, leaf in named_leaves(problem.arguments)
        if label in gaps
    }
    _, run = _run(problem, values, 0, 0)
    tied: dict[str, dict[str, list[tuple[int, int]]]] = {name: {} for name in made}
    for label, filled in values.items():
        places = gaps[label].reshape(-1).nonzero()[:, 0]
        for number, at in zip(filled.tolist(), places.tolist(), strict=True):
            homes = [
                (name, int(i))
                for name, one in made.items()
                for i in (run[one.site]["value"].reshape(-1)[one.index].double() == number).nonzero()[:, 0]
            ]
            if len(homes) != 1:
                raise covariate_error(problem.name, label, len(places), observed=bool(homes))
            tied[homes[0][0]].setdefault(label, []).append((at, homes[0][1]))
    for term in _terms(run, {}).items():
        if not bool(torch.isfinite(term[1]).all()):
            raise covariate_error(problem.name, next(iter(gaps)), int(next(iter(gaps.values())).sum()), observed=False)
    return {name: _tied(problem, one, tied[name], nodes[one.site]) for name, one in made.items()}


def _between(leaf: Tensor, gaps: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers within the values that are there, each once."""
    seen = leaf[~gaps]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
    share = torch.rand(int(gaps.sum()), generator=generator, dtype=torch.float64)
    return (low + (high - low) * (0.1 + 0.8 * share)).to(leaf.dtype).double()


def _tied(problem: Program, one: Absent, tied: Mapping[str, list[tuple[int, int]]], node: Mapping[str, Any]) -> Absent:
    fn = node["fn"]
    base = elementwise(fn)
    support = fn.support if base is None else base.support
    if support.is_discrete:
        raise DataError(
            f"observed site {one.site!r} has {len(one.index)} missing values, on which other sites of {problem.name} depend, and "
            f"they are discrete: they cannot be latents. "
            "Fix: write them as a latent site of their own, which is summed out, or drop the rows."
        )
    inner = getattr(support, "base_constraint", support)
    if base is None and inner is not constraints.real:
        raise DataError(
            f"observed site {one.site!r} ({type(fn).__name__}) has rows of which a part is missing, and no rule for them. "
            "Fix: drop these rows, or make all of each missing."
        )
    device, leaves = one.index.device, dict(named_leaves(problem.arguments))
    sources = tuple(
        (
            label,
            torch.tensor([a for a, _ in pairs], device=device),
            torch.tensor([b for _, b in pairs], device=device),
            leaves[label].numel(),
        )
        for label, pairs in tied.items()
    )
    return replace(one, sources=sources, constraint=inner)
