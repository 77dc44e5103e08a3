"""Nested R-hat: whether groups of many short chains agree."""

from __future__ import annotations

import numpy as np
import pytest

from pyrolvm._diagnosis.chains import RHAT_DOUBTFUL, RHAT_FAILED, nested_rhat

GROUPS, EACH, DRAWS = 8, 16, 20


@pytest.fixture
def draws() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(GROUPS * EACH, DRAWS, 3))


def test_independent_draws_agree(draws):
    assert (nested_rhat(draws, GROUPS) < RHAT_DOUBTFUL).all()


def test_chains_that_forget_nothing_agree_if_groups_do(draws):
    still = np.broadcast_to(draws[:, :1], draws.shape) + 1e-3 * draws
    found = nested_rhat(still, GROUPS)
    # 16 independent places a group are 16 effective draws: the mean of a group is within a quarter of an sd.
    np.testing.assert_allclose(found, np.sqrt(1 + 1 / EACH), atol=0.06)


def test_a_group_that_is_elsewhere_is_found(draws):
    draws[:EACH] += 3.0
    assert (nested_rhat(draws, GROUPS) > RHAT_FAILED).all()


def test_a_group_that_is_wider_is_found(draws):
    draws[:EACH] *= 6.0
    assert (nested_rhat(draws, GROUPS) > RHAT_DOUBTFUL).all()


def test_units_do_not_matter(draws):
    np.testing.assert_allclose(nested_rhat(draws, GROUPS), nested_rhat(1e3 * draws + 7, GROUPS), rtol=1e-4)
