"""The stack of bits that symbols are pushed onto and popped from, in whole numbers: asymmetric numeral systems of ``constriction``.

A symbol of probability p that is pushed makes the stack longer by -log2 p bits; one that is popped is a draw of its distribution, and
makes it shorter by as much. Each undoes the other exactly, and so pops need bits that are there. The first of them, before anything
has been pushed, are words of a fixed generator; what was never reached of these is left out of the file.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyrolvm._base.errors import ArgumentError, DataError

__all__ = ["DryError", "Stack", "coder", "initial_words"]

Words = NDArray[np.uint32]

STATE_WORDS = 2
"""What the coder keeps apart from the words below it."""


class DryError(Exception):
    """A pop took almost all words that the stack began with."""


def coder() -> Any:
    """``constriction.stream``.

    Raises:
        ArgumentError: if it cannot be imported.
    """
    try:
        return import_module("constriction").stream
    except (ImportError, AttributeError) as error:
        raise ArgumentError(
            f"compression codes by the library constriction, which cannot be imported: {error}. "
            "Fix: pip install 'pyrolvm[compress]'."
        ) from error


def initial_words(count: int) -> Words:
    """The words that a stack begins with: the first of them are the same for any number; none is zero."""
    raw = np.random.PCG64(1).random_raw(count) >> np.uint64(32)
    return raw.astype(np.uint32) | np.uint32(1)


class Stack:
    """A stack of bits.

    Args:
        words: what is on it, the top last.
        floor: how few words may be left by a pop.

    Attributes:
        lowest: how few words there have been.
    """

    def __init__(self, words: Words, *, floor: int = -1) -> None:
        self._stream = coder()
        self._ans = self._stream.stack.AnsCoder(np.ascontiguousarray(words, dtype=np.uint32))
        model = self._stream.model
        self._coins, self._tables = model.Bernoulli(perfect=False), model.Categorical(perfect=False)
        self._floor, self.lowest = floor, len(words)

    @property
    def words(self) -> Words:
        """All of it, the top last."""
        return np.asarray(self._ans.get_compressed(), dtype=np.uint32)

    @property
    def bits(self) -> int:
        """How long it is."""
        return int(self._ans.num_valid_bits())

    def coins(self, p: NDArray[np.float64], symbols: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
        """Pops a 0 or 1 for each probability ``(m,)`` of 1; or pushes those given."""
        return self._move(self._coins, (p,), symbols)

    def tables(self, p: NDArray[np.float64], symbols: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
        """Pops a number for each row of probabilities ``(m, levels)``; or pushes those given."""
        if p.shape[1] < 2:  # nothing to say
            return np.zeros(len(p), dtype=np.int32)
        return self._move(self._tables, (p,), symbols)

    def gaussians(
        self, mean: NDArray[np.float64], sd: NDArray[np.float64], half: int, symbols: NDArray[np.int32] | None = None
    ) -> NDArray[np.int32]:
        """Pops a whole number from ``-half`` to ``half`` for each mean and sd ``(m,)``; or pushes those given."""
        return self._move(self._stream.model.QuantizedGaussian(-half, half), (mean, sd), symbols)

    def _move(
        self, family: Any, params: tuple[NDArray[np.float64], ...], symbols: NDArray[np.int32] | None
    ) -> NDArray[np.int32]:
        params = tuple(np.ascontiguousarray(one, dtype=np.float64) for one in params)
        if not all(np.isfinite(one).all() for one in params):
            raise DataError(
                "the fit gives rows distributions whose parameters are not finite, so that they have no code. "
                "Fix: look at the rows, or fit again with a lower learning_rate=."
            )
        if symbols is not None:
            self._ans.encode_reverse(np.ascontiguousarray(symbols, dtype=np.int32), family, *params)
            return symbols
        popped: NDArray[np.int32] = self._ans.decode(family, *params)
        self.lowest = min(self.lowest, self._ans.num_words())
        if self.lowest <= self._floor:
            raise DryError
        return popped
