"""torch's distributions and the checks of their arguments and values. Checked with torch 2.13.0 and 2.15.0."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, Transform, constraints

__all__ = ["Bijective", "gaussian", "one_switch", "registered"]

NOTHING = torch.Size()


@contextmanager
def one_switch() -> Iterator[None]:
    """Lets ``Distribution.set_default_validate_args(False)`` switch all checks off, those that a distribution asked for itself too.

    Seen in torch 2.13.0 and 2.15.0.

    Torch asks the distribution, which has noted what held when it was made: one that a module or a closure keeps, or one with
    ``validate_args=True``, goes on reading values after checks have been switched off for all.
    """
    kind: Any = Distribution
    begin, check = kind.__init__, kind._validate_sample

    def init(
        self: Any, batch_shape: Any = NOTHING, event_shape: Any = NOTHING, validate_args: bool | None = None
    ) -> None:
        asked = validate_args if kind._validate_args or not validate_args else None
        begin(self, batch_shape, event_shape, asked)

    def validate_sample(self: Any, value: Any) -> None:
        if kind._validate_args:
            check(self, value)

    kind.__init__, kind._validate_sample = init, validate_sample
    try:
        yield
    finally:
        kind.__init__, kind._validate_sample = begin, check


@contextmanager
def registered(registry: Any, factories: Iterable[tuple[type, Callable[[Any], Any]]]) -> Iterator[None]:
    """Adds to a registry of transforms, such as ``biject_to``, what it lacks, and takes that out again.

    Seen in torch 2.13.0 and 2.15.0: the registry is a dictionary by types of constraints, of which nothing public removes one.

    Args:
        registry: ``biject_to`` or ``transform_to``.
        factories: types of constraints, and what makes the transform of one.
    """
    known = registry._registry
    lacking = {kind: factory for kind, factory in factories if kind not in known}
    for kind, factory in lacking.items():
        registry.register(kind, factory)
    try:
        yield
    finally:
        for kind in lacking:
            known.pop(kind, None)


def gaussian(loc: Tensor, scale_tril: Tensor) -> dist.MultivariateNormal:
    """The same as ``dist.MultivariateNormal(loc, scale_tril=scale_tril)``, whose first use would have torch import SymPy.

    Seen in torch 2.13.0 and 2.15.0: a third of a second of every fresh process, to broadcast shapes that are equal here.

    Args:
        loc: shape ``batch + (n,)``.
        scale_tril: lower triangular with a positive diagonal, shape ``batch + (n, n)``.

    Returns:
        Of batch shape ``batch`` and event shape ``(n,)``.
    """
    if scale_tril.shape[:-1] != loc.shape:
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)
    made = dist.MultivariateNormal.__new__(dist.MultivariateNormal)
    made.loc, made.scale_tril, made._unbroadcasted_scale_tril = loc, scale_tril, scale_tril
    Distribution.__init__(made, loc.shape[:-1], loc.shape[-1:])
    return made


class Bijective(Transform):
    """The base of bijections from real vectors, which define ``forward`` and ``backward`` (torch 2.13.0 and 2.15.0).

    Torch asks for ``_call`` and ``_inverse``, and keeps how many values are remembered in ``_cache_size``.
    """

    bijective = True
    domain = constraints.real_vector

    def forward(self, x: Tensor) -> Tensor:
        """The value at a real vector."""
        raise NotImplementedError

    def backward(self, y: Tensor) -> Tensor:
        """The real vector of a value."""
        raise NotImplementedError

    def with_cache(self, cache_size: int = 1) -> Self:
        """The same, remembering as many values."""
        if cache_size == self._cache_size:
            return self
        other = copy.copy(self)
        Transform.__init__(other, cache_size)
        return other

    def _call(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.backward(y)
