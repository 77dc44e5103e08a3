"""Integrals that are as fine as gradients and weights need them."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy
import sparse_models as models
import torch

import pyrolvm as lvm
from pyrolvm._base.quadrature import finest, rules
from pyrolvm._methods.sparse.blocks import find_blocks
from pyrolvm._methods.sparse.drawing import HEAVY
from pyrolvm._methods.sparse.fine import OFF, find_finely
from pyrolvm._methods.sparse.marginal import Marginal
from pyrolvm._methods.sparse.pool import HEAVY_VARIANCE, weigh_shared
from pyrolvm._methods.sparse.search import _uphill, find_gaussian, slopes_off
from pyrolvm._methods.sparse.split import Split
from pyrolvm._methods.sparse.ways import layers, parts_at
from pyrolvm._program.density import Joint
from pyrolvm.family.climb import ascend
from pyrolvm.family.student import Student


def marginal_of(problem: lvm.Problem) -> Marginal:
    joint = Joint(problem)
    blocks = find_blocks(problem, lambda point: parts_at(joint, point))
    return layers(joint, Split.of(joint, blocks), blocks)


def test_rules_are_taken_whose_gradients_are_those_of_their_sums() -> None:
    problem = models.answers_in_families(places=40).to(dtype=torch.float64)
    with problem.session(seed=0):
        marginal = marginal_of(problem)
        assert len(marginal.layers) == 2
        coarse, _ = find_gaussian(marginal, 0)
        assert slopes_off(marginal, coarse) > OFF
        fine, places = find_finely(marginal, 0)
        assert slopes_off(marginal, fine) <= OFF and len(places) == 1
        inner, outer = (len(layer.rule.nodes) for layer in marginal.layers)
        assert inner > outer == 3
        draws = fine.sample(200, 1)
        values = marginal.values(draws)
        assert np.isfinite(values).all()
        weights = scipy.special.softmax(values - fine.log_density(draws))
        assert 1 / np.sum(weights**2) > 100


def test_densities_are_those_of_points_and_not_of_the_way_to_them() -> None:
    """Few nodes, and thousands of blocks: where curvatures are taken before a mode is reached, values of one point differ by nats."""
    problem = models.counts(4_000).to(dtype=torch.float64)
    with problem.session(seed=0):
        marginal = marginal_of(problem)
        assert len(marginal.rule.nodes) == 3
        points = np.array([[0.3, -0.2], [0.31, -0.21], [0.2, -0.1]])
        found = []
        for centre in (None, [0.0, 0.0], [0.3, -0.2], [0.5, -0.6]):
            marginal.centre = None
            if centre is not None:
                marginal.settle(np.array(centre))
            found.append(marginal.values(points))
        assert np.ptp(found, axis=0).max() < 0.005


def test_ascents_end_where_values_are_rounding() -> None:
    class Rounded:
        size, taken = 3, 0

        def at(self, point: np.ndarray) -> tuple[float, np.ndarray]:
            self.taken += 1
            noise = 2e-5 * math.sin(1e9 * float(point.sum()))
            steep = np.array([1e4, 1e5, 3e5])
            return -3e6 - 0.5 * float(steep @ (point - 0.5) ** 2) + noise, -steep * (point - 0.5)

    density = Rounded()
    path = ascend(density, np.zeros(3), gain=1e-4)  # type: ignore[arg-type]
    assert density.taken < 40
    assert abs(path.points[-1] - 0.5).max() < 1e-3


def test_evidence_of_blocks_in_blocks_is_that_of_a_grid() -> None:
    random = np.random.default_rng(4)
    areas, families = 15, 4
    rates = 0.2 + 0.7 * random.normal(size=(areas, 1)) + 0.9 * random.normal(size=(areas, families))
    y = random.poisson(np.exp(rates)).astype(float)

    def model(y: torch.Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 2.0))
        with pyro.plate("areas", areas, dim=-2):
            area = pyro.sample("area", dist.Normal(0.0, 0.7))
            with pyro.plate("families", families, dim=-1):
                family = pyro.sample("family", dist.Normal(0.0, 0.9))
                pyro.sample("y", dist.Poisson(torch.exp(level + area + family)), obs=y)

    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    logs = np.log(weights / weights.sum())
    level = np.linspace(-1.5, 2.0, 141)
    given = level[:, None, None] + 0.7 * nodes[:, None] + 0.9 * nodes  # level, area, family
    inside = 0.0
    for each in y.T:
        rows = each[:, None, None, None] * given - np.exp(given) - scipy.special.gammaln(each + 1)[:, None, None, None]
        inside = inside + scipy.special.logsumexp(rows + logs, axis=-1)
    values = scipy.special.logsumexp(inside + logs, axis=-1).sum(0) + scipy.stats.norm(0, 2).logpdf(level)
    wanted = scipy.special.logsumexp(values) + math.log(level[1] - level[0])
    found = lvm.sparse(lvm.Problem(model, torch.as_tensor(y)), seed=0, progress=False)
    assert found.verdict.trusted
    assert abs(found.evidence.value - wanted) < 0.03


def test_blocks_whose_law_is_skew_are_drawn_as_they_are() -> None:
    """Groups that differ much, some of them with no event at all: few nodes give moments whose Gaussian has too thin a tail."""
    random = np.random.default_rng(1)
    groups, rows = 85, 680
    group, x = random.integers(0, groups, rows), random.normal(size=rows)
    level, effects = random.normal() - 1, 2.0 * random.normal(size=groups)
    y = random.poisson(np.exp(np.minimum(level + 0.5 * x + effects[group], 5.0))).astype(float)

    def model(group: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        a, b = pyro.sample("a", dist.Normal(0.0, 2.0)), pyro.sample("b", dist.Normal(0.0, 1.0))
        spread = pyro.sample("spread", dist.HalfNormal(1.0))
        with pyro.plate("groups", groups):
            effect = pyro.sample("effect", dist.Normal(0.0, spread))
        with pyro.plate("rows", rows):
            pyro.sample("y", dist.Poisson(torch.exp(a + b * x + effect[group])), obs=y)

    found = lvm.sparse(lvm.Problem(model, *map(torch.as_tensor, (group, x, y))), seed=0, progress=False)
    assert found.verdict.trusted
    assert found.data["integration"]["share"].min() > 0.9


def test_integrals_over_wide_skew_blocks_are_those_of_a_hundred_thousand_draws() -> None:
    """Thirty blocks of five unknowns each, of ten answers of yes or no: their Gaussians' tails are too short on one side."""
    random = np.random.default_rng(8)
    gaps = {name: 0.0 for name in ("few", "many", "finest")}
    for _ in range(30):
        x = random.normal(size=(10, 5)) * np.where(random.random(10) < 0.5, -1.0, 1.0)[:, None]

        def log_p(points: np.ndarray, x: np.ndarray = x) -> np.ndarray:
            return scipy.special.log_expit(points @ x.T).sum(-1) - 0.5 * (points**2).sum(-1)

        mode = scipy.optimize.minimize(lambda point: -log_p(point), np.zeros(5)).x
        slope = scipy.special.expit(x @ mode)
        root = np.linalg.cholesky(np.linalg.inv(np.eye(5) + (x.T * (slope * (1 - slope))) @ x))

        def integral(nodes: np.ndarray, log_weights: np.ndarray, log_p=log_p, mode=mode, root=root) -> float:
            return scipy.special.logsumexp(log_p(mode + nodes @ root.T) + 0.5 * (nodes**2).sum(1) + log_weights)

        noise = 1.5 * scipy.special.ndtri(scipy.stats.qmc.Sobol(5, rng=3).random(2**17))
        weights = 5 * math.log(1.5) + 0.5 * (noise**2).sum(1) * (1 / 1.5**2 - 1) - math.log(len(noise))
        wanted = integral(noise, weights)
        for name, rule in zip(gaps, (*rules(5)[-2:], *finest(5)[-1:]), strict=True):
            gaps[name] += integral(rule.nodes, rule.log_weights) - wanted
    assert abs(gaps["finest"]) < 0.05 and abs(gaps["many"]) < 0.4 and abs(gaps["few"]) < 0.9, gaps


def test_blocks_whose_weights_have_a_tail_are_drawn_again_from_a_wider_proposal() -> None:
    """Rates near zero and one, whose log odds have exponential tails; given what they share, their moments are known."""
    random, groups = np.random.default_rng(0), 30
    y = torch.as_tensor(random.binomial(4, random.beta(0.4, 0.4, groups)).astype(float))

    def model(y: torch.Tensor) -> None:
        a, b = pyro.sample("a", dist.LogNormal(0.0, 0.5)), pyro.sample("b", dist.LogNormal(0.0, 0.5))
        with pyro.plate("groups", groups):
            rate = pyro.sample("rate", dist.Beta(a, b))
            pyro.sample("y", dist.Binomial(4.0, rate), obs=y)

    found = lvm.sparse(lvm.Problem(model, y), seed=0, progress=False)
    assert found.verdict.trusted
    assert found.data["integration"].attrs["block_candidates"] == HEAVY.among(0).candidates
    draws = {name: found.data["posterior"][name].values[0] for name in ("a", "b", "rate")}
    odds = scipy.special.logit(draws["rate"])
    more, less = draws["a"][:, None] + y.numpy(), draws["b"][:, None] + 4 - y.numpy()
    mean = scipy.special.digamma(more) - scipy.special.digamma(less)
    variance = scipy.special.polygamma(1, more) + scipy.special.polygamma(1, less)
    sd = np.sqrt(variance.mean(0) + mean.var(0))
    assert np.all(np.abs(odds.mean(0) - mean.mean(0)) < 0.1 * sd)
    assert np.all(np.abs(odds.std(0) / sd - 1) < 0.08)


@pytest.mark.slow
def test_yes_or_no_answers_in_groups_of_groups_are_trusted() -> None:
    found = lvm.sparse(models.answers_in_families(), seed=0, progress=False)
    assert found.verdict.trusted
    assert found.verdict.figures["ess_importance"] > 1_000


def test_a_tail_on_one_side_gets_draws_of_its_own() -> None:
    """A scale that may be zero: its logarithm has an exponential tail, and k-hat stays high however wide an ellipsoid is."""

    def density(points: np.ndarray) -> tuple[np.ndarray, None]:
        scale = np.exp(points[:, 0])
        values = points[:, 0] - 0.5 * scale**2 - 0.5 * np.sum(points[:, 1:] ** 2, axis=1)
        return values - 2.0 * math.log(2 * math.pi) + 0.5 * math.log(2 / math.pi), None

    start = Student.one(np.array([0.0, 0.0, 0.0, 0.0, 0.0]), np.diag([0.5, 1.0, 1.0, 1.0, 1.0]))
    pool = weigh_shared(density, start, seed=0, enough=1_500)
    assert pool.figures.reliable and pool.figures.khat < 0.5 and len(pool.points) < 6_000
    scale = np.exp(pool.points[:, 0])
    assert abs(pool.weights @ scale - math.sqrt(2 / math.pi)) < 0.03
    assert abs(pool.weights @ (pool.points[:, 0] < -3.0) - (2 * scipy.stats.norm.cdf(math.exp(-3.0)) - 1)) < 0.008
    assert abs(pool.figures.evidence) < 0.03


def test_a_variance_is_looked_at_as_well_as_the_weights() -> None:
    """The logarithm of a quantity whose right tail is long: weights are even, and its variance is in draws that there are not."""

    def density(points: np.ndarray) -> tuple[np.ndarray, None]:
        x = points[:, 0]
        return -2.5 * np.logaddexp(0.0, x) - 0.5 * np.logaddexp(0.0, -4 * x) - 0.5 * points[:, 1] ** 2, None

    start = Student.one(np.array([-0.2, 0.0]), np.diag([0.5, 1.0]))
    plain = weigh_shared(density, start, seed=0, enough=300)
    seen = weigh_shared(density, start, seed=0, enough=300, quantities=lambda points: np.exp(points))
    assert plain.tails == -math.inf
    assert seen.tails <= HEAVY_VARIANCE or len(seen.points) > len(plain.points)
    grid = np.linspace(-30.0, 60.0, 400_001)
    mass = np.exp(density(np.stack([grid, 0 * grid], axis=1))[0])
    wanted = (mass * np.exp(2 * grid)).sum() / mass.sum()
    errors = [abs(pool.weights @ np.exp(2 * pool.points[:, 0]) / wanted - 1) for pool in (plain, seen)]
    assert errors[1] < errors[0]


def test_an_ascent_that_got_stuck_is_no_mode() -> None:
    def density(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.logaddexp(-0.5 * points[:, 0] ** 2, -0.5 * (points[:, 0] - 9.0) ** 2), np.zeros_like(points)

    assert _uphill(density, np.array([-6.0]), np.array([0.0]))
    assert not _uphill(density, np.array([9.0]), np.array([0.0]))


def test_a_density_without_a_finite_slope_to_start_from_is_an_error_in_words() -> None:
    problem = models.normals().to(dtype=torch.float64)
    with problem.session(seed=0):
        marginal = marginal_of(problem)
        marginal.groups = lambda shared, weights: (np.zeros((len(shared), 1)), np.full(shared.shape, np.nan))  # type: ignore[method-assign]
        with pytest.raises(lvm.FitError, match=r"finite at none of the places .* Fix: "):
            find_gaussian(marginal, 0, np.zeros(1))


@pytest.mark.parametrize(("data_seed", "seed"), [(0, 0), (1, 0), (1, 3)])
def test_rare_events_are_as_a_grid_says_where_few_draws_tell_how_finely_it_takes(data_seed: int, seed: int) -> None:
    # Where few groups have an event, what finer integrals add grows far from the draws that it is fitted to; and with these seeds the
    # Gaussian at the mode hardly reaches where three nodes are half a nat off, a tenth of the posterior.
    random = np.random.default_rng(data_seed)
    group = random.integers(0, 100, 3000)
    y = (random.random(3000) < 0.004).astype(float)

    def model(group: torch.Tensor, y: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
        spread = pyro.sample("spread", dist.HalfNormal(2.0))
        with pyro.plate("groups", 100):
            level = pyro.sample("level", dist.Normal(mean, spread))
        with pyro.plate("rows", 3000):
            pyro.sample("y", dist.Bernoulli(logits=level[group]), obs=y)

    problem = lvm.Problem(model, torch.as_tensor(group), torch.as_tensor(y))
    found = lvm.sparse(problem, seed=seed, progress=False)
    assert found.verdict.status == "trusted"
    seen, events = np.bincount(group, minlength=100), np.bincount(group, weights=y, minlength=100)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    means, spreads = np.linspace(-14, -3, 120), np.linspace(0.01, 8, 140)
    logits = means[:, None, None] + spreads[None, :, None] * nodes
    log_p = -0.5 * (means[:, None] / 3) ** 2 - 0.5 * (spreads / 2) ** 2
    kinds, counts = np.unique(np.stack([seen, events], axis=1), axis=0, return_counts=True)
    for (rows, ones), count in zip(kinds, counts, strict=True):
        each = ones * logits - rows * np.logaddexp(0.0, logits)
        log_p = log_p + count * scipy.special.logsumexp(each + np.log(weights / weights.sum()), axis=-1)
    mass = np.exp(log_p - scipy.special.logsumexp(log_p))
    for name, grid, share in (("mean", means, mass.sum(1)), ("spread", spreads, mass.sum(0))):
        centre = share @ grid
        sd = np.sqrt(share @ (grid - centre) ** 2)
        drawn = found.data["posterior"][name].values
        assert abs(drawn.mean() - centre) < 0.1 * sd
        assert abs(drawn.std() / sd - 1) < 0.1


def test_an_origin_without_a_density_asks_for_no_finer_rules() -> None:
    y = torch.as_tensor(np.random.default_rng(0).poisson(3.0, (30, 2)).astype(float))

    def model(y: torch.Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 2.0))
        pyro.factor("far", torch.where(level.abs() < 0.2, -math.inf, 0.0))
        with pyro.plate("groups", len(y), dim=-2):
            effect = pyro.sample("effect", dist.Normal(0.0, 0.3))
            with pyro.plate("two", 2, dim=-1):
                pyro.sample("y", dist.Poisson(torch.exp(level + effect)), obs=y)

    problem = lvm.Problem(model, y).to(dtype=torch.float64)
    with problem.session(seed=0):
        marginal = marginal_of(problem)
        assert not np.isfinite(marginal.values(np.zeros((1, 1))))
        find_finely(marginal, 0)
        assert len(marginal.rule.nodes) == 3


def test_sites_that_do_not_meet_are_blocks_of_their_own() -> None:
    """A rate and a share of each group: as one block of two they had fewer nodes each, and a mean was 0.13 sds off."""
    random, groups = np.random.default_rng(5), 40
    y = random.poisson(random.gamma(random.gamma(2.0, 1.0, groups), 0.7)).astype(float)
    count = random.integers(2, 12, groups).astype(float)
    z = random.binomial(count.astype(int), random.beta(0.5, 0.7, groups)).astype(float)

    def model(y: torch.Tensor, count: torch.Tensor, z: torch.Tensor) -> None:
        a, b = pyro.sample("a", dist.LogNormal(0.0, 1.0)), pyro.sample("b", dist.LogNormal(0.0, 1.0))
        shape = pyro.sample("shape", dist.LogNormal(0.0, 1.0))
        with pyro.plate("groups", groups):
            rate, share = pyro.sample("rate", dist.Gamma(shape, 1.0)), pyro.sample("share", dist.Beta(a, b))
            pyro.sample("y", dist.Poisson(rate), obs=y)
            pyro.sample("z", dist.Binomial(count, share), obs=z)

    problem = lvm.Problem(model, *map(torch.as_tensor, (y, count, z)))
    with problem.to(dtype=torch.float64).session(seed=0):
        assert marginal_of(problem.to(dtype=torch.float64)).shape == (2 * groups, 1)
    logs = np.linspace(-3.5, 5.0, 250)
    a, b = np.meshgrid(np.exp(logs), np.exp(logs), indexing="ij")
    log_p = -0.5 * logs[:, None] ** 2 - 0.5 * logs**2
    for n, k in zip(count, z, strict=True):
        log_p = log_p + scipy.special.betaln(a + k, b + n - k) - scipy.special.betaln(a, b)
    mass = scipy.special.softmax(log_p)
    mean = np.sum(mass * a)
    sd = np.sqrt(np.sum(mass * (a - mean) ** 2))
    found = lvm.sparse(problem, seed=0, progress=False)
    assert found.verdict.trusted
    assert abs(found.data["posterior"]["a"].values.mean() - mean) < 0.1 * sd
