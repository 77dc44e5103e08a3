"""Log weights that are the same for many draws, as those of discrete latents are, have a k-hat."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyrolvm._base.importance import smooth


@pytest.mark.parametrize("tied", range(8, 14))
def test_a_tail_that_begins_with_ties_is_fitted_without_dividing_by_zero(tied: int) -> None:
    below, above = np.linspace(-3, -1, 159), np.linspace(0.1, 2, 40 - tied)
    khat, smoothed = smooth(
        np.concatenate([below, np.zeros(1 + tied), above])
    )  # of 200 draws the largest 40 are the tail
    assert math.isfinite(khat) and np.isfinite(smoothed).all()
