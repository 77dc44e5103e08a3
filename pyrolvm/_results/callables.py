"""The trained guide and the trained model, as Pyro callables for whatever else takes some."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyrolvm._program.moving import copy_program
from pyrolvm._program.problem import Problem
from pyrolvm._results.draws import rebuild
from pyrolvm.family.guide import Guide

__all__ = ["Trained", "trained_guide", "trained_model"]


class Trained:
    """A Pyro program at the parameters of a fit.

    Called with the model's arguments, or without any for those of the fit, it samples as the program does, among the handlers that are
    open around it. Parameters and modules are its own copies, constants in evaluation mode; the caller's parameter store is neither
    read nor written.

    Attributes:
        name: what it is of.
        params: the values of its parameters, unconstrained, by store name.
    """

    def __init__(
        self,
        name: str,
        problem: Problem,
        program: Callable[..., Any],
        args: Any,
        kwargs: Any,
        params: Mapping[str, Tensor],
    ) -> None:
        self.name = name
        self.params = {key: value.detach().clone() for key, value in params.items()}
        self._problem, self._program, self._args, self._kwargs = problem, program, tuple(args), dict(kwargs)
        functools.update_wrapper(self, problem.function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = not args and not kwargs
        with self._problem.among_handlers(self.params, whole=own):
            if not own:
                return self._program(*args, **kwargs)
            with self._problem.whole.active():
                return self._program(*self._args, **self._kwargs)

    def __repr__(self) -> str:
        return f"<{self.name} at fitted parameters>"


def trained_guide(problem: Problem, recipe: Guide, params: Mapping[str, Tensor]) -> Trained:
    """The guide of a fit as a Pyro callable."""
    with problem.session(seed=0, params=params):
        guide = copy_program(rebuild(problem, recipe))
    return Trained(f"guide {recipe} of {problem.name}", problem, guide, problem.args, problem.kwargs, params)


def trained_model(problem: Problem, params: Mapping[str, Tensor]) -> Trained:
    """The model of a fit as a Pyro callable."""
    bound = functools.partial(problem.program, *problem.args, **problem.kwargs)
    with problem.session(seed=0, params=params), problem.whole.active(), torch.no_grad():
        bound()  # modules have the values of the fit from here on
        copied: Any = copy_program(bound)
    return Trained(f"model {problem.name}", problem, copied.func, copied.args, copied.keywords, params)
