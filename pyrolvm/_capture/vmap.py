"""``torch.func.vmap`` over Pyro programs.

Pyro vectorises by broadcasting, which every model must be written for (``x @ beta`` is not). ``vmap`` needs nothing from
the model but that it neither reads values (``.item()``, ``if tau > 1``) nor fills tensors in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.overrides import TorchFunctionMode

from pyrolvm._base import runtime
from pyrolvm._compat.functorch import is_lane
from pyrolvm._compat.python import caller_module

__all__ = ["VmapFriendly", "vmapped"]

_DISTRIBUTIONS = ("torch.distributions", "pyro.distributions")


def _uniform(x: Tensor) -> Tensor:
    return torch.rand(x.shape, dtype=x.dtype, device=x.device)


def _one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        return torch.nn.functional.one_hot(index, num_classes)
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).to(index.dtype)


def _written(x: Tensor, value: Tensor, dim: int, index: int) -> Tensor:
    """``torch.select_scatter``, whose gradient through vmap is that of all lanes together in torch 2.13 to 2.15."""
    place = index % x.shape[dim]
    return torch.slice_scatter(x, value.unsqueeze(dim), dim, place, place + 1)


def _filled(x: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """``torch.index_fill``, whose gradient through vmap mixes the lanes' values."""
    places = (torch.arange(x.shape[dim], device=x.device).unsqueeze(-1) == index).any(-1)
    return torch.where(places.reshape(-1, *[1] * (x.dim() - 1 - dim % x.dim())), value, x)


# What vmap refuses: the function, the modules it is replaced in, and what takes its place.
_REPLACED: dict[object, tuple[tuple[str, ...], Callable[..., Tensor]]] = {
    torch.Tensor.normal_: (
        _DISTRIBUTIONS,
        lambda x, mean=0.0, std=1.0, **_: mean + std * torch.randn(x.shape, dtype=x.dtype, device=x.device),
    ),
    torch.Tensor.uniform_: (_DISTRIBUTIONS, lambda x, a=0.0, b=1.0, **_: a + (b - a) * _uniform(x)),
    torch.Tensor.exponential_: (_DISTRIBUTIONS, lambda x, lambd=1.0, **_: -torch.log1p(-_uniform(x)) / lambd),
    torch.Tensor.cauchy_: (
        _DISTRIBUTIONS,
        lambda x, median=0.0, sigma=1.0, **_: median + sigma * torch.tan(torch.pi * (_uniform(x) - 0.5)),
    ),
    # This one vmap runs, lane by lane and with a warning.
    torch.Tensor.clamp_: (
        ("torch.distributions",),
        lambda x, min=None, max=None: x.copy_(x.clone().clamp(min, max)),
    ),
    # Parameters that a program registers are the same in every lane, and leaves already where gradients are wanted.
    torch.Tensor.requires_grad_: (("pyro.params",), lambda x, *_, **__: x),
    # Of a count or a probability that is the same in every lane it makes too small an output, and warns.
    torch.binomial: (
        _DISTRIBUTIONS,
        lambda count, prob, **_: torch.binomial(count + torch.zeros_like(prob), prob + torch.zeros_like(count)),
    ),
    # `.data` goes past every mode.
    torch.Tensor.data.__get__: (("",), lambda x, *_: x.detach()),  # type: ignore[attr-defined]
    # Of these vmap has another gradient, without a word.
    torch.select_scatter: (("",), _written),
    torch.Tensor.select_scatter: (("",), _written),
    torch.index_fill: (("",), _filled),
    torch.Tensor.index_fill: (("",), _filled),
    torch.Tensor.index_fill_: (("",), lambda x, dim, index, value: x.copy_(_filled(x, dim, index, value))),
    # This one reads values, to check them.
    torch.nn.functional.one_hot: (("",), _one_hot),
}


class VmapFriendly(TorchFunctionMode):
    """Replaces, inside Pyro's and torch's distributions, the few operations that ``vmap`` refuses, and anywhere those it gets wrong.

    Distributions draw by ``torch.empty(shape).normal_()``; here each lane gets numbers of its own. Only calls from those
    libraries are replaced: a model that fills a tensor in place may use the tensor afterwards, and must find it filled.
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        replaced = _REPLACED.get(func)
        # The frame below is the caller's: this method is entered from C.
        if replaced is not None and caller_module().startswith(replaced[0]):
            return replaced[1](*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Items(TorchFunctionMode):
    """Has ``.item()`` of a lane give a tensor without a gradient, with which a program can reckon as with the number."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        if func is torch.Tensor.item and is_lane(args[0]):
            return args[0].reshape(()).detach()
        return func(*args, **(kwargs or {}))


_FRESH: frozenset[object] = frozenset(
    {torch.zeros, torch.ones, torch.empty, torch.full, torch.eye, torch.zeros_like, torch.ones_like, torch.empty_like}
    | {torch.full_like, torch.clone, torch.Tensor.new_zeros, torch.Tensor.new_ones, torch.Tensor.new_empty}
    | {torch.Tensor.new_full, torch.Tensor.clone}
)  # fmt: skip
"""What makes tensors that a program may write into."""


class _Apart(TorchFunctionMode):
    """Gives each lane tensors of its own where the program makes one, so that it can write what differs by lane into them."""

    def __init__(self, lane: Tensor) -> None:
        super().__init__()
        self.nothing = torch.zeros_like(lane.detach().reshape(-1)[:1]).reshape(())

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func not in _FRESH or is_lane(found):
            return found
        nothing = self.nothing.to(found.dtype)
        return found ^ nothing if found.dtype is torch.bool else found + nothing


def vmapped(function: Callable[..., Any], *, items: bool = False, apart: bool = False) -> Callable[..., Any]:
    """``function`` over a leading dimension of its arguments, with independent randomness in each lane.

    With ``items``, it may also take single numbers out of tensors by ``.item()``; whether it then still does the same must be
    checked, since a program can tell such a tensor from a number. With ``apart``, it may write into tensors that it makes.
    """

    def lane(*args: Any) -> object:
        parts = [part for one in args for part in (one.values() if isinstance(one, Mapping) else (one,))]
        first = next((part for part in parts if isinstance(part, Tensor)), None)
        with nullcontext() if first is None else _Apart(first):
            return function(*args)

    mapped = vmap(lane if apart else function, randomness="different")

    def call(*args: Any) -> object:
        # The innermost handler sees a call first, and VmapFriendly asks where it comes from.
        with _Items() if items else nullcontext(), VmapFriendly(), runtime.batchable_enumeration():
            return mapped(*args)

    return call
