"""The random numbers of torch, NumPy and Python's ``random``: seeded for a block, kept, and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["folded", "random_state", "random_states", "restore_random_states"]


@contextmanager
def random_state(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seeds torch, NumPy and Python's ``random`` for a block, and gives all three their old state back."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    cuda = [device.index or 0] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        _seed(seed, bool(cuda))
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def folded(seed: int) -> int:
    """A seed for generators that take 32 bits: the same number up to there, and a hash of a larger one."""
    return seed if 0 <= seed < 2**32 else int(np.random.SeedSequence(abs(seed)).generate_state(1)[0]) >> 1


def _seed(seed: int, cuda: bool) -> None:
    """As :func:`pyro.set_rng_seed`, but for devices in use alone: torch keeps a traceback of each seeding of one that is not."""
    seed = folded(seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if cuda:
        torch.cuda.manual_seed_all(seed)


def random_states() -> dict[str, object]:
    """Where the random numbers of torch, NumPy and Python's ``random`` are."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if cuda else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Puts them back to where :func:`random_states` found them."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
