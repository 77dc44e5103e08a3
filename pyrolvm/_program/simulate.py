"""Data sets from a model's own prior: the true latents, observations that follow from them, and the problem of these."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._base.errors import ProblemError
from pyrolvm._base.passing import passed_over
from pyrolvm._program.density import Joint
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_deterministic, is_observation, is_random
from pyrolvm._program.traces import Message

__all__ = ["Observe", "Simulator"]

Draw = dict[str, Tensor]

TRIALS = 5
"""Simulated data sets on which two ways of handing data to a model are compared."""

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


class _Simulate(Messenger):
    """Makes observed sites random again, in the shape of their data, and remembers which site is being drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.site = ""

    def _pyro_sample(self, msg: Message) -> None:
        self.site = msg["name"]
        if not is_observation(msg):
            return
        shape = np.broadcast_shapes(msg["fn"].shape(), msg["value"].shape)
        if msg["fn"].shape() != shape:  # rows that stand in no plate
            msg["fn"] = msg["fn"].expand(torch.Size(shape[: len(shape) - msg["fn"].event_dim]))
        msg["is_observed"], msg["value"] = False, None


class Observe(Messenger):
    """Puts other values in the place of those observed."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Message) -> None:
        if msg["is_observed"] and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


class _Observed:
    """A model with other observations, that runs on its own arguments whatever it is called with.

    It is called with arguments in which data are replaced as well, so that a guide which takes the same arguments sees them.
    """

    def __init__(self, problem: Problem, values: Mapping[str, Tensor]) -> None:
        self._model, self._args, self._kwargs = problem.program, problem.args, dict(problem.kwargs)
        self._values = values
        self.__name__ = problem.name
        self.__doc__ = problem.doc
        try:
            self.__signature__ = inspect.signature(problem.program)
        except (TypeError, ValueError):
            pass

    def __call__(self, *args: Any, **kwargs: Any) -> object:
        given = [*args, *(kwargs[name] for name in self._kwargs)]
        for mine, other in zip([*self._args, *self._kwargs.values()], given, strict=True):
            if isinstance(mine, Tensor) and other.shape != mine.shape:
                raise ProblemError(
                    f"{self.__name__} makes its observations from its arguments, so simulated ones cannot be taken in minibatches. "
                    "Fix: pass the data as an argument that is given as obs=argument, or leave batch_size out."
                )
        with Observe(self._values):
            return self._model(*self._args, **self._kwargs)


@dataclass(frozen=True)
class Simulator:
    """Draws data sets from the joint density of a problem, each with the latents behind it.

    Attributes:
        problem: the problem, whose observations are replaced.
        observed: its observations by site, as they are.
        arguments: for an argument of the model, the site whose data it is.
        by_arguments: whether replacing these arguments is all there is to do. Otherwise the model takes data elsewhere
            too, which stay as they are, and the observations are replaced where it meets them.
    """

    problem: Problem
    observed: Mapping[str, Tensor]
    arguments: Mapping[str, str]
    by_arguments: bool

    @classmethod
    def of(cls, problem: Problem) -> Simulator:
        """Checks that a problem can be simulated, and finds out how its data are replaced.

        Raises:
            ProblemError: if it has nothing to draw or to observe, a prior that cannot be sampled, a parameter without a
                prior, or a density that is not that of what it draws. The site is named.
        """
        _check(problem)
        with problem.session(seed=0), torch.no_grad():
            observed = Joint(problem).observations()
        arguments = _arguments(problem, observed)
        found = cls(problem, observed, arguments, by_arguments=False)
        found.draw(0)  # a prior that cannot be sampled is an error now
        if set(arguments.values()) == set(observed):
            by_arguments = cls(problem, observed, arguments, by_arguments=True)
            if _alike(found, by_arguments):
                return by_arguments
        own = [plate.name for plate in problem.plates.values() if plate.subsampled]
        if own:
            raise ProblemError(
                f"{problem.name} takes rows of plate {own[0]!r} from data that it makes itself, where simulated ones cannot "
                "be put. Fix: pass the data as an argument, and observe its rows as they are."
            )
        return found

    def draw(self, seed: int) -> tuple[Draw, Draw]:
        """Latents and deterministic values from the prior, and observations given these, by site.

        Raises:
            ProblemError: if a site cannot be sampled.
        """
        problem, simulate = self.problem, _Simulate()
        with problem.session(seed=seed), torch.no_grad(), poutine.trace() as tracer, simulate, problem.whole.active():
            try:
                problem.model(*problem.whole.args, **problem.whole.kwargs)
            except NotImplementedError as error:
                raise ProblemError(
                    f"{problem.name} cannot be simulated: site {simulate.site!r} cannot be sampled, its prior is improper or has no "
                    f"sampler ({error or 'not implemented'}). Fix: give {simulate.site!r} a proper prior, for example a wide Normal."
                ) from None
        nodes = {name: node for name, node in tracer.trace.nodes.items() if is_random(node)}
        _check_scales(problem, nodes)
        values: dict[str, Any] = {name: node["value"] for name, node in nodes.items()}
        truth = {
            name: value.detach()
            for name, value in values.items()
            if name in problem.sites and name not in self.observed
        }
        return truth, {name: values[name].detach().to(like.dtype) for name, like in self.observed.items()}

    def attach(self, observed: Mapping[str, Tensor]) -> Problem:
        """The problem with other observations, by site.

        Raises:
            DataError: if they are not finite.
        """
        problem = self.problem
        given = {name: observed[site] for name, site in self.arguments.items()}
        new = {
            name: given[name].reshape(value.shape).to(value.dtype) if name in given else value
            for name, value in problem.arguments.items()
        }
        args = list(new.values())[: len(problem.args)]
        kwargs = dict(list(new.items())[len(problem.args) :])
        model = problem.program if self.by_arguments else _Observed(problem, observed)
        return Problem(model, *args, **kwargs).replace(name=problem.name, info=problem.info)


def _check(problem: Problem) -> None:
    where = problem.name
    if not problem.observed:
        raise ProblemError(
            f"{where} has no observed site, so there are no data to simulate. Fix: mark them, pyro.sample(name, distribution, obs=y)."
        )
    if problem.parameters:
        raise ProblemError(
            f"{where} has learnable parameters without priors ({', '.join(list(problem.parameters)[:3])}), of which nothing says what "
            "is true. Fix: give them priors with pyro.sample, or hold them at fixed values."
        )
    factors = [site.name for site in problem.sites.values() if site.kind == "factor"]
    if factors:
        raise ProblemError(
            f"{where} has a factor, {factors[0]!r}: it changes the density, but not what the model draws, so that simulated data "
            "would follow another model. Fix: write the term as a distribution with pyro.sample."
        )


def _check_scales(problem: Problem, nodes: Mapping[str, Any]) -> None:
    for name, node in nodes.items():
        scale = node["scale"]
        if not is_deterministic(node) and not np.all(
            np.asarray(scale.cpu() if isinstance(scale, Tensor) else scale) == 1
        ):
            raise ProblemError(
                f"{problem.name} scales the density of site {name!r}, which then is not that of what the model draws. "
                "Fix: leave poutine.scale out of the model that is calibrated."
            )


def _arguments(problem: Problem, observed: Mapping[str, Tensor]) -> dict[str, str]:
    """The arguments that are observed as they are, or reshaped, with their sites."""
    tensors = {name: value for name, value in problem.arguments.items() if isinstance(value, Tensor)}
    found: dict[str, str] = {}
    for site, value in observed.items():
        free = {name: given for name, given in tensors.items() if name not in found}
        same = [name for name, given in free.items() if given is value]
        equal = [name for name, given in free.items() if _equal(given, value)]
        chosen = next(iter([*same, *(name for name in equal if name == site), *equal]), None)
        if chosen is not None:
            found[chosen] = site
    return found


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.numel() != b.numel() or a.dtype.is_floating_point != b.dtype.is_floating_point:
        return False
    a, b = a.reshape(-1), b.reshape(-1).to(a.dtype)
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _alike(by_site: Simulator, by_arguments: Simulator) -> bool:
    """Whether two ways of replacing data give the same densities of all sites."""
    compared = 0
    for seed in range(TRIALS):
        truth, observed = by_site.draw(seed)
        latents = {site.name: truth[site.name] for site in by_site.problem.latents}
        try:
            with by_site.problem.session(seed=0), torch.no_grad(), Observe(observed):
                a = Joint(by_site.problem).site_log_probs(latents)
        except Exception:
            passed_over("a prior may well give data that no density can take")
            continue
        try:
            problem = by_arguments.attach(observed)
            with problem.session(seed=0), torch.no_grad():
                b = Joint(problem).site_log_probs(latents)
        except Exception:
            passed_over("whatever the model does with such an argument, it is not to observe it alone")
            return False
        tolerance = _TOLERANCE.get(by_site.problem.dtype, 1e-2)
        if a.keys() != b.keys() or not all(
            np.isclose(a[n], b[n], rtol=tolerance, atol=tolerance, equal_nan=True) for n in a
        ):
            return False
        compared += bool(np.isfinite(list(a.values())).all())
    return compared > 0
