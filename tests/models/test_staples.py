"""Bayesian staples: densities by SciPy, data by their published sums, posteriors by published estimates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, halfnorm, norm, poisson

import pyrolvm as lvm
from pyrolvm_models import funnel, hierarchical_logistic, hierarchical_poisson

pytestmark = pytest.mark.usefixtures("double")


def _numbers(draw):
    return {name: value.numpy() for name, value in draw.items()}


@pytest.mark.parametrize("seed", range(3))
def test_the_density_of_the_funnel(seed, prior_draw, log_joint):
    problem = lvm.problem("funnel", coordinates=4).to(dtype=torch.float64)
    draw = prior_draw(problem, seed)
    v, x = draw["v"].item(), draw["x"].numpy()
    expected = norm(0, 3).logpdf(v) + norm(0, math.exp(v / 2)).logpdf(x).sum()
    assert log_joint(problem, draw).item() == pytest.approx(expected, rel=1e-10)


def test_the_moments_of_the_funnel_are_those_of_its_draws():
    rng = np.random.default_rng(0)
    n = 400_000
    v = 3 * rng.standard_normal(n)
    log_abs = v / 2 + np.log(np.abs(rng.standard_normal(n)))
    for values, (mean, sd) in zip((v, log_abs), funnel.MOMENTS.values(), strict=True):
        assert values.mean() == pytest.approx(mean, abs=4 * sd / n**0.5)
        assert values.std() == pytest.approx(sd, rel=4 / n**0.5)


def test_a_ladder_has_the_exact_moments_of_the_funnel():
    result = lvm.infer(lvm.problem("funnel"), methods="vi", seed=0, progress=False)
    assert result.verdict.status == "trusted"
    posterior = result.data["posterior"]
    size = posterior["v"].size
    mean, sd = funnel.MOMENTS["v"]
    assert float(posterior["v"].mean()) == pytest.approx(mean, abs=4 * sd / size**0.5)
    assert float(posterior["v"].std()) == pytest.approx(sd, rel=4 / (2 * size) ** 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_the_density_of_the_logistic_hierarchy(seed, prior_draw, log_joint):
    problem = lvm.problem("hierarchical_logistic").to(dtype=torch.float64)
    draw = prior_draw(problem, seed)
    d = _numbers(draw)
    seed_, extract = (np.array(part) for part in (hierarchical_logistic.SEED, hierarchical_logistic.EXTRACT))
    mean = d["intercept"] + np.column_stack([seed_, extract, seed_ * extract]) @ d["beta"]
    expected = norm(0, 2).logpdf(d["intercept"]) + norm(0, 2).logpdf(d["beta"]).sum() + halfnorm().logpdf(d["tau"])
    expected += norm(mean, d["tau"]).logpdf(d["logit"]).sum()
    chance = 1 / (1 + np.exp(-d["logit"]))
    expected += binom(hierarchical_logistic.SEEDS, chance).logpmf(hierarchical_logistic.GERMINATED).sum()
    assert log_joint(problem, draw).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_density_of_the_poisson_hierarchy(seed, prior_draw, log_joint):
    problem = lvm.problem("hierarchical_poisson").to(dtype=torch.float64)
    draw = prior_draw(problem, seed)
    d = _numbers(draw)
    mean = d["intercept"] + d["slope"] * np.array(hierarchical_poisson.OUTDOORS) / 10
    expected = norm().logpdf(d["intercept"]) + norm().logpdf(d["slope"]) + halfnorm().logpdf(d["tau"])
    expected += norm(mean, d["tau"]).logpdf(d["log_risk"]).sum()
    rate = np.array(hierarchical_poisson.EXPECTED) * np.exp(d["log_risk"])
    expected += poisson(rate).logpmf(hierarchical_poisson.CASES).sum()
    assert log_joint(problem, draw).item() == pytest.approx(expected, rel=1e-6)


def test_the_tables_are_unchanged():
    """Sums as checks; in Scotland as many cases were expected as there were."""
    table = hierarchical_logistic
    assert {len(t) for t in (table.GERMINATED, table.SEEDS, table.SEED, table.EXTRACT)} == {21}
    assert (sum(table.GERMINATED), sum(table.SEEDS)) == (424, 831)
    assert all(r <= n for r, n in zip(table.GERMINATED, table.SEEDS, strict=True))
    table = hierarchical_poisson
    assert {len(t) for t in (table.CASES, table.EXPECTED, table.OUTDOORS)} == {56}
    assert sum(table.CASES) == 536
    assert sum(table.EXPECTED) == pytest.approx(536, abs=0.5)


PUBLISHED = {
    "hierarchical_logistic": {"intercept": (-0.55, 0.1), "tau": (0.27, 0.1)},
    "hierarchical_poisson": {"intercept": (-0.44, 0.1), "slope": (0.68, 0.1), "tau": (0.61, 0.1)},
}
"""Posterior means under flat priors, and how far weak priors may move them.

Spiegelhalter et al., BUGS Examples I (seeds); Breslow and Clayton (1993), section 6.2 (lip cancer, independent effects)."""


@pytest.mark.parametrize(
    "name", ["hierarchical_logistic", pytest.param("hierarchical_poisson", marks=pytest.mark.slow)]
)
def test_a_fit_finds_what_was_published(name):
    result = lvm.infer(lvm.problem(name), methods=["student"], seed=0, progress=False)
    for site, (mean, margin) in PUBLISHED[name].items():
        assert float(result.data["posterior"][site].mean()) == pytest.approx(mean, abs=margin), site
