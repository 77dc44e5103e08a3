"""Runs a function of one draw for many draws, by ``torch.func.vmap`` where it can and by a loop where it cannot.

Pyro vectorises by broadcasting, which every model must be written for (``x @ beta`` is not). ``vmap`` needs nothing from
the model but that it neither reads values (``.item()``, ``if tau > 1``) nor fills tensors in place.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.overrides import TorchFunctionMode

from pyrolvm import runtime

__all__ = ["VmapFriendly", "map_draws", "repeat", "vmapped"]

Tree = dict[str, Tensor]

_DISTRIBUTIONS = ("torch.distributions", "pyro.distributions")


def _uniform(x: Tensor) -> Tensor:
    return torch.rand(x.shape, dtype=x.dtype, device=x.device)


# What vmap refuses: the function, the modules it is replaced in, and what takes its place.
_REPLACED: dict[Any, tuple[tuple[str, ...], Callable[..., Tensor]]] = {
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
        lambda x, min=None, max=None: x.copy_(x.clamp(min, max)),
    ),
    # Pyro reads shapes off `.data`.
    torch.Tensor.data.__get__: (("pyro.",), lambda x, *_: x.detach()),  # type: ignore[attr-defined]
}


class VmapFriendly(TorchFunctionMode):
    """Replaces, inside Pyro's and torch's distributions, the few operations that ``vmap`` refuses.

    Distributions draw by ``torch.empty(shape).normal_()``; here each lane gets numbers of its own. Only calls from those
    libraries are replaced: a model that fills a tensor in place may use the tensor afterwards, and must find it filled.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replaced = _REPLACED.get(func)
        # The frame below is the caller's: this method is entered from C.
        if replaced is not None and sys._getframe(1).f_globals.get("__name__", "").startswith(replaced[0]):
            return replaced[1](*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def vmapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` over a leading dimension of its arguments, with independent randomness in each lane."""
    mapped = vmap(function, randomness="different")

    def call(*args: Any) -> Any:
        with VmapFriendly(), runtime.batchable_enumeration():
            return mapped(*args)

    return call


def map_draws(function: Callable[[Tree], Tree], draws: Mapping[str, Tensor], *, chunk: int | None = None) -> Tree:
    """Applies ``function``, of one draw, to every draw.

    Args:
        function: maps a dictionary of tensors to another; may be random.
        draws: tensors of shape ``(n, ...)``.
        chunk: how many draws to take at once; ``None`` chooses by the size of the first result, so that memory stays
            bounded.

    Returns:
        The results, each of shape ``(n, ...)``.
    """
    count = len(next(iter(draws.values())))
    first = function({name: value[0] for name, value in draws.items()})
    size = sum(value.numel() for value in first.values()) + sum(value[0].numel() for value in draws.values())
    chunk = chunk or max(1, min(count, 20_000_000 // max(20 * size, 1)))
    if _agrees(function, draws, first):
        mapped = vmapped(function)
        parts = [mapped({k: v[i : i + chunk] for k, v in draws.items()}) for i in range(0, count, chunk)]
        return {name: torch.cat([part[name] for part in parts]) for name in first}
    rows = [function({k: v[i] for k, v in draws.items()}) for i in range(count)]
    return {name: torch.stack([row[name] for row in rows]) for name in first}


def repeat(function: Callable[[], Tree], count: int, *, like: Tensor, chunk: int | None = None) -> Tree:
    """Runs a random ``function`` of nothing ``count`` times; ``like`` gives device and dtype."""
    lanes = torch.zeros(count, dtype=like.dtype, device=like.device)
    return map_draws(lambda _: function(), {"lane": lanes}, chunk=chunk)


def _agrees(function: Callable[[Tree], Tree], draws: Mapping[str, Tensor], first: Tree) -> bool:
    """Whether ``vmap`` runs the function at all, and gives results of the same shapes as one plain run."""
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=_devices(draws)):
            warnings.simplefilter("ignore")
            two = vmapped(function)({name: value[:1].expand(2, *value.shape[1:]) for name, value in draws.items()})
    except Exception:  # whatever vmap cannot do: the loop can, or raises the real error
        return False
    return two.keys() == first.keys() and all(two[name].shape[1:] == value.shape for name, value in first.items())


def _devices(draws: Mapping[str, Tensor]) -> list[int]:
    return sorted({value.device.index or 0 for value in draws.values() if value.is_cuda})
