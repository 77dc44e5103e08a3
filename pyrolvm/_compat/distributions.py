"""torch's distributions and the checks of their arguments and values. Checked with torch 2.13.0 and 2.15.0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributions import Distribution

__all__ = ["one_switch"]

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
