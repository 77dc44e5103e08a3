"""What is calibrated: a function from a problem and a seed to a posterior."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base import randomness
from pyrolvm._base.errors import ArgumentError, FitError, unknown_name
from pyrolvm._methods import table
from pyrolvm._methods.table import by_name, without_guide
from pyrolvm._program.names import variable
from pyrolvm._program.problem import Problem
from pyrolvm._results import store
from pyrolvm._results.build import lean
from pyrolvm._results.reading import tree
from pyrolvm.family import registry
from pyrolvm.family.choice import resolve
from pyrolvm.family.guide import Guide

__all__ = ["Method", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What a method gave for one data set.

    Attributes:
        draws: by latent site, shape ``(draws, ...)``.
        status: the posterior's own verdict; ``"none"`` where it has none.
        khat: the Pareto k of its importance weights; NaN where there are none.
        ess: the smallest effective number of draws; NaN where draws are independent.
    """

    draws: Mapping[str, Tensor]
    status: str
    khat: float
    ess: float


@dataclass(frozen=True)
class Method:
    """A method with its options.

    Attributes:
        name: what it is called.
        kind: the name of a row of the table of methods, or ``"function"``.
        subject: the guide of a fit, or the user's function.
        options: passed to the call.
    """

    name: str
    kind: str
    subject: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, method: Any, problem: Problem, options: Mapping[str, Any], *, caller: str = "calibrate") -> Method:
        """The method that was asked for; ``"auto"`` is :func:`pyrolvm.infer`.

        Raises:
            ArgumentError: if it is none, or an option is one that ``caller`` sets itself.
            UnknownNameError: if no guide and no method has that name, or the call takes no such option.
        """
        for name in ("out", "resume", "overwrite", "checkpoint_every", "seed", "progress"):
            if name in options:
                raise ArgumentError(
                    f"{name} is an argument of {caller}, not of single fits. Fix: leave it out of the options."
                )
        method = "infer" if isinstance(method, str) and method == "auto" else method
        if without_guide(method) is not None:
            found = cls(method, method, None, options)
        elif isinstance(method, str) and method not in registry.guides():
            raise unknown_name("method", method, [*by_name(), *registry.guides()])
        elif _takes_problem(method, problem):
            found = cls(str(getattr(method, "__name__", type(method).__name__)), "function", method, options)
        else:
            guide = resolve(method, problem)
            found = cls(str(guide), "fit", guide, options)
        found._check_options()
        return found

    def identity(self, problem: Problem, seed: int, further: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the numbers depend on that it gives: data, code, options, seed and versions, as JSON holds it."""
        guide = self.subject if isinstance(self.subject, Guide) else None
        options = {
            "options": dict(self.options), "arguments": dict(problem.kwargs), "default dtype": torch.get_default_dtype(),
            "guide options": dict(guide.options) if guide else None, "subject": None if guide else self.subject, **(further or {}),
        }  # fmt: skip
        return store.identity(self.kind, problem, guide, seed, options)

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.name}, {given}" if given else self.name

    def __call__(self, problem: Problem, draws: int, seed: int) -> Outcome:
        """Runs the method, and keeps ``draws`` of its draws that are nearly independent.

        Raises:
            PyrolvmError: whatever the method raises, or if it gave too few draws.
            KeyboardInterrupt: if it was interrupted, also where the method keeps what it has then.
        """
        with lean() if self.kind != "function" else nullcontext():
            result = self.run(problem, seed)
        if isinstance(result, Mapping) and all(isinstance(value, Tensor | np.ndarray) for value in result.values()):
            return Outcome(
                _picked({n: torch.as_tensor(v)[None] for n, v in result.items()}, draws, seed), "none", np.nan, np.nan
            )
        return _outcome(result, problem, draws, seed)

    def run(self, problem: Problem, seed: int) -> Any:
        """What the method itself returns: of a call of this package, as if the user had made it.

        Raises:
            PyrolvmError: whatever the method raises.
        """
        if self.kind == "function":
            with randomness.random_state(seed, problem.device):
                return self.subject(problem, **self._seeded(seed))
        given = (self.subject,) if self.kind == "fit" else ()
        return self._call()(problem, *given, **self.options, progress=False, seed=seed)

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What the call takes, by name."""
        return _parameters(self.subject if self.kind == "function" else self._call())

    def _call(self) -> Callable[..., Any]:
        return table.method(self.kind).call

    def _seeded(self, seed: int) -> dict[str, Any]:
        """The options of the user's function, with the seed where it takes one."""
        words = {"seed": seed, "progress": False}
        return {**self.options, **{name: value for name, value in words.items() if name in _parameters(self.subject)}}

    def _check_options(self) -> None:
        known = self.parameters
        if any(p.kind is p.VAR_KEYWORD for p in known.values()):
            return
        for name in self.options:
            if name not in known:
                raise unknown_name(f"option of {self.name}", name, [n for n in known if n not in ("problem", "guide")])


def _parameters(call: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(call).parameters
    except (TypeError, ValueError):
        return {}


def _takes_problem(method: Any, problem: Problem) -> bool:
    """Whether a function is one of a problem: its first argument says so. Any other is taken as a guide.

    Raises:
        ArgumentError: if it is neither, to go by its arguments.
    """
    if isinstance(method, str | Guide | torch.nn.Module) or inspect.isclass(method) or not callable(method):
        return False
    parameters = list(_parameters(method).values())
    if parameters and (
        parameters[0].name == "problem" or parameters[0].annotation in (Problem, "Problem", "lvm.Problem")
    ):
        return True
    try:
        inspect.signature(method).bind(*problem.args, **problem.kwargs)
    except TypeError:
        raise ArgumentError(
            f"method {getattr(method, '__name__', method)!r} takes neither a problem nor the arguments of the model "
            f"({', '.join(problem.arguments)}). Fix: for a function that returns a posterior, call its first argument problem."
        ) from None
    except ValueError:
        return False
    return False


def _outcome(result: Any, problem: Problem, draws: int, seed: int) -> Outcome:
    data = tree(result, "what the method returned")
    for group in ("optimization", "sample_stats", "posterior"):
        if group in data.children and data[group].attrs.get("interrupted"):
            raise KeyboardInterrupt
    found = {}
    for site in problem.latents:
        name = variable(site.name)
        if name in data["posterior"].data_vars:
            values = data["posterior"][name].transpose("chain", "draw", ...).values
            found[site.name] = torch.as_tensor(np.ascontiguousarray(values))
    verdict = getattr(result, "verdict", None)
    figures = {} if verdict is None else verdict.figures
    ess = min((v for k, v in figures.items() if k in ("ess_bulk", "ess_tail")), default=np.nan)
    return Outcome(
        _picked(found, draws, seed),
        "none" if verdict is None else str(verdict.status),
        float(getattr(result, "khat", np.nan)),
        float(ess),
    )


def _picked(draws: Mapping[str, Tensor], count: int, seed: int) -> dict[str, Tensor]:
    """``count`` of draws of shape ``(chain, draw, ...)``: spread evenly over chains, or any of those of one chain.

    Raises:
        FitError: if there are fewer.
    """
    if not draws:
        raise FitError(
            "the method returned draws of no latent site. Fix: return draws by the names of the model's sites."
        )
    chains, each = next(iter(draws.values())).shape[:2]
    places = _places(chains, each, count, seed)
    return {name: value.reshape(chains * each, *value.shape[2:])[places] for name, value in draws.items()}


def _places(chains: int, each: int, count: int, seed: int) -> NDArray[np.int64]:
    total = chains * each
    if total < count:
        raise ArgumentError(
            f"the method keeps {total} draws of each posterior, and {count} are to be ranked. "
            f"Fix: pass draws={total} or fewer, or have the method keep more."
        )
    if chains == 1:
        # Evenly spread points and resampled ones come in an order, which a choice at random does away with.
        return np.sort(np.random.default_rng(seed).permutation(total)[:count])
    return ((np.arange(count) + 0.5) * total / count).astype(np.int64)
