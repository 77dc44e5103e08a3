"""Products that share a factor become one, and stay what they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyrolvm._capture import capture
from pyrolvm._capture.graph import operations

GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(4, 3, generator=GENERATOR, dtype=torch.float64)


def vectors(b: Tensor) -> Tensor:
    return torch.vmap(lambda row: X @ row)(b)


def rows(b: Tensor) -> Tensor:
    return torch.vmap(lambda row: row @ X.mT)(b)


def left(b: Tensor) -> Tensor:
    return torch.bmm(X.expand(5, 4, 3), b[:, :, None] * torch.ones(2, dtype=b.dtype))


def right(b: Tensor) -> Tensor:
    return torch.bmm(b[:, None, :] * torch.arange(2.0, dtype=b.dtype)[:, None], X.mT.expand(5, 3, 4))


@pytest.mark.parametrize("program", [vectors, rows, left, right], ids=lambda program: program.__name__)
def test_a_shared_factor_is_multiplied_once(program: Callable[[Tensor], Tensor]) -> None:
    b = torch.randn(5, 3, generator=GENERATOR, dtype=torch.float64)
    captured = capture(program, b)
    assert {name for name in operations(captured) if name.split(".")[0] in ("mm", "bmm")} == {"mm.default"}
    torch.testing.assert_close(captured(b), program(b))


def test_factors_of_their_own_stay_apart() -> None:
    b = torch.randn(5, 3, 3, generator=GENERATOR, dtype=torch.float64)
    captured = capture(lambda b: torch.bmm(b, b.mT), b)
    assert "bmm.default" in operations(captured)
    torch.testing.assert_close(captured(b), torch.bmm(b, b.mT))
