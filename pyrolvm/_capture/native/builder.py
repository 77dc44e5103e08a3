"""From values to statements: what a program computes, and by which loops.

A value is a function from an index to a C expression. Views only rearrange the index. Everything else is a statement
that fills an array, of those dimensions only along which it varies: what is the same for all rows is computed once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._capture.native.index import ZERO, Index, fold, split, variables

__all__ = ["KINDS", "Array", "At", "Builder", "Statement", "Value", "kind_of", "number", "view"]

At = Callable[[tuple[Index, ...]], str]

# All real numbers are held in double precision and all whole ones in 64 bits, whatever torch holds them in; but for what is given in
# single precision and read where it lies.
KINDS = {"d": "double", "l": "integer", "b": "boolean", "f": "float"}

LARGE = 32_768
"""Numbers from which on data in single precision stay so, and are widened where they are read: more of them than a processor's nearest
caches hold take as long to fetch as to compute with."""

_TYPES = {"d": torch.float64, "l": torch.int64, "b": torch.bool, "f": torch.float32}
_TOKEN = re.compile(r"@(\d+)@")
_VARIABLE = re.compile(r"\bi\d+\b")


def kind_of(dtype: torch.dtype) -> str:
    """The C type of a tensor's entries: ``"d"``, ``"l"`` or ``"b"``, keys of :data:`KINDS`."""
    return "d" if dtype.is_floating_point else "b" if dtype == torch.bool else "l"


def number(value: Any) -> str:
    """A number in C, to the last bit."""
    if isinstance(value, float):
        if np.isfinite(value):
            return f"({value.hex()})" if value < 0 else value.hex()
        return "NAN" if np.isnan(value) else "INFINITY" if value > 0 else "(-INFINITY)"
    return f"({int(value)})" if value < 0 else str(int(value))


@dataclass(frozen=True)
class Value:
    """A tensor as a function from an index, one entry for each dimension, to a C expression of its entry there."""

    shape: tuple[int, ...]
    kind: str
    at: At


def view(value: Value, shape: Sequence[int], source: Callable[[tuple[Index, ...]], Sequence[Index]]) -> Value:
    """The value whose entry at an index is that of ``value`` at ``source(index)``."""
    return Value(tuple(shape), value.kind, lambda index: value.at(tuple(source(index))))


@dataclass(eq=False)
class Array:
    """A contiguous piece of memory, or a single number in a variable.

    Attributes:
        name: in C.
        kind: the type of its entries.
        size: how many they are.
        source: where it is if the program does not make it: its data, or an argument.
        local: whether one statement alone fills it, each entry by itself.
    """

    name: str
    kind: str
    size: int
    source: str = ""
    local: bool = True

    @property
    def scalar(self) -> bool:
        """Whether it is a variable."""
        return self.size == 1 and self.local


@dataclass(eq=False)
class Statement:
    """Loops, innermost last, around the computation of one array.

    Attributes:
        domain: how far each loop runs.
        target: the array that is filled.
        position: where an entry is written.
        text: the expression of an entry, or of a term of it; for ``code``, all that is to be run.
        reads: tokens of the entries that ``text`` and ``position`` contain.
        reduction: the operator that terms are joined by, a key of ``REDUCTIONS``, and the value of no terms.
    """

    domain: tuple[int, ...]
    target: Array
    position: Index
    text: str
    reads: frozenset[int]
    reduction: tuple[str, str] | None = None
    code: bool = False


@dataclass
class Builder:
    """Collects the statements of a program, each after those that it reads from."""

    statements: list[Statement] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    given: list[np.ndarray] = field(default_factory=list)
    tokens: list[tuple[Array, Index]] = field(default_factory=list)
    writers: dict[Array, Statement] = field(default_factory=dict)
    _interned: dict[tuple[Array, Index], int] = field(default_factory=dict)
    _reads: set[int] = field(default_factory=set)

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, array: Array, position: Index) -> str:
        """A placeholder for an entry of an array, which the printer fills in."""
        key = (array, position)
        if key not in self._interned:
            self._interned[key] = len(self.tokens)
            self.tokens.append(key)
        self._reads.add(self._interned[key])
        return f"@{self._interned[key]}@"

    def recorded(self, run: Callable[[], object]) -> tuple[Any, frozenset[int]]:
        """What a function returns, and the entries that it read."""
        before, self._reads = self._reads, set()
        try:
            return run(), frozenset(self._reads)
        finally:
            self._reads = before

    def value(self, array: Array, shape: Sequence[int]) -> Value:
        """The tensor in an array, given or yet to be filled."""
        return Value(tuple(shape), array.kind, lambda index: self.read(array, fold(index, shape)))

    def given_value(self, array: Array, shape: Sequence[int]) -> Value:
        """The tensor in an array that is given, in double precision."""
        if array.kind != "f":
            return self.value(array, shape)
        return Value(tuple(shape), "d", lambda index: f"((double){self.read(array, fold(index, shape))})")

    def constant(self, tensor: Tensor) -> Value:
        """A tensor that is known: a number in the program's text if all entries are equal, else part of its data."""
        kind = kind_of(tensor.dtype)
        while any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
            dim = next(d for d in range(tensor.ndim) if tensor.stride(d) == 0 and tensor.shape[d] > 1)
            return self._repeated(self.constant(tensor.narrow(dim, 0, 1)), tuple(tensor.shape), dim)
        held = "f" if tensor.dtype == torch.float32 and tensor.numel() >= LARGE else kind
        values = tensor.detach().cpu().to(_TYPES[held]).numpy()
        first = values.flat[0].item() if values.size else 0
        if values.size == 0 or bool(np.all(values == first)) or (values.size == 1):
            text = number(first)
            return Value(tuple(tensor.shape), kind, lambda _: text)
        array = Array(f"c{len(self.given)}", held, values.size, f"data[{len(self.given)}]", local=False)
        self.given.append(np.ascontiguousarray(values))
        return self.given_value(array, tensor.shape)

    @staticmethod
    def _repeated(value: Value, shape: tuple[int, ...], dim: int) -> Value:
        return view(value, shape, lambda index: (*index[:dim], ZERO, *index[dim + 1 :]))

    def least(self, value: Value) -> float:
        """The least entry of a tensor that is known or rearranges a known one; minus infinity for any other."""
        text, reads = self.recorded(lambda: value.at(variables(value.shape)[0]))
        if text.isdigit():
            return int(text)
        if len(reads) == 1 and text == f"@{next(iter(reads))}@":
            array, _ = self.tokens[next(iter(reads))]
            if array.name.startswith("c"):
                return float(self.given[int(array.name[1:])].min())
        return -np.inf

    # --- computing ----------------------------------------------------------------------------------------------------

    def new(self, kind: str, size: int, *, local: bool = True) -> Array:
        """An array to be filled."""
        self.arrays.append(Array(f"v{len(self.arrays)}", kind, size, local=local))
        return self.arrays[-1]

    def map(self, kind: str, shape: Sequence[int], at: At) -> Value:
        """The tensor whose entries are ``at(index)``, computed once; of a tensor without entries nothing is."""
        shape = tuple(shape)
        if 0 in shape:
            return Value(shape, kind, lambda _: "0")
        varies = self._varying(shape, at)
        small = tuple(size if vary else 1 for size, vary in zip(shape, varies, strict=True))
        array = self.new(kind, prod(small))
        self.write(array, small, at, lambda index: fold(index, small))
        stored = self.value(array, small)
        return view(stored, shape, lambda index: _masked(index, varies))

    def write(self, array: Array, shape: Sequence[int], at: At, position: Callable[[tuple[Index, ...]], Index]) -> None:
        """Fills part of an array: ``array[position(index)] = at(index)`` for each index."""
        if 0 in shape:
            return
        index, domain = variables(shape)
        (text, place), reads = self.recorded(lambda: (at(index), position(index)))
        self._add(Statement(domain, array, place, text, reads))

    def reduce(
        self,
        kind: str,
        shape: Sequence[int],
        dims: Sequence[int],
        at: At,
        operator: str,
        start: str,
        *,
        order: Any = None,
    ) -> Value:
        """Entries ``at(index)`` of a tensor of that shape, joined over ``dims``, which stay as dimensions of length 1.

        Args:
            kind: the type of the result.
            shape: before reducing.
            dims: which dimensions to reduce.
            at: the entries.
            operator: a key of ``REDUCTIONS``.
            start: the result of joining nothing.
            order: the dimensions from the outermost loop to the innermost; as they are unless given.
        """
        shape = tuple(shape)
        final = tuple(1 if d in dims else size for d, size in enumerate(shape))
        if 0 in shape:  # the entry of no terms may not even be computed: it might not be finite
            return Value(final, kind, lambda _: start)
        varies = self._varying(shape, at)
        times = prod(size for d, size in enumerate(shape) if d in dims and not varies[d])
        small = tuple(size if vary else 1 for size, vary in zip(shape, varies, strict=True))
        kept = tuple(1 if d in dims else size for d, size in enumerate(small))
        if prod(small[d] for d in dims) == 1:
            one = self.map(kind, kept, lambda index: _joined(at(index), operator, times))
            return view(one, final, lambda i: _masked(i, varies))
        order = tuple(order or range(len(shape)))
        names, domain = variables([small[d] for d in order])
        index = tuple(names[order.index(d)] for d in range(len(shape)))
        text, reads = self.recorded(lambda: at(index))
        text = _joined(text, operator, times)
        array = self.new(kind, prod(kept), local=prod(kept) == 1)
        place = fold([ZERO if d in dims else i for d, i in enumerate(index)], kept)
        self._add(Statement(domain, array, place, text, reads, (operator, start)))
        return view(self.value(array, kept), final, lambda index: _masked(index, varies))

    def code(self, array: Array, lines: Callable[[], str]) -> None:
        """Fills an array by statements in C; ``lines`` may read values and writes to the array's name."""
        text, reads = self.recorded(lines)
        array.local = False
        self._add(Statement((), array, ZERO, text, reads, code=True))

    def stored(self, value: Value) -> tuple[Array, Value]:
        """A tensor of the same entries in an array of its own, in full."""
        array = self.new(value.kind, prod(value.shape), local=False)
        self.write(array, value.shape, value.at, lambda index: fold(index, value.shape))
        return array, self.value(array, value.shape)

    def _add(self, statement: Statement) -> None:
        self.statements.append(statement)
        self.writers[statement.target] = statement

    def _varying(self, shape: tuple[int, ...], at: At) -> list[bool]:
        """Along which dimensions a tensor varies, by the variables that its entries' expression mentions."""
        index, _ = variables(shape)
        text, reads = self.recorded(lambda: at(index))
        mentioned = set(_VARIABLE.findall(" ".join([text, *(str(self.tokens[r][1]) for r in reads)])))
        return [str(i) in mentioned for i in index]


def _joined(text: str, operator: str, times: int) -> str:
    """A term joined with itself as often as it comes."""
    if times == 1 or operator not in ("+", "*"):
        return text
    return f"{times}*({text})" if operator == "+" else f"pow({text}, {times})"


def _masked(index: Sequence[Index], keep: Sequence[bool]) -> list[Index]:
    return [i if k else ZERO for i, k in zip(index, keep, strict=True)]


def reshaped(value: Value, shape: Sequence[int]) -> Value:
    """The same entries in the same order in another shape."""
    return view(value, shape, lambda index: split(fold(index, shape), value.shape))
