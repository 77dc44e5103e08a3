"""Runs a function of one draw for many draws: all at once where ``vmap`` can, one by one where it cannot."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pyrolvm.capture import capture
from pyrolvm.capture.vmap import vmapped
from pyrolvm.errors import CaptureError

__all__ = ["map_draws", "repeat"]

Tree = dict[str, Tensor]

CAPTURED = 4
"""Chunks from which on recording the function once is cheaper than running its handlers for each."""


def map_draws(
    function: Callable[[Tree], Tree], draws: Mapping[str, Tensor], *, chunk: int | None = None, inside: int = 0
) -> Tree:
    """Applies ``function``, of one draw, to every draw.

    Args:
        function: maps a dictionary of tensors to another; may be random.
        draws: tensors of shape ``(n, ...)``.
        chunk: how many draws to take at once; ``None`` chooses by the size of the first result, so that memory stays
            bounded.
        inside: how many numbers ``function`` computes for a draw on its way, if more than it is given or returns.

    Returns:
        The results, each of shape ``(n, ...)``.
    """
    count = len(next(iter(draws.values())))
    first = function({name: value[0] for name, value in draws.items()})
    size = sum(value.numel() for value in first.values()) + sum(value[0].numel() for value in draws.values())
    chunk = chunk or max(1, min(count, 20_000_000 // max(20 * size, 20 * inside, 1)))
    if _agrees(function, draws, first):
        run = _run(vmapped(function), draws, chunk)
        if chunk == count:
            return run(dict(draws))
        # Written into place, and not kept until the end: small results that stay between large ones come and go tear holes
        # into the heap, which then grows by a large one for each.
        found = {name: value.new_empty(count, *value.shape) for name, value in first.items()}
        for start in range(0, count, chunk):
            part = run({name: value[start : start + chunk] for name, value in draws.items()})
            for name, value in found.items():
                value[start : start + chunk] = part[name]
        return found
    rows = [function({k: v[i] for k, v in draws.items()}) for i in range(count)]
    return {name: torch.stack([row[name] for row in rows]) for name in first}


def repeat(
    function: Callable[[], Tree], count: int, *, like: Tensor, chunk: int | None = None, inside: int = 0
) -> Tree:
    """Runs a random ``function`` of nothing ``count`` times; ``like`` gives device and dtype, the rest is as for :func:`map_draws`."""
    lanes = torch.zeros(count, dtype=like.dtype, device=like.device)
    return map_draws(lambda _: function(), {"lane": lanes}, chunk=chunk, inside=inside)


def _run(mapped: Callable[[Tree], Tree], draws: Mapping[str, Tensor], chunk: int) -> Callable[[Tree], Tree]:
    """The function of one chunk: as a graph, recorded once, where there are several."""
    names = list(draws)
    if len(draws[names[0]]) < CAPTURED * chunk:
        return mapped
    try:
        graph = capture(
            lambda *values: mapped(dict(zip(names, values, strict=True))), *(v[:chunk] for v in draws.values())
        )
    except CaptureError:
        return mapped

    def run(part: Tree) -> Tree:
        whole = len(part[names[0]]) == chunk
        result: Tree = graph(*part.values()) if whole else mapped(part)
        return result

    return run


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
