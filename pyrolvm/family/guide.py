"""Guides as recipes: what builds a fresh guide for each fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyrolvm._base.errors import GuideError
from pyrolvm._base.explain import explained
from pyrolvm._base.pickling import Portable
from pyrolvm._program.problem import Problem
from pyrolvm.family.protocol import Traits, traits_of

__all__ = ["NO_LATENTS", "Guide"]

PyroGuide = Callable[..., Any]

NO_LATENTS = "none"
"""The guide of a model without latents, which draws nothing."""


@dataclass(frozen=True, repr=False)
class Guide(Portable):
    """A named recipe for a variational family; builds a fresh Pyro guide for each fit.

    Attributes:
        name: what the family is called in tables.
        construct: a function of a problem and of ``options`` that returns a Pyro guide: anything that is called as
            ``guide(*args, **kwargs)`` with the model's arguments and samples its latent sites. What it may have besides is in
            :class:`~pyrolvm.family.protocol.Hooks`.
        options: keyword arguments for ``construct``.
        registered: whether ``name`` and ``options`` are enough to find it again.
    """

    name: str
    construct: Callable[..., PyroGuide]
    options: Mapping[str, object] = field(default_factory=dict)
    registered: bool = False

    def build(self, problem: Problem) -> PyroGuide:
        """A fresh Pyro guide for ``problem``.

        Raises:
            GuideError: if the family cannot represent this problem at all.
        """
        with explained(f"guide {self.name!r} for {problem.name!r}", GuideError):
            built = self.construct(problem, **self.options)
        if not callable(built):
            raise GuideError(
                f"guide {self.name!r} built a {type(built).__name__}, expected something to call. "
                "Fix: return the Pyro guide, a function or module that takes the model's arguments."
            )
        return built

    @property
    def traits(self) -> Traits:
        """What is known of the family."""
        return traits_of(self.construct)

    @property
    def doc(self) -> str:
        """What the family says about itself."""
        return inspect.getdoc(self.construct) or ""

    def __str__(self) -> str:
        options = ", ".join(f"{key}={_shown(value)}" for key, value in self.options.items())
        return f"{self.name}({options})" if options else self.name

    def __repr__(self) -> str:
        return f"<Guide {self}>"


def _shown(value: object) -> str:
    """A value in words that are the same in every process: functions by their names."""
    return str(value.__name__) if callable(value) and hasattr(value, "__name__") else repr(value)
