"""What all objectives share: estimates as tensors, which engines can capture, and the runs of guide and model they are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._capture.vmap import vmapped
from pyrolvm._compat.torch import pytree
from pyrolvm._program.batching import Batch
from pyrolvm._program.sites import is_deterministic, is_random
from pyrolvm._program.traces import Message, Trace
from pyrolvm.family.protocol import Hooks

__all__ = [
    "Given",
    "Held",
    "Lane",
    "PureELBO",
    "held_run",
    "lanes",
    "log_prob_sum",
    "log_q_and_score",
    "surrogate",
    "traces",
]


class PureELBO(ELBO):
    """A Pyro ELBO whose estimates are tensors: a function of parameters, rows and random numbers that engines capture.

    Subclasses write :meth:`particles`. Stock Pyro takes them as it takes its own: ``SVI(model, guide, optim, objective)``.

    Attributes:
        vectorize: whether draws are made at once by ``torch.func.vmap``, which asks of a model that it reads no values.
        clock: steps taken so far, shape ``()``, where the objective follows a schedule; ``None`` where it does not.
        uncapturable: why no engine but Pyro can run it; empty if they can.
    """

    def __init__(self, *, num_particles: int = 1, max_plate_nesting: int = 0, vectorize: bool = True) -> None:
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)
        self.vectorize = vectorize
        self.clock: Tensor | None = None
        self.uncapturable = ""

    def particles(
        self, model: Callable[..., object], guide: Callable[..., object], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Independent estimates of the bound, whose mean's gradient is that of the objective. Shape ``(estimates,)``."""
        raise NotImplementedError

    def about(self, model: Callable[..., object], guide: Callable[..., object], batch: Batch) -> str:
        """What a fit notes of it.

        Raises:
            PyrolvmError: if model or guide are not such as it takes.
        """
        return "given by the caller"

    # The three methods of Pyro's ELBO interface.

    def differentiable_loss(
        self, model: Callable[..., object], guide: Callable[..., object], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Minus the bound, differentiable. Shape ``()``."""
        return -self.particles(model, guide, *args, **kwargs).mean()

    def loss(self, model: Callable[..., object], guide: Callable[..., object], *args: Any, **kwargs: Any) -> float:
        """Minus the bound."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(
        self, model: Callable[..., object], guide: Callable[..., object], *args: Any, **kwargs: Any
    ) -> float:
        """Minus the bound; adds its gradient to the parameters' ``grad``. It counts as a step."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        if self.clock is not None:
            self.clock = self.clock + 1
        return float(loss.detach())

    def at(self, step: int) -> None:
        """Sets the number of steps taken."""
        if self.clock is not None:
            self.clock = torch.full_like(self.clock, step)

    def _get_trace(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> tuple[object, object]:
        return traces(model, guide, args, kwargs)


def lanes(
    function: Callable[..., Any], count: int, vectorize: bool, *batched: Any, guide: Callable[..., object] | None = None
) -> Any:
    """``function`` ``count`` times with independent randomness, on slices of ``batched``; results are stacked in front.

    Of a ``guide`` with strata (:attr:`pyrolvm.family.Hooks.strata`) draws take these in turn. Each by itself has the guide's law, but
    given the others it is of one stratum, so that what relies on more than that must not pass it.

    Once is without ``vmap``, whose rules of some operations take more of others: two exponentials and a logarithm for each logit.
    """
    if Hooks(guide).strata:
        shift = torch.rand(())

        def numbered(index: Tensor, *parts: Any) -> Any:
            with Lane(index, shift):
                return function(*parts)

        return lanes(numbered, count, vectorize, torch.arange(count, dtype=shift.dtype), *batched)
    if vectorize and count > 1:
        return vmapped(lambda _, *parts: function(*parts))(torch.zeros(count), *batched)
    found = []
    for i in range(count):
        found.append(function(*pytree.tree_map(lambda value, i=i: value[i], batched)))
    leaves = [pytree.tree_flatten(one) for one in found]
    return pytree.tree_unflatten(
        [torch.stack(column) for column in zip(*(leaf for leaf, _ in leaves), strict=True)], leaves[0][1]
    )


def surrogate(value: Tensor, term: Tensor) -> Tensor:
    """``value``, with the gradient of ``value + term``."""
    return value + (term - term.detach())


# --- runs -------------------------------------------------------------------------------------------------------------


class Held(Messenger):
    """Hides from the gradient that a guide has parameters."""

    def _pyro_post_param(self, msg: Message) -> None:
        held = msg["value"].detach()
        if hasattr(msg["value"], "unconstrained"):  # which plates that pick rows of it look at
            held.unconstrained = msg["value"].unconstrained
        msg["value"] = held


class Given(Messenger):
    """Gives sample sites values by name, as a replay of a trace does."""

    def __init__(self, values: Mapping[str, object]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["done"] = True
            msg["value"] = self.values[msg["name"]]


class Lane(Messenger):
    """Tells laws with strata which of several draws this is.

    Args:
        index: its number, shape ``()``.
        shift: a uniform number between 0 and 1 that all draws share, shape ``()``.
    """

    def __init__(self, index: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.index, self.shift = index, shift

    def _pyro_sample(self, msg: Message) -> None:
        numbered = getattr(msg["fn"], "in_lane", None)
        if numbered is not None:
            msg["fn"] = numbered(self.index, self.shift)


def traces(
    model: Callable[..., object], guide: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> tuple[Any, Any]:
    """The traces of the model, at the guide's draw, and of the guide."""
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    return model_trace, guide_trace


def held_run(guide: Callable[..., object], drawn: Any, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
    """The guide's trace at a draw of its own, with parameters that have no gradient."""
    with Held():
        return poutine.trace(poutine.replay(guide, trace=drawn)).get_trace(*args, **kwargs)


def log_prob_sum(trace: Trace) -> Tensor:
    """The log density of a trace."""
    trace.compute_log_prob()
    return _sum(trace)


def _sum(trace: Trace) -> Tensor:
    terms = [node["log_prob_sum"] for node in trace.nodes.values() if is_random(node) and not is_deterministic(node)]
    return torch.stack([torch.as_tensor(term) for term in terms]).sum() if terms else torch.zeros(())


def log_q_and_score(guide_trace: Trace) -> tuple[Tensor, Tensor]:
    """The guide's log density at its draw, and the sum of its score-function terms (zero if it has none)."""
    guide_trace.compute_score_parts()  # which sets the log densities too
    log_q = _sum(guide_trace)
    parts = [node["score_parts"].score_function for node in guide_trace.nodes.values() if is_random(node)]
    scores = [torch.as_tensor(part).sum() for part in parts if not is_identically_zero(part)]
    return log_q, torch.stack(scores).sum() if scores else torch.zeros_like(log_q)
