"""Modes that ascents find: chains that were in none of some say so, and quantities tell whether modes are copies."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._methods.modes import left_out
from pyrolvm.family import Student

Y = torch.tensor([1.9, 2.2, 1.7, 2.4])


def mode(place: float) -> SimpleNamespace:
    """A standard Gaussian there, of two unknowns."""
    family = Student(np.ones(1), np.full((1, 2), place), np.eye(2)[None], np.full(1, np.inf))
    return SimpleNamespace(family=family)


def test_the_mass_of_modes_that_no_draw_is_near_to_is_counted() -> None:
    frame = SimpleNamespace(modes=(mode(0.0), mode(20.0), mode(-20.0)), evidence=np.log([0.6, 0.3, 0.1]))
    draws = np.random.default_rng(0).normal(size=(500, 2))
    assert left_out(None, draws) == {}
    assert abs(left_out(frame, draws)["modes_left_out"] - 0.4) < 1e-9
    assert abs(left_out(frame, np.concatenate([draws, draws + 20]))["modes_left_out"] - 0.1) < 1e-9
    assert left_out(frame, np.concatenate([draws, draws + 20, draws - 20])) == {}


def squared(y: Tensor) -> None:
    """A sign that data leave open and a prior nearly does."""
    a = pyro.sample("a", dist.Normal(0.2, 2.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a * a, 0.3), obs=y)


def test_chains_of_one_mode_of_two_are_doubtful() -> None:
    problem = lvm.Problem(squared, Y)
    chains = lvm.nuts(problem, chains=1, warmup=100, draws=100, init=None, seed=0, progress=False)
    assert "in which no draw is" in str(chains.verdict) and not chains.verdict.trusted


def test_modes_with_the_same_quantities_are_no_reason_to_doubt_a_fit() -> None:
    doubted = lvm.fit(lvm.Problem(squared, Y), "full_rank", seed=0, progress=False).verdict
    assert not doubted.trusted and "2 modes apart" in str(doubted)
    named = lvm.model(quantities={"square": lambda draw: draw["a"] ** 2})(squared)
    try:
        alike = lvm.fit(lvm.Problem(named, Y), "full_rank", seed=0, progress=False).verdict
    finally:
        del squared.__pyrolvm_model__
    assert alike.trusted and "have the same values" in str(alike)
