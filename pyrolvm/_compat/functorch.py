"""Private switches of ``torch.func``. All were checked with torch 2.13.0 and 2.15.0."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["is_lane", "quiet_fallbacks", "warns_of_fallbacks"]

_FUNCTORCH: Any = torch._C._functorch


def is_lane(tensor: Any) -> bool:
    """Whether a tensor stands for one lane of ``torch.func.vmap``. Seen in torch 2.13.0 and 2.15.0."""
    return isinstance(tensor, Tensor) and bool(_FUNCTORCH.is_batchedtensor(tensor))


def warns_of_fallbacks() -> bool:
    """Whether torch warns of operations that ``vmap`` runs lane by lane; it does not tell, so that one is run.

    Seen in torch 2.13.0 and 2.15.0.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.func.vmap(lambda x: torch.take(x, torch.zeros(1, dtype=torch.long)))(torch.zeros(2, 1))
    return bool(caught)


@contextmanager
def quiet_fallbacks() -> Iterator[None]:
    """Keeps torch from warning of operations that ``vmap`` runs lane by lane. Seen in torch 2.13.0 and 2.15.0.

    Threads of torch's own, such as that of its autograd, write such warnings straight to standard error, where Python's filters
    do not reach them.
    """
    warned = warns_of_fallbacks()
    _FUNCTORCH._set_vmap_fallback_warning_enabled(False)
    try:
        yield
    finally:
        _FUNCTORCH._set_vmap_fallback_warning_enabled(warned)
