"""Posteriors whose blocks are integrated out, against formulas, grids and the joint density itself."""

from __future__ import annotations

import functools
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import sparse_models as models
import torch

import pyrolvm as lvm
from pyrolvm._base import budget
from pyrolvm._methods.sparse.cost import Cost
from pyrolvm._methods.sparse.drawing import _Sums

TOLD: list[str] = []
"""What progress said of the posterior of counts."""


@functools.cache
def of_counts(seed: int = 0, groups: int = 60) -> lvm.Sparse:
    """The posterior of counts."""
    return lvm.sparse(models.counts(groups), seed=seed, progress=lambda done, total, text: TOLD.append(text))


def test_what_weighing_takes_is_told_before_it_begins() -> None:
    of_counts()
    assert any(re.fullmatch(r"Gaussian found; about [\d.,]+ s and [\d.,]+ GB to come", text) for text in TOLD)


def test_fewer_draws_are_waited_for_where_a_budget_is_short() -> None:
    cost = Cost(seconds=100.0, memory=1e9)
    assert str(cost) == "about 100 s and 1.0 GB to come"
    assert cost.affordable(1_000.0) == 1_000.0
    for seconds, draws in ((200.0, 1_000.0), (50.0, 500.0), (1.0, 200.0), (-1.0, 200.0)):
        with budget.within(seconds, clock=lambda: 0.0):
            assert cost.affordable(1_000.0) == draws


@pytest.mark.parametrize("make", [models.normals, models.nested, models.in_regions])
def test_posterior_and_evidence_are_the_exact_ones_where_there_are_formulas(make) -> None:
    problem = make()
    exact, found = lvm.exact(problem, draws=4_000, progress=False), lvm.sparse(problem, progress=False)
    assert found.verdict.status == "trusted"
    assert abs(found.evidence.value - exact.evidence.value) < 0.01
    wanted, drawn = exact.data["posterior"], found.data["posterior"]
    for name in wanted.data_vars:
        mean, sd = (getattr(wanted[name], what)(("chain", "draw")).values for what in ("mean", "std"))
        assert np.all(np.abs(drawn[name].mean(("chain", "draw")).values - mean) < 0.2 * sd)
        assert np.all(np.abs(drawn[name].std(("chain", "draw")).values / sd - 1) < 0.15)


def test_skew_blocks_are_integrated_as_a_grid_does() -> None:
    found = of_counts()
    y = models.counts().args[1].numpy().reshape(-1, 2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    level, spread = np.linspace(-0.4, 1.0, 80), np.linspace(0.05, 1.8, 90)
    rates = level[:, None, None] + spread[None, :, None] * nodes
    each = (
        y.sum(1)[:, None, None, None] * rates
        - 2 * np.exp(rates)
        - scipy.special.gammaln(y + 1).sum(1)[:, None, None, None]
    )
    log_p = scipy.special.logsumexp(each + np.log(weights / weights.sum()), axis=-1).sum(0)
    log_p += scipy.stats.norm(0, 2).logpdf(level)[:, None] + scipy.stats.halfnorm().logpdf(spread)
    mass = np.exp(log_p - scipy.special.logsumexp(log_p))
    evidence = scipy.special.logsumexp(log_p) + np.log((level[1] - level[0]) * (spread[1] - spread[0]))
    assert found.verdict.status == "trusted"
    assert abs(found.evidence.value - evidence) < 0.03
    for name, grid, share in (("level", level, mass.sum(1)), ("spread", spread, mass.sum(0))):
        mean = share @ grid
        sd = np.sqrt(share @ (grid - mean) ** 2)
        draws = found.data["posterior"][name].values
        assert abs(draws.mean() - mean) < 0.12 * sd
        assert abs(draws.std() / sd - 1) < 0.1


def test_draws_of_skew_blocks_have_the_tails_of_their_laws() -> None:
    """Rates given what they share are gammas, whose logarithms a Gaussian fits but for their tails: 96% of its draws are effective."""
    y = torch.as_tensor(np.random.default_rng(0).poisson(8.0, 40), dtype=torch.float32)

    def model(y: torch.Tensor) -> None:
        shape = pyro.sample("shape", dist.LogNormal(2.0, 0.3))
        rate = pyro.sample("rate", dist.LogNormal(0.0, 0.3))
        with pyro.plate("group", len(y)):
            pyro.sample("y", dist.Poisson(pyro.sample("mean", dist.Gamma(shape, rate))), obs=y)

    drawn = lvm.sparse(lvm.Problem(model, y), seed=0, progress=False).data["posterior"]
    shape, rate, mean = (drawn[name].values[0].astype(float) for name in ("shape", "rate", "mean"))
    places = scipy.stats.gamma.cdf(mean, shape[:, None] + y.numpy(), scale=1 / (rate[:, None] + 1)).ravel()
    assert places.size == 80_000
    assert scipy.stats.kstest(places, "uniform").statistic < 0.0055
    for tail in (0.01, 0.05):
        noise = np.sqrt(tail / places.size)
        assert abs(np.mean(places > 1 - tail) - tail) < 4 * noise and abs(np.mean(places < tail) - tail) < 4 * noise


@pytest.mark.parametrize("make", [models.crossed, models.arms, pytest.param(models.slopes, marks=pytest.mark.slow)])
def test_draws_are_those_of_nuts(make) -> None:
    problem = make()
    found, chains = lvm.sparse(problem, progress=False), lvm.nuts(problem, progress=False, seed=1)
    assert found.verdict.status == "trusted"
    for name in chains.data["posterior"].data_vars:
        wanted = chains.data["posterior"][name].stack(sample=("chain", "draw"))
        drawn = found.data["posterior"][name].stack(sample=("chain", "draw"))
        sd = np.maximum(wanted.std("sample").values, 1e-9)
        assert np.all(np.abs(drawn.mean("sample").values - wanted.mean("sample").values) < 0.25 * sd)
        moves = wanted.std("sample").values > 1e-6  # a factor's corner is constant
        assert np.all(np.abs(drawn.std("sample").values / sd - 1)[moves] < 0.2)


@pytest.mark.filterwarnings("error")
def test_few_groups_around_groups_are_integrated_out_where_their_scale_may_be_zero() -> None:
    """By a grid of the three scales, given which all else is Gaussian."""
    problem = models.few_areas()
    area, y = (np.asarray(value) for value in problem.args)
    schools, pupils = y.shape
    means, within = y.mean(axis=1), np.sum((y - y.mean(axis=1, keepdims=True)) ** 2)
    between, together = np.eye(schools), (area[:, None] == area).astype(float)
    scales = np.meshgrid(
        np.geomspace(1e-3, 5, 60), np.geomspace(1e-3, 4, 40), np.geomspace(0.6, 1.8, 40), indexing="ij"
    )
    log_p, mean, variance = [], [], []
    for t, c, e in zip(*(scale.reshape(-1) for scale in scales), strict=True):
        root = np.linalg.cholesky((c**2 + e**2 / pupils) * between + t**2 * together)
        one, data = np.linalg.solve(root, np.stack([np.ones(schools), means], axis=1)).T
        precision = one @ one + 1 / 25
        mean.append(one @ data / precision)
        variance.append(1 / precision)
        fit = (
            0.5 * precision * mean[-1] ** 2 - 0.5 * data @ data - np.log(np.diag(root)).sum() - 0.5 * np.log(precision)
        )
        noise = -schools * (pupils - 1) * np.log(e) - within / (2 * e**2)
        log_p.append(fit + noise - 0.5 * t**2 - 0.5 * c**2 - 0.125 * e**2 + np.log(t * c * e))
    weight = scipy.special.softmax(log_p)
    level = weight @ np.array(mean)
    sd = np.sqrt(weight @ (np.array(variance) + np.array(mean) ** 2) - level**2)

    found = lvm.sparse(problem, progress=False)
    drawn = found.data["posterior"]
    assert found.verdict.status == "trusted"
    assert abs(float(drawn["level"].mean()) - level) < 0.1 * sd
    assert abs(float(drawn["level"].std()) / sd - 1) < 0.12
    assert abs(float(drawn["of_areas"].mean()) - weight @ scales[0].reshape(-1)) < 0.04


def test_a_regression_of_many_scales_is_taken_as_a_whole() -> None:
    problem = models.regression()
    found = lvm.sparse(problem, progress=False)
    assert found.verdict.status == "trusted"
    assert found.data["integration"].attrs["blocks"] == 0
    draws = found.data["posterior"]["b"].values.reshape(-1, 5)
    scales = 10.0 ** np.linspace(-2, 2, 5)
    assert np.all(np.abs(draws.mean(0) * scales - 0.5) < 5 * draws.std(0) * scales)


def test_results_are_kept_and_the_same_seed_gives_the_same_draws(tmp_path) -> None:
    one, again, other = of_counts(groups=12), lvm.sparse(models.counts(12), seed=0, progress=False), of_counts(1, 12)
    for name in one.data["posterior"].data_vars:
        assert np.array_equal(one.data["posterior"][name], again.data["posterior"][name])
        assert not np.array_equal(one.data["posterior"][name], other.data["posterior"][name])
    one = of_counts()
    one.save(tmp_path / "run")
    again = lvm.load(tmp_path / "run", problem=models.counts())
    assert isinstance(again, lvm.Sparse)
    assert again.verdict.status == "trusted"
    assert (again.evidence.value, again.khat) == (one.evidence.value, one.khat)


def test_blocks_whose_modes_are_far_from_where_they_start_are_found() -> None:
    y = np.random.default_rng(8).poisson(np.exp(np.linspace(2.0, 12.0, 20))[:, None], size=(20, 2)).astype(float)
    problem = models.counts(20)
    found = lvm.sparse(lvm.Problem(problem.model, problem.args[0], torch.as_tensor(y.reshape(-1))), progress=False)
    rates = found.data["posterior"]["level"] + found.data["posterior"]["effect"]
    assert found.verdict.status == "trusted"
    large = y.mean(1) > 100
    np.testing.assert_allclose(rates.mean(("chain", "draw")).values[large], np.log(y.mean(1))[large], atol=0.05)


def test_two_modes_of_what_is_shared_are_not_trusted() -> None:
    y = torch.full((40,), 2.0, dtype=torch.float64)

    def model(y: torch.Tensor) -> None:
        root = pyro.sample("root", dist.Normal(0.3, 3.0))
        with pyro.plate("rows", len(y)):
            local = pyro.sample("local", dist.Normal(root**2, 0.5))
            pyro.sample("y", dist.Normal(local, 0.5), obs=y)

    found = lvm.sparse(lvm.Problem(model, y), progress=False)
    assert found.verdict.status == "doubtful"
    assert "modes" in found.verdict.figures


def test_what_cannot_be_split_is_refused_before_anything_runs() -> None:
    def discrete(y: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            kind = pyro.sample("kind", dist.Bernoulli(0.4))
            pyro.sample("y", dist.Normal(mean + kind, 1.0), obs=y)

    def learnt(y: torch.Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(1.0))
        mean = pyro.sample("mean", dist.Normal(0.0, scale))
        pyro.sample("y", dist.Normal(mean, 1.0).expand([len(y)]).to_event(1), obs=y)

    y = torch.zeros(4)
    with pytest.raises(lvm.ProblemError, match="'kind'"):
        lvm.sparse(lvm.Problem(discrete, y))
    with pytest.raises(lvm.ProblemError, match="scale"):
        lvm.sparse(lvm.Problem(learnt, y))
    with pytest.raises(lvm.FitError, match="110 of 110 unknowns"):
        lvm.sparse(models.mixed_up(), progress=False)


def test_infer_looks_for_blocks_first_where_unknowns_are_many() -> None:
    found = lvm.infer(models.counts(groups=200), progress=False)
    assert isinstance(found, lvm.Sparse)
    assert [(rung["method"], rung["status"]) for rung in found.ladder] == [("sparse", "trusted")]


def test_infer_looks_for_blocks_first_where_plates_have_members() -> None:
    """Dispersions of 25 groups: where what they share is large they are all narrow, which weights of all unknowns hardly reach."""
    rng = np.random.default_rng(2)
    group = rng.integers(0, 25, 250)
    dispersion = rng.gamma(2.0, 1.0, 25)[group]
    y = torch.as_tensor(rng.poisson(3.0 * rng.gamma(dispersion, 1 / dispersion)), dtype=torch.float32)

    def model(group: torch.Tensor, y: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.LogNormal(0.0, 2.0))
        shape, rate = (pyro.sample(name, dist.LogNormal(0.0, 1.0)) for name in ("shape", "rate"))
        with pyro.plate("group", 25):
            each = pyro.sample("each", dist.Gamma(shape, rate))[group]
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.GammaPoisson(each, each / mean), obs=y)

    problem = lvm.Problem(model, torch.as_tensor(group), y)
    assert problem.unconstrained_size == 28
    found = lvm.infer(problem, seed=0, progress=False)
    assert [(rung["method"], rung["status"]) for rung in found.ladder] == [("sparse", "trusted")]


@pytest.mark.slow
def test_simulations_rank_their_truths_uniformly() -> None:
    found = lvm.calibrate(models.counts(groups=20), "sparse", simulations=200, seed=0, progress=False)
    assert found.verdict.status == "trusted"


def test_a_model_whose_unknowns_share_nothing_is_integrated_block_by_block() -> None:
    y = torch.linspace(-2.0, 3.0, 80, dtype=torch.float64).reshape(40, 2)

    def model(y: torch.Tensor) -> None:
        with pyro.plate("groups", 40, dim=-2):
            level = pyro.sample("level", dist.Normal(0.0, 2.0))
            with pyro.plate("two", 2, dim=-1):
                pyro.sample("y", dist.StudentT(4.0, level, 0.7), obs=y)

    found = lvm.sparse(lvm.Problem(model, y), seed=0, progress=False)
    assert found.verdict.status == "trusted"
    grid = np.linspace(-12, 12, 4001)
    log_p = scipy.stats.norm(0, 2).logpdf(grid) + scipy.stats.t(4, grid[None, None], 0.7).logpdf(
        y.numpy()[..., None]
    ).sum(1)
    assert abs(found.evidence.value - (scipy.special.logsumexp(log_p, axis=1) + np.log(grid[1] - grid[0])).sum()) < 0.02
    mass = np.exp(log_p - scipy.special.logsumexp(log_p, axis=1, keepdims=True))
    mean = mass @ grid
    sd = np.sqrt((mass * (grid - mean[:, None]) ** 2).sum(1))
    drawn = found.data["posterior"]["level"].values.reshape(-1, 40)
    assert np.all(np.abs(drawn.mean(0) - mean) < 0.12 * sd)
    assert np.all(np.abs(drawn.std(0) / sd - 1) < 0.1)


def test_sums_of_weights_in_pieces_are_those_of_all() -> None:
    log_weight = 30 * np.random.default_rng(0).normal(size=(40, 7))
    log_weight[:20, 3], log_weight[5, 2], log_weight[:, 6] = -np.inf, -np.inf, -np.inf
    sums = _Sums(np.full(7, -np.inf), np.zeros(7), np.zeros(7), 0)
    for part in np.split(log_weight, 4):
        sums = sums.with_more(part)
    with np.errstate(invalid="ignore"):
        scaled = np.exp(log_weight[:, :6] - log_weight[:, :6].max(axis=0))
    wanted = scaled.sum(axis=0) ** 2 / ((scaled**2).sum(axis=0) * 40)
    np.testing.assert_allclose(sums.share[:6], wanted, rtol=1e-12)
    assert sums.share[6] == 0.0
