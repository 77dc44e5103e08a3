"""One way to step, whatever the user gave as an optimiser."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyrolvm._base import runtime
from pyrolvm._base.errors import ArgumentError

__all__ = ["DEFAULT_LEARNING_RATE", "Stepper"]

DEFAULT_LEARNING_RATE = 0.02
BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Adam:
    """The settings of plain Adam, which compiled engines take as part of their step."""

    learning_rate: float
    beta1: float
    beta2: float
    eps: float = 1e-8


class Stepper:
    """Steps parameters by a torch or Pyro optimiser, with gradient clipping and a learning-rate factor.

    Args:
        optimizer: ``None`` for Adam; a torch optimiser class; a function from a list of parameters to a torch
            optimiser; or a Pyro optimiser, which is copied so that its state stays with this fit.
        learning_rate: the base rate; ``None`` for the optimiser's own, or 0.02 for Adam.
        clip_norm: bound on the gradient's Euclidean norm; ``None`` for no bound.

    Raises:
        ArgumentError: if the optimiser is none of these.
    """

    def __init__(self, optimizer: Any, learning_rate: float | None, clip_norm: float | None) -> None:
        self.clip_norm = clip_norm
        self._torch: torch.optim.Optimizer | None = None
        self._pyro: PyroOptim | None = None
        self._known: set[int] = set()
        self._base: list[float] = []
        self._came: list[list[Tensor]] = []
        self.adam = _as_adam(optimizer, learning_rate)
        if isinstance(optimizer, torch.optim.Optimizer):
            raise ArgumentError(
                f"optimizer is a {type(optimizer).__name__} that already has parameters; the guide's do not exist yet. "
                f"Fix: pass the class, optimizer=torch.optim.{type(optimizer).__name__}, or a function of the parameters."
            )
        if isinstance(optimizer, PyroOptim):
            if learning_rate is not None:
                raise ArgumentError(
                    "learning_rate is given beside a Pyro optimizer, which has one of its own. Fix: give it once, in "
                    'the optimizer: pyro.optim.Adam({"lr": 0.01}).'
                )
            self._pyro = copy.deepcopy(optimizer)
        elif optimizer is None:
            rate = learning_rate or DEFAULT_LEARNING_RATE
            self._make: Callable[..., Any] = lambda params: torch.optim.Adam(params, lr=rate, betas=BETAS)
        elif isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
            options: dict[str, Any] = {} if learning_rate is None else {"lr": learning_rate}
            self._make = lambda params: optimizer(params, **options)
        elif callable(optimizer):
            if learning_rate is not None:
                raise ArgumentError(
                    "learning_rate is given beside an optimizer function, which sets its own. Fix: set lr in the function."
                )
            self._make = optimizer
        else:
            raise ArgumentError(
                f"optimizer must be a torch optimiser class, a function of parameters, or a Pyro optimiser, got {optimizer!r}. "
                "Fix: pass for example optimizer=torch.optim.Adam."
            )

    @property
    def scheduled_by_caller(self) -> bool:
        """Whether the learning rate is out of our hands."""
        return self._pyro is not None

    @property
    def learning_rate(self) -> float:
        """The rate of the last step; NaN where a Pyro optimiser keeps it to itself."""
        if self._torch is None:
            return float("nan")
        return float(self._torch.param_groups[0]["lr"])

    def restart(self) -> None:
        """Forgets all that the optimiser remembers of earlier steps; one of Pyro's, which is the caller's, does not."""
        self._torch = None
        self._known.clear()
        self._base.clear()
        self._came.clear()

    def state(self) -> dict[str, Any]:
        """What the optimiser remembers: its own state, and which parameters came to it together."""
        if self._pyro is not None:
            return {"pyro": self._pyro.get_state()}
        names = {id(p): name for name, p in runtime.parameters().items()}
        came = [[names[id(p)] for p in group] for group in self._came]
        return {
            "came": came,
            "base": list(self._base),
            "torch": None if self._torch is None else self._torch.state_dict(),
        }

    def restore(self, state: Mapping[str, Any], params: Mapping[str, Tensor]) -> None:
        """Remembers that again, for parameters by name."""
        self.restart()
        if self._pyro is not None:
            self._pyro.set_state(state["pyro"])
            return
        for names in state["came"]:
            self._meet([params[name] for name in names])
        if self._torch is not None:
            self._torch.load_state_dict(state["torch"])
            self._base = list(state["base"])

    def step(self, params: Iterable[Tensor], factor: float) -> None:
        """Moves the parameters along their gradients, and clears those."""
        params = list(params)
        trained = [p for p in params if p.grad is not None]
        if self.clip_norm is not None and trained:
            torch.nn.utils.clip_grad_norm_(trained, self.clip_norm)
        if self._pyro is not None:
            self._step_pyro(trained, factor)
        else:
            self._step_torch(params, factor)
        for p in params:
            p.grad = None

    def _step_pyro(self, trained: list[Tensor], factor: float) -> None:
        """A step of Pyro's optimiser, whose own rates are multiplied by the factor for as long."""
        assert self._pyro is not None
        found = [self._pyro.optim_objs[p] for p in trained if p in self._pyro.optim_objs] if factor != 1 else []
        groups = [group for one in found for group in getattr(one, "optimizer", one).param_groups]
        rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * factor
        self._pyro(trained)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate

    def _step_torch(self, params: list[Tensor], factor: float) -> None:
        new = [p for p in params if id(p) not in self._known]
        if new:
            self._meet(new)
        if self._torch is None:
            return
        for group, base in zip(self._torch.param_groups, self._base, strict=True):
            group["lr"] = base * factor
        self._torch.step()

    def _meet(self, new: list[Tensor]) -> None:
        """Takes parameters that come for the first time."""
        self._known |= {id(p) for p in new}
        self._came.append(new)
        if self._torch is None:
            self._torch = self._make(new)
            if not isinstance(self._torch, torch.optim.Optimizer):
                raise ArgumentError(
                    f"the optimizer function returned a {type(self._torch).__name__}, expected a torch optimiser. "
                    "Fix: return for example torch.optim.Adam(params, lr=0.01)."
                )
        else:
            self._torch.add_param_group({"params": new})
        self._base += [group["lr"] for group in self._torch.param_groups[len(self._base) :]]


def _as_adam(optimizer: object, learning_rate: float | None) -> Adam | None:
    """The settings of an optimiser that is plain Adam; ``None`` for any other."""
    if optimizer is None:
        return Adam(learning_rate or DEFAULT_LEARNING_RATE, *BETAS)
    if optimizer is torch.optim.Adam:
        return Adam(learning_rate or 1e-3, 0.9, 0.999)
    if isinstance(optimizer, PyroOptim) and getattr(optimizer, "pt_optim_constructor", None) is torch.optim.Adam:
        options = optimizer.pt_optim_args
        if isinstance(options, Mapping) and options.keys() <= {"lr", "betas", "eps"} and not optimizer.pt_clip_args:
            beta1, beta2 = options.get("betas", (0.9, 0.999))
            return Adam(options.get("lr", 1e-3), beta1, beta2, options.get("eps", 1e-8))
    return None
