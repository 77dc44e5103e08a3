"""What several methods ask of their arguments in the same words."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, ProblemError, PyrolvmWarning
from pyrolvm._program.problem import Problem
from pyrolvm._results import Fit, Posterior

__all__ = ["check_has_posterior", "held_parameters", "warn_of_subsamples"]


def check_has_posterior(problem: Problem, init: object, sampler: str) -> None:
    """Refuses what a sampler of continuous latents cannot do, in whose name it speaks.

    Raises:
        ProblemError: if there is nothing continuous to sample, or a parameter without a prior and without a fit.
    """
    if not problem.continuous:
        method = "lvm.fit, which learns its parameters by maximum likelihood" if problem.parameters else "lvm.exact"
        method = method if problem.latents or problem.parameters else "lvm.fit"
        raise ProblemError(
            f"{problem.name} has no continuous latent site, so there is nothing for {sampler} to sample. "
            f"Fix: use {method}, or give its unknowns priors."
        )
    if problem.parameters and not isinstance(init, Fit):
        raise ProblemError(
            f"{problem.name} has learnable parameters without priors ({', '.join(list(problem.parameters)[:3])}, ...), which {sampler} "
            "does not sample. Fix: give them priors with pyro.sample, or pass init=fit to hold them at fitted values."
        )


def held_parameters(problem: Problem, params: Posterior | Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The learnable parameters' values to hold.

    Raises:
        ArgumentError: if they are none, or some of the problem's are missing.
    """
    if params is None:
        return {}
    values = params.params if isinstance(params, Posterior) else params
    if not isinstance(values, Mapping):
        raise ArgumentError(
            f"params must be a fitted result or values by name, got {type(params).__name__}. Fix: pass params=lvm.fit(problem)."
        )
    absent = [name for name in problem.parameters if name not in values]
    if absent:
        raise ArgumentError(
            f"params has no value for the learnable parameter {absent[0]!r} of {problem.name} (it has: {', '.join(values) or 'none'}). "
            "Fix: pass a fit of this problem."
        )
    return {name: torch.as_tensor(values[name]).detach() for name in problem.parameters}


def warn_of_subsamples(problem: Problem, reason: str) -> None:
    """Says that all rows are used where a model subsamples by itself, and for what ``reason``; called by what a method calls."""
    for plate in problem.plates.values():
        if plate.subsampled:
            warnings.warn(
                f"plate {plate.name!r} subsamples its {plate.size} rows; {reason}, so all rows are used. "
                f"Fix: write pyro.plate({plate.name!r}, {plate.size}) to make this explicit.",
                PyrolvmWarning,
                stacklevel=5,
            )
