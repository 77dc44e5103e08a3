"""``lvm.estimators``: bias, variance and cost of the gradient estimators that a problem and its guide allow."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine

from pyrolvm._base.errors import ArgumentError, GuideError, positive_int
from pyrolvm._methods.fit.objectives.annealed import Beta_ELBO
from pyrolvm._methods.fit.objectives.base import PureELBO
from pyrolvm._methods.fit.objectives.particles import ParticleELBO
from pyrolvm._methods.fit.objectives.relaxed import relax
from pyrolvm._methods.fit.objectives.sampling import Gradients, sample_gradients
from pyrolvm._methods.fit.objectives.structure import sites
from pyrolvm._methods.fit.objectives.weighted import ImportanceWeighted_ELBO
from pyrolvm._program.agreement import check_guide
from pyrolvm._program.peeling import untransformed
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm._results.draws import registered
from pyrolvm._results.fit import Fit
from pyrolvm.family.choice import resolve

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Estimators", "estimators"]

IMPLICIT = ("Gamma", "Beta", "Dirichlet", "StudentT", "InverseGamma", "Chi2", "VonMises")
"""Distributions whose draws torch differentiates implicitly."""


@dataclass(frozen=True)
class Estimators:
    """What each estimator's gradient is worth at one point.

    Attributes:
        table: a row for each: the ``bound`` it climbs, the ``estimator``, ``K`` draws, the ``value`` of the bound; ``bias``, the
            distance of the mean gradient from the reference as a share of its length, with ``bias_noise``, what that distance would
            be without bias; ``z``, the bias in its own standard errors, root mean square over the numbers (about 1 without bias);
            ``variance``, the sum over the numbers of the gradient; ``snr_guide`` and ``snr_model``, the mean over the parameters of
            guide and model of the mean's size / standard deviation; and ``seconds`` of one estimate, its operations run one by one.
        gradients: the draws, by the table's index.
    """

    table: pd.DataFrame
    gradients: Mapping[str, Gradients]

    def __repr__(self) -> str:
        return self.table.to_string(float_format=lambda x: f"{x:.3g}")

    def plot(self) -> Figure:
        """Signal-to-noise of the guide's gradient, bias and variance of each estimator; a matplotlib figure."""
        import matplotlib.pyplot as plt

        table = self.table
        figure, axes = plt.subplots(1, 3, figsize=(13, 0.4 * len(table) + 1.5), sharey=True, layout="constrained")
        place = np.arange(len(table))[::-1]
        for axis, column, title in zip(
            axes, ("snr_guide", "bias", "variance"),
            ("signal-to-noise, guide (more is better)", "bias, share of the gradient", "variance"), strict=True,
        ):  # fmt: skip
            axis.barh(place, table[column].to_numpy(), color="#4878a8")
            axis.set_xscale("log")
            axis.set_title(title, fontsize=10)
        noise = table["bias_noise"].to_numpy()
        axes[1].scatter(noise, place, marker="|", s=120, color="black", label="what noise alone gives")
        axes[1].legend(fontsize=8)
        axes[0].set_yticks(place, list(table.index))
        return figure


@dataclass(frozen=True)
class _Candidate:
    name: str
    bound: str
    objective: PureELBO
    model: Callable[..., Any]
    guide: Callable[..., Any]
    unbiased: bool


def estimators(
    problem: Problem | Fit,
    guide: object = "auto",
    *,
    particles: Sequence[int] = (1, 8),
    draws: int = 4_000,
    temperature: float = 0.5,
    seed: int = 0,
) -> Estimators:
    """Compares the gradient estimators that a problem and its guide allow, at one point.

        >>> lvm.estimators(problem, "mean_field", draws=400).table

    Bias is measured against an independent run of an estimator without bias for the same bound, with four times the draws: the one
    of least variance. Estimators of different bounds have different gradients: compare signal-to-noise across bounds, bias within one.

    Args:
        problem: a problem, at whose guide's first parameters gradients are taken; or a fit, at whose parameters they are.
        guide: as for ``lvm.fit``; not with a fit.
        particles: numbers of draws K.
        draws: gradients of each estimator.
        temperature: of relaxed discrete sites.
        seed: makes the report repeatable.

    Raises:
        ArgumentError: if a number is out of range.
        GuideError: if guide and model do not fit.

    References:
        Mohamed et al., Monte Carlo Gradient Estimation in Machine Learning, https://arxiv.org/abs/1906.10652
        Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, https://arxiv.org/abs/1802.04537
    """
    import pandas as pd

    positive_int("draws", draws, minimum=2)
    counts = [positive_int("particles", k) for k in particles]
    if not counts:
        raise ArgumentError("particles is empty. Fix: pass numbers of draws, for example particles=(1, 8).")
    fit = problem if isinstance(problem, Fit) else None
    target = check_problem(fit.attached if fit is not None else problem)
    recipe = fit.guide if fit is not None else resolve(guide, target)
    if recipe is None:
        raise GuideError("this fit has no guide to build again. Fix: pass the problem and the guide.")
    gradients: dict[str, Gradients] = {}
    rows: list[dict[str, object]] = []
    with target.session(seed=seed, params=None if fit is None else fit.params):
        program = registered(recipe.build(target), recipe.name)
        prepare = getattr(program, "prepare", None)
        if prepare is not None and fit is None:
            prepare(target, seed=seed)
        check_guide(target, program, recipe.name, target.whole)
        own = _names(target.model, program, target)
        for k in counts:
            found = [c for c in _candidates(target, program, k, temperature)]
            measured = [(c, sample_gradients(c.objective, c.model, c.guide, target.whole, draws)) for c in found]
            references = _references(measured, target, draws)
            for candidate, result in measured:
                label = f"{candidate.name}, K={k}"
                gradients[label] = result
                rows.append({"label": label, **_row(candidate, k, result, references[candidate.bound], own)})
    return Estimators(pd.DataFrame(rows).set_index("label"), gradients)


def _names(model: Callable[..., object], guide: Callable[..., object], problem: Problem) -> set[str]:
    """The parameters of the guide."""
    trace = poutine.trace(guide).get_trace(*problem.whole.args, **problem.whole.kwargs)
    return {name for name, node in trace.nodes.items() if node["type"] == "param"}


def _candidates(problem: Problem, guide: Callable[..., object], k: int, temperature: float) -> list[_Candidate]:
    trace = poutine.trace(guide).get_trace(*problem.whole.args, **problem.whole.kwargs)
    nodes = dict(sites(trace))
    scored = [name for name, node in nodes.items() if not node["fn"].has_rsample]
    implicit = any(_kind(node["fn"]) in IMPLICIT for node in nodes.values())
    path = "implicitly reparameterised" if implicit else "reparameterised"
    found: list[_Candidate] = []

    def add(name: str, bound: str, objective: PureELBO, *, unbiased: bool = True, programs: Any = None) -> None:
        model, other = programs or (problem.model, guide)
        found.append(_Candidate(name, bound, objective, model, other, unbiased))

    if scored:
        add("ELBO, score function", "ELBO", ParticleELBO(num_particles=k))
    else:
        add(f"ELBO, {path}", "ELBO", ParticleELBO(num_particles=k))
        add("ELBO, analytic divergence", "ELBO", Beta_ELBO(k))
        add("ELBO, sticking the landing", "ELBO", ParticleELBO("StickingTheLanding_ELBO", num_particles=k))
    weighted = f"{k} draws"
    if scored:
        add("weighted, score function", weighted, ImportanceWeighted_ELBO(k, gradient="plain", baseline="none"))
        if k > 1:
            add("weighted, leave-one-out", weighted, ImportanceWeighted_ELBO(k, gradient="plain"))
    else:
        add(f"weighted, {path}", weighted, ImportanceWeighted_ELBO(k, gradient="plain"))
        add("weighted, score function", weighted, ImportanceWeighted_ELBO(k, gradient="score", baseline="none"))
        add("weighted, leave-one-out", weighted, ImportanceWeighted_ELBO(k, gradient="score"))
        if k > 1:
            add("weighted, doubly reparameterised", weighted, ImportanceWeighted_ELBO(k, gradient="dreg"))
            add("weighted, sticking the landing", weighted, ImportanceWeighted_ELBO(k, gradient="stl"), unbiased=False)
    add("weighted, wake", weighted, ImportanceWeighted_ELBO(k, gradient="wake"), unbiased=False)
    if scored and all(_kind(nodes[name]["fn"]) in ("Bernoulli", "OneHotCategorical") for name in scored):
        both = (relax(problem.model, temperature), relax(guide, temperature))
        add(f"ELBO, relaxed at {temperature:g}", "ELBO", ParticleELBO(num_particles=k), unbiased=False, programs=both)
    return found


def _kind(fn: dist.TorchDistribution) -> str:
    return type(untransformed(fn)[0]).__name__


def _references(measured: list[tuple[_Candidate, Gradients]], problem: Problem, draws: int) -> dict[str, Gradients]:
    """Independent runs of the best unbiased estimator of each bound."""
    best: dict[str, tuple[_Candidate, Gradients]] = {}
    for candidate, result in measured:
        known = best.get(candidate.bound)
        if candidate.unbiased and (known is None or result.rows.var(0).sum() < known[1].rows.var(0).sum()):
            best[candidate.bound] = (candidate, result)
    return {
        bound: sample_gradients(copy.copy(c.objective), c.model, c.guide, problem.whole, 4 * draws)
        for bound, (c, _) in best.items()
    }


def _row(candidate: _Candidate, k: int, result: Gradients, reference: Gradients, own: set[str]) -> dict[str, object]:
    gap = result.mean - reference.mean
    error = torch.hypot(result.error, reference.error)
    size = reference.mean.norm()
    moving = error > 1e-9 * reference.mean.abs().max()
    ratio = result.mean.abs() / result.rows.std(0)
    guides = torch.tensor([name in own for name in result.names])
    alive = torch.isfinite(ratio)

    def mean(which: torch.Tensor) -> float:
        return float(ratio[which & alive].mean()) if bool((which & alive).any()) else float("nan")

    return {
        "bound": candidate.bound, "estimator": candidate.name, "K": k, "value": float(result.values.mean()),
        "bias": float(gap.norm() / size), "bias_noise": float(error.norm() / size),
        "z": float((gap[moving] / error[moving]).square().mean().sqrt()) if bool(moving.any()) else 0.0,
        "variance": float(result.rows.var(0).sum()), "snr_guide": mean(guides), "snr_model": mean(~guides), "seconds": result.seconds,
    }  # fmt: skip
