"""What other distributions can register, by kind, without any of the rooms that use it: ``pyrolvm list`` imports nothing else.

The kinds of methods and commands stand with the rows that they are of, which import nothing either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyrolvm._base.entries import Kind

if TYPE_CHECKING:
    from pyro.infer import ELBO

__all__ = ["DIAGNOSTICS", "ENGINES", "ENGINE_WORDS", "GUIDES", "MODELS", "OBJECTIVES", "OBJECTIVE_WORDS"]

MODELS: Kind[Callable[..., Any]] = Kind("problem", "pyrolvm.models", "a function", callable)
"""Functions of keyword options that return a problem."""

GUIDES: Kind[Callable[..., Any]] = Kind("guide", "pyrolvm.guides", "a function", callable)
"""Functions of a problem and keyword options that return a Pyro guide."""

ENGINES: Kind[Callable[..., Any]] = Kind("engine", "pyrolvm.engines", "a function", callable)
"""What takes the steps of a fit, where it is asked for by name."""

ENGINE_WORDS = {
    "c": "The captured step compiled from C, for small programs.",
    "jax": "The captured step compiled by XLA.",
    "torch": "The captured step compiled by torch.",
    "pyro": "Stock Pyro, which runs what cannot be captured.",
}
"""What each of ours is."""

DIAGNOSTICS: Kind[Callable[..., Any]] = Kind("diagnostic", "pyrolvm.diagnostics", "a function", callable)
"""Checks of one posterior, which are part of every verdict."""


def _is_objective(it: object) -> bool:
    from pyro.infer import ELBO

    return isinstance(it, type) and issubclass(it, ELBO)


OBJECTIVES: Kind[type[ELBO]] = Kind("objective", "pyrolvm.objectives", "a subclass of pyro.infer.ELBO", _is_objective)
"""What a fit makes small."""

OBJECTIVE_WORDS = {
    "Trace_ELBO": "The ELBO, by draws of the guide.",
    "TraceMeanField_ELBO": "The same with analytic KL terms, for guides that factorise.",
    "TraceEnum_ELBO": "The same with discrete latents summed out.",
    "StickingTheLanding_ELBO": "The same without the guide's score, whose gradient has no noise at the posterior.",
    "ImportanceWeighted_ELBO": "A bound that is tighter with every draw of a row.",
    "Beta_ELBO": "The ELBO with its KL term weighed or bounded below.",
}
"""Those of ours that have a name, and what each is."""
