"""Modes that ascents find: chains that were in none of some say so, and quantities tell whether modes are copies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
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


def test_a_far_mode_counts_by_what_it_does_to_a_mean_or_an_sd() -> None:
    draws = np.random.default_rng(0).normal(size=(500, 2))
    mass = 0.001  # at 200 sds it makes the sd six times as large, at 5 it does nothing
    far = SimpleNamespace(modes=(mode(0.0), mode(200.0)), evidence=np.log([1 - mass, mass]))
    near = SimpleNamespace(modes=(mode(0.0), mode(8.0)), evidence=np.log([1 - mass, mass]))
    assert abs(left_out(far, draws)["modes_left_out"] - mass) < 1e-9
    assert left_out(near, draws) == {}
    assert left_out(far, np.concatenate([draws, draws[:1] + 200])) == {}


def test_high_places_without_mass_are_no_modes_that_draws_lack() -> None:
    """Ascents ended where the density is high and narrow, and in none of them is what draws have found."""
    target = SimpleNamespace(values=lambda points: -0.5 * (points**2).sum(axis=1))  # its evidence is log 2 pi
    draws = np.random.default_rng(0).normal(size=(500, 2))
    high = (mode(40.0), mode(-40.0))
    assert left_out(SimpleNamespace(modes=high, evidence=np.full(2, -60.0), target=target), draws) == {}
    as_much = SimpleNamespace(modes=high, evidence=np.full(2, np.log(2 * np.pi)), target=target)
    assert abs(left_out(as_much, draws)["modes_left_out"] - 2 / 3) < 0.02


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


FAR = torch.tensor([-6.0, -6.2, 0.1, 0.0, 7.0, 6.8, 7.1])


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_modes_far_from_the_origin_are_found_where_the_prior_reaches(scale: float) -> None:
    def model(y: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 10.0 * scale))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Cauchy(m, 0.5 * scale), obs=y)

    grid = np.linspace(-40.0, 40.0, 100_001)
    log = -0.5 * (grid / 10) ** 2 - np.log1p(((FAR.numpy()[:, None] - grid) / 0.5) ** 2).sum(axis=0)
    share = np.exp(log - log.max()) / np.exp(log - log.max()).sum()
    mean = share @ grid
    sd = np.sqrt(share @ (grid - mean) ** 2)
    found = lvm.infer(lvm.Problem(model, FAR * scale), methods=["student"], seed=0, progress=False)
    draws = found.data["posterior"]["m"].values / scale
    assert found.verdict.trusted
    assert abs(draws.mean() - mean) < 0.1 * sd and abs(draws.std() - sd) < 0.1 * sd


def test_a_guide_of_ones_own_at_one_mode_of_several_is_doubtful() -> None:
    def guide(y: Tensor) -> None:
        place = pyro.param("place", torch.tensor(1.4))
        width = pyro.param("width", torch.tensor(0.1), constraint=dist.constraints.positive)
        pyro.sample("a", dist.Normal(place, width))

    found = lvm.fit(lvm.Problem(squared, Y), guide, seed=0, progress=False)
    assert found.khat < 0.7  # by its weights alone it is the posterior
    assert found.verdict.status == "doubtful" and "in which no draw is" in str(found.verdict)


def test_draws_of_several_modes_are_not_moved_as_one() -> None:
    random = np.random.default_rng(11)
    y = torch.as_tensor(np.concatenate([4.33 + 0.15 * random.normal(size=6), -1.39 + 0.15 * random.normal(size=5)]))

    def model(y: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=torch.float64), 8.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.StudentT(1.0, m, 0.3), obs=y)

    found = lvm.infer(lvm.Problem(model, y), methods=["mixture"], seed=0, progress=False)
    assert "moment matching" not in str(found.data["posterior"].attrs.get("correction", ""))


APART = [[-2.0, 1.3], [-1.0, 6.2], [5.2, 2.5]], [[0.4, 0.4], [0.7, 0.28], [0.2, 0.8]], [0.3, 0.4, 0.3]
INSIDE = [[3.8, -10.2], [-4.6, 3.6], [5.8, -10.8]], [[0.7, 0.7], [0.2, 0.3], [0.2, 0.2]], [0.1, 0.7, 0.2]


@pytest.mark.parametrize(("modes", "scale"), [(APART, 1.0), (APART, 0.02), (INSIDE, 1.0)])
def test_modes_are_told_apart_in_any_units_and_a_narrow_one_from_a_wide_one_around_it(modes: Any, scale: float) -> None:
    places, widths = (scale * torch.tensor(part, dtype=torch.float64) for part in modes[:2])
    shares = torch.tensor(modes[2], dtype=torch.float64)
    prior = 12.0 * scale

    def model() -> None:
        x = pyro.sample("x", dist.Normal(torch.zeros(2, dtype=torch.float64), prior).to_event(1))
        parts = shares.log() + dist.Normal(places, widths).log_prob(x).sum(-1)
        pyro.factor("data", parts.logsumexp(0) + (0.5 * (x / prior) ** 2).sum())

    found = lvm.infer(lvm.Problem(model), methods=["student"], seed=0, progress=False)
    draws = found.data["posterior"]["x"].values.reshape(-1, 2)
    mean = (shares[:, None] * places).sum(0).numpy()
    sd = ((shares[:, None] * (widths**2 + (places - places.new_tensor(mean)) ** 2)).sum(0) ** 0.5).numpy()
    assert found.verdict.trusted or modes is INSIDE
    assert (abs(draws.mean(0) - mean) < 0.1 * sd).all() and (abs(draws.std(0) / sd - 1) < 0.1).all()
