"""What is ranked: scalar quantities of the true latents among those of posterior draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, CaptureError, FitError, unknown_name
from pyrolvm._base.numerics import Array
from pyrolvm._capture import Captured, capture
from pyrolvm._capture.vmap import vmapped
from pyrolvm._program.density import Joint, map_draws
from pyrolvm._program.names import Dimensions
from pyrolvm._program.problem import Problem
from pyrolvm._program.program import Quantity
from pyrolvm._program.simulate import Observe
from pyrolvm._program.sites import name_dims

__all__ = ["LIKELIHOOD", "PRIOR", "Ranked", "Ranking"]

Draw = dict[str, Tensor]

LIKELIHOOD, PRIOR = "log_likelihood", "log_prior"


@dataclass(frozen=True)
class Ranked:
    """One simulation's ranks.

    Attributes:
        ranks: by quantity, how many draws lie below the truth, in its own shape; -1 where either is not a number.
        truth: by quantity, the true value.
        mean: by quantity, the mean of the draws.
        sd: by quantity, their standard deviation.
    """

    ranks: Mapping[str, NDArray[np.int64]]
    truth: Mapping[str, NDArray[np.float64]]
    mean: Mapping[str, NDArray[np.float64]]
    sd: Mapping[str, NDArray[np.float64]]


@dataclass
class Ranking:
    """Evaluates quantities at the truth and at draws, and ranks the one among the others.

    Attributes:
        problem: the problem.
        sites: the sites that are ranked.
        functions: the functions of a draw that are ranked.
        shapes: the shape of each quantity, in the order in which they are shown.
        left_out: what is not ranked, and why.
    """

    problem: Problem
    sites: tuple[str, ...]
    functions: Mapping[str, Quantity]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    _graphs: dict[tuple[int, ...], Captured | None] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem, quantities: object, truth: Draw, observed: Draw) -> Ranking:
        """What to rank, tried on one simulated data set.

        Args:
            problem: the problem.
            quantities: names of sites and quantities, or functions of a draw by name. By default the problem's identified
                quantities, and all its latent sites where it names none.
            truth: latents and deterministic values.
            observed: observations.

        Raises:
            ArgumentError: if there is nothing to rank, or a function cannot be evaluated.
            UnknownNameError: if there is no such site or quantity.
        """
        sites, functions = _chosen(problem, quantities)
        masked = _masked(problem, truth, observed) | problem.unused.keys()
        left_out = tuple(f"site {name!r}, part of which is masked out" for name in sites if name in masked)
        made = cls(problem, tuple(name for name in sites if name not in masked), functions, {}, left_out)
        latents = {site.name: truth[site.name] for site in problem.latents}
        with problem.session(seed=0), torch.no_grad(), Observe(observed):
            values = made._evaluate(Joint(problem), latents)
        made.shapes = {name: tuple(value.shape) for name, value in values.items()}
        return made

    def dims(self) -> dict[str, list[str]]:
        """The names of the dimensions of each quantity; one called like a variable is renamed, as in posteriors."""
        problem, found, shown = self.problem, {}, Dimensions(self.problem)
        for name, shape in self.shapes.items():
            given = problem.info.dims.get(name)
            named = problem.dims[name] if name in self.sites else name_dims(name, shape, len(shape), [], given)
            found[name] = [shown(dim) for dim in named]
        return found

    def rank(self, truth: Draw, observed: Draw, draws: Mapping[str, Tensor], seed: int) -> Ranked:
        """Ranks the truth among draws; a quantity that equals some of them takes a place among these at random.

        Args:
            truth: latents by site.
            observed: the observations that followed from them.
            draws: the same latents, each of shape ``(draws, ...)``; discrete ones may be left out.
            seed: for ties, and for discrete latents.

        Raises:
            FitError: if a latent is missing or has another shape, or draws are not finite.
        """
        problem = self.problem
        with problem.session(seed=seed), torch.no_grad(), Observe(observed):
            stacked = self._stacked(Joint(problem), truth, draws)
            values = self._values(stacked, observed)
        random = np.random.default_rng(seed)
        found: dict[str, tuple[Any, ...]] = {}
        for name, value in values.items():
            whole = value.detach().cpu().double().numpy()
            found[name] = (_rank(whole[0], whole[1:], random), whole[0], *_moments(whole[1:]))
        return Ranked(*({name: parts[i] for name, parts in found.items()} for i in range(4)))

    # --- values -------------------------------------------------------------------------------------------------------

    def _stacked(self, joint: Joint, truth: Draw, draws: Mapping[str, Tensor]) -> Draw:
        """The truth, then the draws, by site."""
        stacked = {}
        for site in self.problem.continuous:
            stacked[site.name] = _joined(site.name, truth, draws)
            if not bool(torch.isfinite(stacked[site.name][1:]).all()):
                raise FitError(f"posterior draws of {site.name!r} are not finite. Fix: look at the fit's verdict.")
        given = [site.name for site in self.problem.discrete if site.name in draws]
        if len(given) < len(self.problem.discrete):
            drawn = map_draws(joint.discrete, {name: value[1:] for name, value in stacked.items()})
            draws = {**draws, **drawn}
        for site in self.problem.discrete:
            stacked[site.name] = _joined(site.name, truth, draws)
        return stacked

    def _values(self, stacked: Draw, observed: Draw) -> Draw:
        """All quantities of all draws: by a graph that is recorded once, where that can be done."""
        names, rows = list(stacked), len(next(iter(stacked.values())))
        inputs = [*stacked.values(), *(observed[name] for name in observed)]
        key = (rows, *(n for value in inputs for n in value.shape))
        if key not in self._graphs:
            self._graphs[key] = self._captured(names, list(observed), inputs)
        graph = self._graphs[key]
        if graph is None:
            return map_draws(lambda draw: self._evaluate(Joint(self.problem), draw), stacked)
        result: Draw = graph(*inputs)
        return result

    def _captured(self, names: list[str], sites: list[str], inputs: Sequence[Tensor]) -> Captured | None:
        def values(*given: Tensor) -> Draw:
            observed = dict(zip(sites, given[len(names) :], strict=True))
            joint = Joint(self.problem)
            with Observe(observed):
                every = vmapped(lambda draw: self._evaluate(joint, draw))
                result: Draw = every(dict(zip(names, given[: len(names)], strict=True)))
            return result

        try:
            found = capture(values, *inputs, what=f"the quantities of {self.problem.name}")
            if found.random:
                return None
            graph, plain = (
                found(*inputs),
                map_draws(lambda draw: self._evaluate(Joint(self.problem), draw), self._few(names, inputs)),
            )
        except (CaptureError, RuntimeError):
            return None
        same = all(torch.allclose(graph[n][:2], plain[n], rtol=1e-4, atol=1e-6, equal_nan=True) for n in plain)
        return found if same else None

    @staticmethod
    def _few(names: list[str], inputs: Sequence[Tensor]) -> Draw:
        return {name: value[:2] for name, value in zip(names, inputs, strict=False)}

    def _evaluate(self, joint: Joint, draw: Mapping[str, Tensor]) -> Draw:
        """All quantities of one draw of all latents."""
        terms = joint.terms(draw)
        made = {name.partition("/")[2]: value for name, value in terms.items() if name.startswith("deterministic/")}
        known = {**draw, **{name: value for name, value in made.items() if name in self.problem.sites}}
        found = {name: torch.as_tensor(known[name]) for name in self.sites}
        found |= {name: torch.as_tensor(function(known)) for name, function in self.functions.items()}
        for group, label in ((LIKELIHOOD, self._free(LIKELIHOOD)), (PRIOR, self._free(PRIOR))):
            parts = [value.sum() for name, value in terms.items() if name.startswith(f"{group}/")]
            found[label] = torch.stack(parts).sum()
        return found

    def _free(self, name: str) -> str:
        while name in self.sites or name in self.functions:
            name += "_"
        return name


def _chosen(problem: Problem, quantities: Any) -> tuple[list[str], dict[str, Quantity]]:
    if quantities is None:
        if problem.quantities:
            return [], dict(problem.quantities)
        return [site.name for site in problem.latents], {}
    if isinstance(quantities, Mapping):
        for name, function in quantities.items():
            if not callable(function):
                raise ArgumentError(
                    f"quantities[{name!r}] is a {type(function).__name__}, expected a function of a draw. "
                    f"Fix: pass for example {{{name!r}: lambda draw: draw['mu'] ** 2}}."
                )
        return [], dict(quantities)
    names = [quantities] if isinstance(quantities, str) else list(quantities)
    free = [site.name for site in problem.sites.values() if site.kind in ("latent", "deterministic")]
    for name in names:
        if name not in free and name not in problem.quantities:
            raise unknown_name("latent site, deterministic site or quantity", str(name), [*free, *problem.quantities])
    functions = {name: problem.quantities[name] for name in names if name in problem.quantities}
    return [name for name in names if name not in functions], functions


def _masked(problem: Problem, truth: Draw, observed: Draw) -> set[str]:
    """Latent sites of which a mask takes some elements out of the density: nothing says what their posterior is."""
    latents = {site.name: truth[site.name] for site in problem.latents}
    with problem.session(seed=0), torch.no_grad(), Observe(observed):
        trace = problem.whole.trace(problem, latents)
    masks = {name: trace.nodes[name]["mask"] for name in latents}
    return {
        name for name, mask in masks.items() if mask is False or (isinstance(mask, Tensor) and not bool(mask.all()))
    }


def _joined(name: str, truth: Draw, draws: Mapping[str, Tensor]) -> Tensor:
    if name not in draws:
        raise FitError(
            f"the posterior has no draws of latent site {name!r} (it has: {', '.join(draws)}). Fix: return all latents."
        )
    drawn, true = draws[name], truth[name]
    if drawn.shape[1:] != true.shape:
        raise FitError(
            f"posterior draws of {name!r} have shape {tuple(drawn.shape)}, expected (draws, *{tuple(true.shape)}). "
            "Fix: return draws in the shape of the site."
        )
    return torch.cat([true[None], drawn.to(true)])


def _rank(truth: Array, draws: Array, random: np.random.Generator) -> NDArray[np.int64]:
    below, equal = (draws < truth).sum(axis=0), (draws == truth).sum(axis=0)
    rank = below + random.integers(0, equal, endpoint=True)
    return np.where(np.isnan(truth) | np.isnan(draws).any(axis=0), -1, rank)


def _moments(draws: Array) -> tuple[Array, Array]:
    with np.errstate(invalid="ignore", over="ignore"):
        return draws.mean(axis=0), draws.std(axis=0, ddof=1)
