"""Annealing: what it must get right whatever its rungs and kernels are."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from pyrolvm._base.errors import FitError
from pyrolvm._methods.evidence.annealing import Path, Rung, backward, forward, move
from pyrolvm._methods.evidence.bridge import Gaussian, averaged, bridged
from pyrolvm._methods.evidence.pilot import pilot

LOG_MASS = 1.3


def quiet(_):
    return None


def skewed(points):
    """A density of mass exp(1.3): the log of a Gamma(3) variable in each of two directions."""
    values = (3 * points - np.exp(points) - math.log(2.0)).sum(axis=1) + LOG_MASS
    return values, 3 - np.exp(points)


def path():
    return Path(Gaussian(np.zeros(2), 2.0 * np.eye(2)), skewed)


def bad_rungs():
    """Few rungs, and moves that hardly mix: weights spread, but their mean stays right."""
    return [Rung(beta, np.eye(2), 0.4) for beta in (0.1, 0.4, 1.0)]


def posterior(count, random):
    return np.log(random.gamma(3.0, size=(count, 2)))


def test_a_move_leaves_its_distribution_alone():
    random = np.random.default_rng(0)
    before = posterior(20_000, random)
    cloud, accepted = move(path(), path()(before), Rung(1.0, np.eye(2), 0.9), random)
    assert 0.3 < accepted < 0.9
    after = np.exp(cloud.points)
    assert abs(after.mean() - 3.0) < 4 * math.sqrt(3.0 / 40_000)
    assert abs(after.var() - 3.0) < 0.15
    assert np.mean(cloud.points != before) == pytest.approx(accepted, abs=0.02)
    np.testing.assert_allclose(cloud.end, skewed(cloud.points)[0])


def test_the_mean_weight_is_right_however_badly_it_mixes():
    random = np.random.default_rng(1)
    start = path().base.sample(40_000, random)
    weights = np.exp(forward(path(), start, bad_rungs(), random, quiet) - LOG_MASS)
    assert weights.std() > 0.5
    assert abs(weights.mean() - 1) < 4 * weights.std() / 200


def test_the_mean_inverse_weight_of_the_way_back_is_right():
    random = np.random.default_rng(2)
    down = backward(path(), posterior(40_000, random), bad_rungs(), random, quiet)
    inverses = np.exp(LOG_MASS - down)
    assert abs(inverses.mean() - 1) < 4 * inverses.std() / 200


def test_both_ways_together_are_better_than_each():
    random = np.random.default_rng(3)
    up = forward(path(), path().base.sample(4000, random), bad_rungs(), random, quiet)
    down = backward(path(), posterior(4000, random), bad_rungs(), random, quiet)
    both = bridged(down[None], up)
    assert abs(both.value - LOG_MASS) < 4 * both.error
    assert both.error < np.exp(up - up.max()).std() / np.exp(up - up.max()).mean() / math.sqrt(4000)


def test_a_pilot_places_rungs_and_scales_moves():
    random = np.random.default_rng(4)
    plan = pilot(path(), path().base.sample(500, random), random)
    betas = [rung.beta for rung in plan.rungs]
    assert betas[-1] == 1.0 and all(a < b for a, b in pairwise(betas))
    assert plan.acceptance > 0.5
    more = pilot(path(), path().base.sample(500, random), random, 40)
    assert len(more.rungs) == 40
    given = pilot(path(), path().base.sample(500, random), random, [0.2, 1.0])
    assert [rung.beta for rung in given.rungs] == [0.2, 1.0]


def test_particles_outside_the_support_are_lost_not_fatal():
    """A base that is wider than the support: half of its draws have no density."""

    def half(points):
        inside = points[:, 0] > 0
        value = np.where(inside, -0.5 * points[:, 0] ** 2 - 0.5 * math.log(math.pi / 2), -np.inf)
        return value, np.where(inside[:, None], -points, 0.0)

    random = np.random.default_rng(5)
    way = Path(Gaussian(np.zeros(1), np.eye(1)), half)
    plan = pilot(way, way.base.sample(500, random), random)
    weights = np.exp(forward(way, way.base.sample(4000, random), plan.rungs, random, quiet))
    assert abs(weights.mean() - 1) < 4 * weights.std() / math.sqrt(4000)


def test_nowhere_finite_is_an_error():
    def nowhere(points):
        return np.full(len(points), -np.inf), np.zeros_like(points)

    random = np.random.default_rng(6)
    with pytest.raises(FitError, match="finite at none"):
        pilot(Path(Gaussian(np.zeros(1), np.eye(1)), nowhere), random.normal(size=(300, 1)), random)


def test_a_gaussian_is_its_own_density():
    random = np.random.default_rng(7)
    root = np.array([[2.0, 0.0], [1.0, 0.5]])
    gaussian = Gaussian(np.array([1.0, -1.0]), root)
    points = gaussian.sample(50_000, random)
    np.testing.assert_allclose(np.cov(points.T), root @ root.T, rtol=0.05)
    value, slope = gaussian(points[:3])
    step = 1e-6 * np.eye(2)
    for i in range(2):
        np.testing.assert_allclose((gaussian(points[:3] + step[i])[0] - value) / 1e-6, slope[:, i], atol=1e-4)
    again = Gaussian.of(points)
    np.testing.assert_allclose(again.root @ again.root.T, root @ root.T, rtol=0.05)


def test_a_bridge_finds_a_known_ratio_and_states_its_error():
    off, stated = [], []
    for seed in range(150):
        random = np.random.default_rng(seed)
        points = np.log(random.gamma(3.0, size=(4, 500, 2)))
        proposal = Gaussian.of(points[:, :250].reshape(-1, 2))
        kept, drawn = points[:, 250:].reshape(-1, 2), proposal.sample(1000, random)
        found = bridged((skewed(kept)[0] - proposal(kept)[0]).reshape(4, 250), skewed(drawn)[0] - proposal(drawn)[0])
        off.append(found.value - LOG_MASS)
        stated.append(found.error)
    assert 0.9 < np.mean(stated) / np.std(off) < 1.3
    assert abs(np.mean(off)) < 4 * np.std(off) / math.sqrt(150)


@pytest.mark.slow
def test_halves_that_change_places_state_the_error_of_their_mean():
    """In ten dimensions, where the posterior's part of both errors is nearly the same."""
    off, stated = [], []
    for seed in range(150):
        random = np.random.default_rng(seed)
        points = random.normal(size=(4, 500, 10))
        halves = points[:, :250], points[:, 250:]
        found = []
        for fitted, kept in (halves, halves[::-1]):
            proposal = Gaussian.of(fitted.reshape(-1, 10))
            drawn = proposal.sample(1000, random)
            up, down = (
                -0.5 * (part**2).sum(-1) - 5 * math.log(2 * math.pi) - proposal(part)[0]
                for part in (kept.reshape(-1, 10), drawn)
            )
            found.append(bridged(up.reshape(4, 250), down))
        both = averaged(*found)
        off.append(both.value)
        stated.append(both.error)
    assert 0.9 < np.sqrt(np.mean(np.square(stated))) / np.std(off) < 1.35
    assert np.mean(np.abs(off) < 2 * np.array(stated)) > 0.9


def test_dependent_draws_have_a_larger_error():
    random = np.random.default_rng(8)
    noise = random.normal(size=(4, 500))
    slow = np.zeros_like(noise)
    for t in range(1, 500):
        slow[:, t] = 0.95 * slow[:, t - 1] + math.sqrt(1 - 0.95**2) * noise[:, t]
    down = random.normal(size=2000) - 0.5
    assert bridged(slow, down).ess < 0.2 * bridged(noise, down).ess
    assert bridged(slow, down).error > 1.5 * bridged(noise, down).error
