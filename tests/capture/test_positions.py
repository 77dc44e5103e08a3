"""Positions in arrays: taken apart without divisions where loops tell them, and within their bounds."""

from __future__ import annotations

import numpy as np
import pytest

from pyrolvm._capture.native.index import Index, fold, split, variables


def test_a_position_is_taken_apart_without_divisions_where_loops_tell_it() -> None:
    index, domain = variables((4, 1, 6))
    assert domain == (4, 6)
    assert split(fold(index, (4, 1, 6)), (4, 6)) == (index[0], index[2])
    assert [str(i) for i in split(fold(index, (4, 1, 6)), (24,))] == ["i0*6+i1"]


@pytest.mark.parametrize("shape", [(24,), (2, 12), (3, 8), (2, 3, 4), (4, 3, 2)])
def test_a_position_taken_apart_is_that_of_numpy(shape: tuple[int, ...]) -> None:
    index, _ = variables((4, 6))
    parts = split(fold(index, (4, 6)) * -1 + 23, shape)
    for i0 in range(4):
        for i1 in range(6):
            found = [eval(str(part).replace("/", "//"), {}, {"i0": i0, "i1": i1}) for part in parts]
            assert tuple(found) == tuple(map(int, np.unravel_index(23 - (i0 * 6 + i1), shape)))


def test_the_bounds_of_an_index_hold() -> None:
    index = Index.of("i0", 4) * 3 + Index.of("i1", 2) * -2 + 5
    assert index.bounds == (3, 14)
    assert (index.stride("i0"), index.stride("i1"), index.stride("i2")) == (3, -2, 0)
