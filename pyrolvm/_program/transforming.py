"""Changes of a model's arguments in each step of a fit: noise that is drawn anew, augmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.explain import explained
from pyrolvm._program.batching import Batch
from pyrolvm._program.program import Program

__all__ = ["Transform"]


@dataclass(frozen=True)
class Transform:
    """A function of a model's arguments that gives new values for some of them, by name.

    Attributes:
        problem: the problem.
        function: called like the model, ``function(*args, **kwargs)``; returns a mapping from names of arguments to tensors.
    """

    problem: Program
    function: Callable[..., Mapping[str, object]]

    def apply(self, batch: Batch) -> Batch:
        """The batch with the arguments that the function gives.

        Raises:
            ArgumentError: if it gives no mapping from names of the model's arguments.
        """
        changed = self.function(*batch.args, **batch.kwargs)
        names = list(self.problem.arguments)
        if not isinstance(changed, Mapping) or not changed.keys() <= set(names):
            given = ", ".join(map(str, changed)) if isinstance(changed, Mapping) else f"a {type(changed).__name__}"
            raise ArgumentError(
                f"transform returned {given}, expected a dictionary of arguments of {self.problem.name} ({', '.join(names)}). "
                f'Fix: return for example {{"{names[0] if names else "x"}": new value}}.'
            )
        args = tuple(changed.get(name, value) for name, value in zip(names, batch.args, strict=False))
        kwargs = {name: changed.get(name, value) for name, value in batch.kwargs.items()}
        return replace(batch, args=args, kwargs=kwargs)

    def check(self, batch: Batch) -> None:
        """Runs it once; must be called inside a session.

        Raises:
            ArgumentError: if it fails, or changes the shape or kind of an argument.
        """
        with explained("transform", ArgumentError), torch.no_grad(), torch.random.fork_rng(devices=[]):
            after = self.apply(batch)
        before = dict(zip(self.problem.arguments, batch.args, strict=False)) | dict(batch.kwargs)
        for name, value in (dict(zip(self.problem.arguments, after.args, strict=False)) | dict(after.kwargs)).items():
            old = before[name]
            if value is old:
                continue
            if not isinstance(value, Tensor) or (
                isinstance(old, Tensor) and old.dim() and value.shape[:1] != old.shape[:1]
            ):
                shape = tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise ArgumentError(
                    f"transform made argument {name!r} {shape}, expected a tensor with the rows of the batch, as the argument has. "
                    "Fix: keep the rows, which the plate counts."
                )
