"""Positions in arrays as linear combinations of loop variables, so that equal positions can be told equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

__all__ = ["ZERO", "Index", "fold", "split", "variables"]


@dataclass(frozen=True, order=True)
class Atom:
    """A C expression with integer values from 0 up to ``extent - 1``: a loop variable, or an entry of an index array."""

    text: str
    extent: int


@dataclass(frozen=True)
class Index:
    """A sum of integer multiples of atoms, and an integer."""

    terms: tuple[tuple[Atom, int], ...] = ()
    constant: int = 0

    @classmethod
    def of(cls, text: str, extent: int) -> Index:
        """The index that a C expression tells; zero where nothing else is possible."""
        return cls(((Atom(text, extent), 1),)) if extent > 1 else ZERO

    def __add__(self, other: Index | int) -> Index:
        other = Index((), other) if isinstance(other, int) else other
        terms = dict(self.terms)
        for atom, factor in other.terms:
            terms[atom] = terms.get(atom, 0) + factor
        return Index(tuple(sorted(t for t in terms.items() if t[1])), self.constant + other.constant)

    def __mul__(self, factor: int) -> Index:
        return Index(tuple((atom, f * factor) for atom, f in self.terms) if factor else (), self.constant * factor)

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest value."""
        reach = [factor * (atom.extent - 1) for atom, factor in self.terms]
        return self.constant + sum(r for r in reach if r < 0), self.constant + sum(r for r in reach if r > 0)

    def divided(self, by: int) -> tuple[Index, Index]:
        """Quotient and remainder, without a division where the terms tell them."""
        whole = Index(tuple((a, f // by) for a, f in self.terms if f % by == 0), self.constant // by)
        rest = Index(tuple((a, f) for a, f in self.terms if f % by), self.constant % by)
        low, high = rest.bounds
        if 0 <= low and high < by:
            return whole, rest
        extent = self.bounds[1] + 1
        text = f"({self})"
        return Index.of(f"({text}/{by})", -(-extent // by)), Index.of(f"({text}%{by})", min(by, extent))

    def stride(self, variable: str) -> int | None:
        """By how much it grows with a loop variable; None where it depends on the variable in another way."""
        if any(variable in atom.text and atom.text != variable for atom, _ in self.terms):
            return None
        return sum(factor for atom, factor in self.terms if atom.text == variable)

    def __str__(self) -> str:
        parts = [atom.text if factor == 1 else f"{atom.text}*{factor}" for atom, factor in self.terms]
        if self.constant or not parts:
            parts.append(str(self.constant))
        return "+".join(parts).replace("+-", "-")


ZERO = Index()


def fold(index: Sequence[Index], shape: Sequence[int]) -> Index:
    """The position in a contiguous array of that shape."""
    total = ZERO
    for position, size in zip(index, shape, strict=True):
        total = total * size + (position if size > 1 else ZERO)
    return total


def split(position: Index, shape: Sequence[int]) -> tuple[Index, ...]:
    """The index that :func:`fold` gives that position."""
    out = []
    for d, size in enumerate(shape):
        if size <= 1:
            out.append(ZERO)
            continue
        quotient, position = position.divided(max(prod(shape[d + 1 :]), 1))
        out.append(quotient)
    return tuple(out)


def variables(shape: Sequence[int]) -> tuple[tuple[Index, ...], tuple[int, ...]]:
    """A loop variable ``i0, i1, ...`` for each dimension longer than 1, and how far each of them runs."""
    loops = tuple(size for size in shape if size != 1)
    names = iter(range(len(loops)))
    return tuple(Index.of(f"i{next(names)}", size) if size != 1 else ZERO for size in shape), loops
