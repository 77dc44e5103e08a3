"""The climb itself, on densities that are functions of points: evidence, modes, moves, and that it can be taken up again."""

from __future__ import annotations

import numpy as np
import pytest

from pyrolvm import FitError
from pyrolvm._methods.evidence.annealing import Path
from pyrolvm._methods.smc.evidence import estimate
from pyrolvm._methods.smc.judge import judge, mode_shares
from pyrolvm._methods.smc.modes import find_modes
from pyrolvm._methods.smc.moves import glide, jump
from pyrolvm._methods.smc.sampler import begin, climb
from pyrolvm._methods.smc.walk import Settings
from pyrolvm._methods.smc.weights import effective_share, next_beta, systematic


def gaussian(mean, sd):
    def density(points):
        z = (points - mean) / sd
        return -0.5 * np.sum(z**2, axis=1) - points.shape[1] * np.log(sd * np.sqrt(2 * np.pi)), -z / sd

    return density


def two(apart, share):
    left, right = gaussian(-apart, 1.0), gaussian(apart, 1.0)

    def density(points):
        (a, slope_a), (b, slope_b) = left(points), right(points)
        a, b = a + np.log(share), b + np.log(1 - share)
        value = np.logaddexp(a, b)
        part = np.exp(a - value)[:, None]
        return value, part * slope_a + (1 - part) * slope_b

    return density


def arrived(base_sd, end, size, seed, particles=2048, islands=4, settings=None, more=0.0):
    settings = settings or Settings()
    path = Path(gaussian(0.0, base_sd), lambda points: (end(points)[0] + more, end(points)[1]))
    start = base_sd * np.random.default_rng([seed, 1]).normal(size=(particles, size))
    return list(climb(path, begin(path, start, islands), settings, seed))[-1]


def overall(swarm):
    weights = np.exp(swarm.log_evidence - swarm.log_evidence.max())
    means = swarm.cloud.points.reshape(swarm.islands, -1, swarm.cloud.points.shape[1]).mean(axis=1)
    return weights @ means / weights.sum()


# --- weights ----------------------------------------------------------------------------------------------------------


def test_the_next_temperature_leaves_the_share_that_is_asked_for():
    ratio = np.random.default_rng(0).normal(0.0, 30.0, 4000)
    beta = next_beta(ratio, 0.0, 0.4)
    assert 0 < beta < 1 and effective_share(beta * ratio) == pytest.approx(0.4, abs=1e-3)
    assert next_beta(0.01 * ratio, 0.3, 0.4) == 1.0
    assert next_beta(1e9 * ratio, 0.0, 0.4) < 1e-9


def test_particles_without_a_density_are_lost_at_once_and_do_not_hold_up_the_others():
    ratio = np.concatenate([np.full(900, -np.inf), np.zeros(100)])
    assert next_beta(ratio, 0.0, 0.5) == 1.0
    chosen = systematic(ratio, np.random.default_rng(0))
    assert chosen.min() >= 900 and len(chosen) == 1000


def test_particles_go_on_as_often_as_their_weights_say_up_to_rounding():
    weights = np.random.default_rng(1).gamma(0.5, size=500)
    counts = np.bincount(systematic(np.log(weights), np.random.default_rng(2)), minlength=500)
    expected = 500 * weights / weights.sum()
    assert (np.abs(counts - expected) < 1).all()


# --- moves ------------------------------------------------------------------------------------------------------------


def spread(points):
    return points.mean(), points.std()


@pytest.mark.parametrize("kind", ["glide", "jump", "glide in a half"])
def test_moves_leave_the_distribution_alone(kind):
    random = np.random.default_rng(3)
    path = Path(gaussian(0.0, 1.0), gaussian(1.0, 0.5))
    beta = 0.4
    precision = (1 - beta) + beta / 0.25
    mean, sd = (beta / 0.25) / precision, precision**-0.5
    points = mean + sd * random.normal(size=(20_000, 3))
    inside = None
    if kind == "glide in a half":  # the sign of the gap in the first coordinate is kept
        points[:, 0] = mean + np.abs(points[:, 0] - mean)
        inside = lambda some: some[:, 0] >= mean  # noqa: E731
    expected = spread(points[:, 0])
    cloud, look = path(points), find_modes(random.normal(0.5, 0.9, size=(500, 3)))
    for _ in range(6):
        if kind == "jump":
            moved = jump(path, cloud, beta, look, random, inside)
        else:
            moved = glide(path, cloud, beta, 0.7 * np.eye(3), 0.9, random, inside)
        cloud = moved.cloud
    assert 0.2 < moved.acceptance < 1
    assert (cloud.points != points).any(axis=1).mean() > 0.8
    assert spread(cloud.points[:, 0]) == pytest.approx(expected, abs=0.015)
    assert spread(cloud.points[:, 1]) == pytest.approx((mean, sd), abs=0.015)


# --- modes ------------------------------------------------------------------------------------------------------------


def test_modes_that_lie_apart_are_told_apart_and_their_scales_are_those_inside():
    random = np.random.default_rng(4)
    centres = np.array([[0.0, 0.0], [12.0, 0.0], [0.0, -9.0]])
    points = centres[random.choice(3, size=3000, p=[0.6, 0.3, 0.1])] + random.normal(size=(3000, 2)) * [1.0, 0.5]
    found = find_modes(points)
    assert found.count == 3
    shares = np.bincount(found.labels(points)) / 3000
    assert sorted(shares) == pytest.approx([0.1, 0.3, 0.6], abs=0.03)
    assert np.diag(found.root @ found.root.T) == pytest.approx([1.0, 0.25], rel=0.1)
    assert np.std(found.residuals(points), axis=0) == pytest.approx([1.0, 1.0], abs=0.05)


def test_one_crooked_mode_is_one():
    random = np.random.default_rng(5)
    x = random.normal(0.0, 2.0, 2000)
    assert find_modes(np.stack([x, x**2 + random.normal(0.0, 0.5, 2000)], axis=1)).count == 1


# --- the climb --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5])
def test_evidence_and_moments_of_a_gaussian_are_right(size):
    swarm = arrived(1.0, gaussian(0.5, 0.1), size, seed=size, more=7.0)
    found = estimate(swarm)
    assert abs(found.value - 7.0) < 3 * found.error and found.error < 0.2
    assert np.abs(overall(swarm) - 0.5).max() < 0.02
    assert swarm.cloud.points.std(axis=0) == pytest.approx(np.full(size, 0.1), rel=0.1)
    assert judge(swarm, Settings(), found, mode_shares(swarm), np.full(4, 512)).trusted


@pytest.mark.slow
def test_particles_do_not_move_by_what_they_look_like_themselves():
    """Where they do, the evidence of this one is a nat too low at 2,048 particles."""
    found = estimate(arrived(1.0, gaussian(0.5, 0.1), 50, seed=0))
    assert abs(found.value) < 0.45


@pytest.mark.parametrize(("size", "apart"), [(1, 4.0), (2, 8.0), (10, 3.0)])
def test_modes_keep_their_masses(size, apart):
    swarm = arrived(10.0, two(apart, 0.3), size, seed=size)
    found = estimate(swarm)
    assert abs(found.value) < 3 * found.error
    right = np.mean(swarm.cloud.points[:, 0] > 0)
    assert right == pytest.approx(0.7, abs=0.05)
    sd = np.sqrt(1 + 0.84 * apart**2)
    assert np.abs(overall(swarm) - 0.4 * apart).max() < 0.1 * sd
    assert swarm.stages[-1].modes == 2
    assert judge(swarm, Settings(), found, mode_shares(swarm), np.full(4, 512)).trusted


@pytest.mark.slow
def test_the_stated_error_is_that_of_many_runs():
    found = [estimate(arrived(1.0, gaussian(0.5, 0.05), 3, seed, particles=400)) for seed in range(24)]
    made = np.sqrt(np.mean([one.value**2 for one in found]))
    stated = np.mean([one.error for one in found])
    assert 0.5 < made / stated < 1.4


def test_a_climb_that_is_taken_up_again_ends_where_it_would_have():
    path = Path(gaussian(0.0, 1.0), gaussian(0.5, 0.1))
    start = begin(path, np.random.default_rng(0).normal(size=(400, 4)), 4)
    whole = list(climb(path, start, Settings(), 9))
    rest = list(climb(path, whole[2], Settings(), 9))
    assert len(whole) > 4 and len(rest) == len(whole) - 3
    assert np.array_equal(whole[-1].cloud.points, rest[-1].cloud.points)
    assert np.array_equal(whole[-1].log_evidence, rest[-1].log_evidence)


def test_a_density_that_is_nowhere_finite_is_refused():
    path = Path(gaussian(0.0, 1.0), lambda points: (np.full(len(points), -np.inf), np.zeros_like(points)))
    with pytest.raises(FitError, match=r"0 of 400 draws.*Fix"):
        begin(path, np.zeros((400, 2)), 4)


# --- the verdict ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_islands_that_lost_a_mode_are_doubtful():
    """Modes too narrow for jumps, far apart, in many dimensions, and few particles."""
    settings = Settings()
    statuses = []
    for seed in range(2):
        swarm = arrived(10.0, two(6.0, 0.1), 25, seed, particles=240, settings=settings)
        shares = mode_shares(swarm)
        verdict = judge(swarm, settings, estimate(swarm), shares, np.full(4, 60))
        statuses.append(verdict.status)
        share = np.mean(swarm.cloud.points[:, 0] < 0)
        assert verdict.status != "trusted" or abs(share - 0.1) < 0.05
    assert "doubtful" in statuses


def test_moves_that_do_not_forget_are_doubtful():
    settings = Settings(most_moves=2)
    ridge = np.array([1.0, 1e-4])

    def bent(points):  # a crescent that no matrix straightens
        x, y = points.T
        gap = (y - 3 * x**2) / 0.005
        value = -0.5 * x**2 - 0.5 * gap**2 - np.log(2 * np.pi * 0.005)
        return value, np.stack([-x + gap * 6 * x / 0.005, -gap / 0.005], axis=1) * np.sign(ridge)

    swarm = arrived(6.0, bent, 2, seed=1, settings=settings, particles=400)
    verdict = judge(swarm, settings, estimate(swarm), mode_shares(swarm), np.full(4, 100))
    assert verdict.status == "doubtful"
