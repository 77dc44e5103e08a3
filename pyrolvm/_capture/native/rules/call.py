"""What a rule is told about the operation at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyrolvm._base.errors import CaptureError
from pyrolvm._capture.native.builder import Builder, kind_of
from pyrolvm._capture.native.index import Index

__all__ = ["Call", "Indices", "Rule", "axes", "axis", "replaced"]

Indices = tuple[Index, ...]


@dataclass(frozen=True)
class Call:
    """One operation in a graph: its name, where its statements go, and what torch says of the result."""

    name: str
    builder: Builder
    result: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The result's shape; of the first, where there are several."""
        first = self.result if isinstance(self.result, Tensor) else self.result[0]
        return tuple(first.shape)

    @property
    def kind(self) -> str:
        """The C type of the result's entries."""
        first = self.result if isinstance(self.result, Tensor) else self.result[0]
        return kind_of(first.dtype)

    def unsupported(self, why: str) -> CaptureError:
        """The error for a form of the operation that has no rule."""
        return CaptureError(f"engine 'c' has no rule for {self.name} {why}.")


Rule = Callable[..., Any]


def axis(dim: int, of: Sequence[int]) -> int:
    """A dimension, counted from the first."""
    return dim % max(len(of), 1)


def axes(dims: int | Sequence[int] | None, of: Sequence[int]) -> list[int]:
    """Dimensions, counted from the first; all where none are named."""
    if dims is None or (not isinstance(dims, int) and not dims):
        return list(range(len(of)))
    return [axis(d, of) for d in ([dims] if isinstance(dims, int) else dims)]


def replaced(index: Sequence[Index], dim: int, to: Index) -> list[Index]:
    """An index that is another along one dimension."""
    return [*index[:dim], to, *index[dim + 1 :]]
