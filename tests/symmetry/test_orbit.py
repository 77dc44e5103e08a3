"""Draws mapped to all copies alike, and brought to one."""

from __future__ import annotations

import numpy as np
import pytest

import pyrolvm as lvm
from pyrolvm._program.symmetry import find_symmetries
from pyrolvm._program.symmetry.action import closure, identity, sign_flip, swap
from pyrolvm._program.symmetry.orbit import Alignment, elements, lies_apart, scattered

COUNT = 2_000


@pytest.fixture
def block(models):
    """Four components of weight and rate."""
    (found,) = find_symmetries(lvm.Problem(models.rates, models.DATA)).blocks
    return found


def one_copy(rng, spread=0.05):
    return np.array([0.1, 0.2, 0.3, 0.4, 1.0, 2.0, 3.0, 4.0]) + spread * rng.normal(size=(COUNT, 8)) * np.repeat(
        [0.1, 1], 4
    )


def test_scattered_draws_cover_all_copies_equally_and_keep_what_they_have_in_common(block):
    rng = np.random.default_rng(1)
    draws = one_copy(rng)
    spread = scattered([block], draws, 0)
    assert np.allclose(np.sort(spread[:, 4:]), np.sort(draws[:, 4:]))
    label = Alignment.of([block], spread).labelled(spread)[1][0]
    shares = np.bincount(label, minlength=24) / COUNT
    assert abs(shares - 1 / 24).max() < 1 / COUNT


def test_draws_are_brought_to_the_same_copy_whichever_they_were_in(block):
    rng = np.random.default_rng(2)
    draws = one_copy(rng)
    images = scattered([block], draws, 5)
    to = Alignment.of([block], images)
    assert np.allclose(to(images), to(draws))
    assert np.allclose(to(images), draws)  # ascending, as they were


def test_draws_of_one_mode_that_is_its_own_image_do_not_lie_apart(block):
    rng = np.random.default_rng(3)
    assert lies_apart(block, one_copy(rng))
    assert lies_apart(block, scattered([block], one_copy(rng), 0))
    alike = np.array([0.25] * 4 + [2.0] * 4) + 0.05 * rng.normal(size=(COUNT, 8))
    assert not lies_apart(block, alike)


def test_large_groups_are_scattered_and_aligned_by_their_generators():
    from pyrolvm._program.symmetry.record import Block

    rng = np.random.default_rng(4)
    size = 8
    swaps = tuple(swap(size, np.array([i]), np.array([j])) for i in range(size) for j in range(i))
    block = Block("eight numbers", "numbers", 40320.0, swaps)
    assert elements(block) is None
    draws = np.arange(size) + 0.05 * rng.normal(size=(COUNT, size))
    spread = scattered([block], draws, 0)
    assert abs(spread.mean(axis=0) - 3.5).max() < 0.25
    assert np.allclose(Alignment.of([block], spread)(spread), draws)


def test_rotated_draws_are_turned_back(models):
    problem = lvm.Problem(models.factors, models.DATA)
    symmetries = find_symmetries(problem)
    rng = np.random.default_rng(5)
    point = rng.normal(size=symmetries.layout.size)
    draws = point + 0.02 * rng.normal(size=(COUNT, len(point)))
    spread = scattered(symmetries.blocks, draws, 0)
    assert lies_apart(symmetries.blocks[0], spread)
    back = Alignment.of(symmetries.blocks, spread)(spread)
    assert spread.std(axis=0).min() > 0.3 * np.abs(point).min()
    assert back.std(axis=0).max() < 0.03


def test_a_closure_has_every_product_once():
    flips = [sign_flip(3, np.array([k])) for k in range(3)]
    swaps = [swap(3, np.array([0]), np.array([1])), swap(3, np.array([1]), np.array([2]))]
    assert len(closure([*flips, *swaps], 100)) == 48
    assert closure([*flips, *swaps], 47) is None
    assert closure(flips, 8)[0].key == identity(3).key
