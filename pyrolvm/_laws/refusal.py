"""Why a posterior is not exact: the site that stands in the way, and what it does there."""

from __future__ import annotations

from collections.abc import Iterable

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrolvm._base.errors import ProblemError
from pyrolvm._laws.degrees import Degree
from pyrolvm._laws.program import Program
from pyrolvm._program.peeling import innermost
from pyrolvm._program.sites import is_deterministic, is_random

__all__ = ["degree_reason", "refusal", "why_not_gaussian"]

GAUSSIAN: dict[type, tuple[str, ...]] = {
    dist.Normal: ("scale",),
    dist.MultivariateNormal: ("scale_tril",),
    dist.LowRankMultivariateNormal: ("cov_factor", "cov_diag"),
}
"""Families whose log density is quadratic in value and location, and what must be fixed for it."""


def refusal(program: Program, reason: str) -> ProblemError:
    """The error that says why, and what to do."""
    return ProblemError(
        f"the posterior of {program.problem.name} has no exact form that is known here: {reason}. "
        "Fix: use lvm.infer(problem) or lvm.nuts(problem)."
    )


def why_not_gaussian(program: Program) -> str:
    """The first site whose scale or family keeps the joint density from being Gaussian; empty where none is found.

    Read from which parameters of which distribution follow from which latent, in one run of the model.
    """
    values = {
        name: value.detach().clone().requires_grad_() if name in program.continuous else value
        for name, value in program.values.items()
    }
    with torch.enable_grad():
        nodes = {n: m for n, m in program.trace(values).nodes.items() if is_random(m) and not is_deterministic(m)}
        for name, node in nodes.items():
            fn = innermost(node["fn"])
            for parameter in GAUSSIAN.get(type(fn), ()):
                found = _sources(getattr(fn, parameter), values, program)
                if found:
                    what = "scale" if type(fn) is dist.Normal else "covariance"
                    return f"{_sites(found)} the {what} of {name!r}, so the joint is not Gaussian"
        for name, node in nodes.items():
            fn = innermost(node["fn"])
            if type(fn) in GAUSSIAN or isinstance(fn, dist.Unit):
                continue
            site = program.problem.sites[name]
            if site.kind == "latent" and not site.is_discrete and not isinstance(fn, dist.ImproperUniform):
                return f"site {name!r} is {_a(fn)}, so the joint is not Gaussian"
            found = _sources(node["log_prob"], values, program)
            if node["is_observed"] and found:
                return f"the data {name!r} are {type(fn).__name__} and depend on {_names(found)}, so the joint is not Gaussian"
    return ""


def degree_reason(program: Program, found: dict[str, Degree]) -> str:
    """The site whose log density is not quadratic by the graph, and in which latents; empty where all are."""
    names = program.continuous
    for site, degree in found.items():
        if degree.total <= 2:
            continue
        worst = [names[place] for place, power in degree.each.items() if power > 2]
        culprits = worst or [names[place] for place in degree.each]
        if degree.why:
            shown = f"it is not shown to be a polynomial after operation `{degree.why}`"
        elif worst:
            shown = f"it is a polynomial of degree {degree.total:.0f}"
        else:
            shown = "they are multiplied with each other"
        return f"the log density of site {site!r} is not quadratic in {_names(culprits)} ({shown})"
    return ""


def _sources(value: object, values: dict[str, Tensor], program: Program) -> list[str]:
    """The continuous latents that a tensor follows from."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return []
    leaves = {name: values[name] for name in program.continuous}
    found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True, retain_graph=True)
    return [name for name, gradient in zip(leaves, found, strict=True) if gradient is not None]


def _sites(names: list[str]) -> str:
    return f"site {names[0]!r} sets" if len(names) == 1 else f"sites {_names(names)} set"


def _names(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _a(fn: dist.TorchDistribution) -> str:
    name = type(fn).__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
