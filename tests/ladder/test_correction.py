"""Draws corrected by their weights, on conjugate models: their moments and the evidence are closed forms."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._methods.infer import correct, correction

COUNTS = torch.tensor([3.0, 1.0, 4.0], dtype=torch.float64)
MIXED = torch.tensor([-1.9, -2.2, 2.4, 1.6, 2.0], dtype=torch.float64)


def counts(y: Tensor) -> None:
    """The posterior of the rate is Gamma(2 + sum of y, 1 + n)."""
    rate = pyro.sample("rate", dist.Gamma(y.new_tensor(2.0), 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


COUNTS_EVIDENCE = (
    math.lgamma(10.0) - math.lgamma(2.0) - 10.0 * math.log(4.0) - float(scipy.special.gammaln(COUNTS.numpy() + 1).sum())
)


def correlated(y: Tensor) -> None:
    """Correlation 0.9 among four unknowns."""
    covariance = 0.9 * y.new_ones(4, 4) + 0.1 * torch.eye(4, dtype=y.dtype)
    x = pyro.sample("x", dist.MultivariateNormal(y.new_zeros(4), covariance))
    pyro.sample("y", dist.Normal(x[0], 1.0), obs=y)


def mixture(y: Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(y.new_tensor(0.0), 1.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(y.new_tensor([0.4, 0.6])))
        pyro.sample("y", dist.Normal(shift + y.new_tensor([-2.0, 2.0])[z], 0.7), obs=y)


def fitted(model: Any, y: Tensor, guide: str = "mean_field", **options: Any) -> lvm.Fit:
    settings = {"draws": 500, "max_steps": 600, "seed": 0, "progress": False, **options}
    return lvm.fit(lvm.Problem(model, y), guide, **settings)


@pytest.fixture(scope="module")
def raw() -> lvm.Fit:
    return fitted(counts, COUNTS, "student")


@pytest.fixture(scope="module")
def mended(raw: lvm.Fit) -> lvm.Fit:
    return correct(raw, draws=4000, seed=1)


def test_corrected_draws_have_the_moments_of_the_posterior(raw: lvm.Fit, mended: lvm.Fit) -> None:
    draws = mended.data["posterior"]["rate"].values.reshape(-1)
    law = scipy.stats.gamma(10.0, scale=0.25)
    assert draws.shape == (4000,)
    assert draws.mean() == pytest.approx(law.mean(), abs=4 * law.std() / math.sqrt(3000))
    assert draws.std() == pytest.approx(law.std(), rel=0.05)
    np.testing.assert_allclose(np.quantile(draws, [0.05, 0.95]), law.ppf([0.05, 0.95]), rtol=0.04)
    assert scipy.stats.kstest(draws, law.cdf).statistic < 0.03


def test_the_evidence_is_the_closed_form(mended: lvm.Fit) -> None:
    evidence = mended.evidence
    assert evidence is not None
    assert evidence.reliable
    assert evidence.error < 0.01
    assert abs(evidence.value - COUNTS_EVIDENCE) < 4 * evidence.error
    assert mended.elbo < evidence.value


def test_the_result_says_what_was_done_and_keeps_what_it_was_made_from(raw: lvm.Fit, mended: lvm.Fit) -> None:
    assert mended.corrected
    assert not raw.corrected
    assert "importance resampling of 8,192 draws" in mended.data["posterior"].attrs["correction"]
    np.testing.assert_array_equal(
        mended.data["uncorrected_posterior"]["rate"].values, raw.data["posterior"]["rate"].values
    )
    stats = mended.data["proposal_stats"]
    np.testing.assert_allclose(stats["log_weight"], stats["lp"] - stats["log_q"])
    assert mended.log_weight.shape == (8192,)
    assert mended.khat == pytest.approx(float(stats["khat"]))
    assert mended.verdict.trusted
    assert mended.seconds["correct"] > 0


def test_log_densities_are_those_of_the_corrected_draws(mended: lvm.Fit) -> None:
    draws = torch.as_tensor(mended.data["posterior"]["rate"].values.reshape(-1))
    wanted = dist.Gamma(2.0, 1.0).log_prob(draws) + dist.Poisson(draws[:, None]).log_prob(COUNTS).sum(1)
    np.testing.assert_allclose(mended.log_p.reshape(-1), wanted.numpy(), rtol=1e-6)
    assert mended.log_q is None


def test_choices_repeat_by_seed(raw: lvm.Fit) -> None:
    first, again, other = (correct(raw, draws=200, seed=seed).data["posterior"]["rate"].values for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_stored_draws_are_what_a_corrected_result_samples(mended: lvm.Fit) -> None:
    stored = mended.data["posterior"]["rate"].values
    drawn = mended.sample(300, seed=2)["rate"].values
    assert drawn.shape == (1, 300)
    assert np.isin(drawn, stored).all()


def test_nothing_is_corrected_twice(mended: lvm.Fit) -> None:
    with pytest.raises(lvm.ArgumentError, match=r"corrected already.*Fix:"):
        correct(mended)


def test_save_and_load_keep_the_correction(mended: lvm.Fit, tmp_path: Path) -> None:
    mended.save(tmp_path / "result")
    loaded = lvm.load(tmp_path / "result", problem=mended.attached)
    assert isinstance(loaded, lvm.Fit)
    assert loaded.corrected
    assert loaded.verdict.status == mended.verdict.status
    assert loaded.evidence == mended.evidence
    np.testing.assert_array_equal(loaded.sample(50, seed=1)["rate"].values, mended.sample(50, seed=1)["rate"].values)
    np.testing.assert_array_equal(
        loaded.data["uncorrected_posterior"]["rate"].values, mended.data["uncorrected_posterior"]["rate"].values
    )


def test_more_draws_are_weighed_where_few_are_effective() -> None:
    result = correct(fitted(correlated, COUNTS[0] / 3, "mean_field"), draws=4000)
    assert result.log_weight.size > correction.FIRST


def test_moment_matching_brings_back_the_correlation_that_mean_field_leaves_out() -> None:
    """As far as it can, and where it cannot the verdict says so."""
    raw = fitted(correlated, COUNTS[1], "mean_field")
    result = correct(raw, draws=4000, seed=0)
    prior = 0.9 * np.ones((4, 4)) + 0.1 * np.eye(4)
    covariance = prior - np.outer(prior[0], prior[0]) / 2
    sds = np.sqrt(np.diag(covariance))
    before, after = (group["x"].values[0] for group in (raw.data["posterior"], result.data["posterior"]))
    assert (before.std(0) < 0.7 * sds).all()
    assert (after.std(0) > 0.8 * sds).all()
    assert np.corrcoef(after.T)[1, 2] > 0.8
    if result.verdict.trusted:
        np.testing.assert_allclose(after.mean(0) / sds, prior[0] / 2 / sds, atol=0.1)
        np.testing.assert_allclose(after.std(0), sds, rtol=0.1)


def stiff(y: Tensor) -> None:
    """Correlation 0.99 among ten unknowns."""
    covariance = 0.99 * y.new_ones(10, 10) + 0.01 * torch.eye(10, dtype=y.dtype)
    x = pyro.sample("x", dist.MultivariateNormal(y.new_zeros(10), covariance))
    pyro.sample("y", dist.Normal(x[0], 1.0), obs=y)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_an_evidence_that_is_called_reliable_is_within_its_error(seed: int) -> None:
    """Moment matching uses the same draws twice; its error must say so."""
    evidence = -0.5 * (1.0 / 2) - 0.5 * math.log(2 * math.pi * 2)
    found = correct(fitted(stiff, COUNTS[1], "mean_field", seed=seed, max_steps=20_000), seed=seed).evidence
    assert found is not None
    assert not found.reliable or abs(found.value - evidence) < 5 * found.error, found


def test_discrete_latents_are_summed_out_of_the_weights_and_drawn_afterwards() -> None:
    result = correct(fitted(mixture, MIXED), draws=4000)
    grid = np.linspace(-4, 4, 4001)
    y = MIXED.numpy()[:, None]
    rows = np.logaddexp(
        np.log(0.4) + scipy.stats.norm(grid - 2, 0.7).logpdf(y), np.log(0.6) + scipy.stats.norm(grid + 2, 0.7).logpdf(y)
    )
    density = np.exp(rows.sum(0) + scipy.stats.norm.logpdf(grid))
    mass = density.sum() * (grid[1] - grid[0])
    mean = np.average(grid, weights=density)
    draws = result.data["posterior"]
    assert result.evidence is not None
    assert result.evidence.value == pytest.approx(math.log(mass), abs=max(4 * result.evidence.error, 1e-3))
    assert float(draws["shift"].mean()) == pytest.approx(mean, abs=0.02)
    assert float(draws["shift"].std()) == pytest.approx(
        math.sqrt(np.average((grid - mean) ** 2, weights=density)), rel=0.06
    )
    np.testing.assert_allclose(draws["z"].values.mean((0, 1)), [0.0, 0.0, 1.0, 1.0, 1.0], atol=0.02)


@pytest.mark.parametrize("guide", ["student", "pathfinder", "full_rank", "laplace"])
def test_every_way_of_weighing_gives_the_same_evidence(guide: str) -> None:
    """Guides with a fast density of their own and guides without."""
    result = correct(fitted(counts, COUNTS, guide), draws=1000)
    assert result.evidence is not None
    assert abs(result.evidence.value - COUNTS_EVIDENCE) < max(5 * result.evidence.error, 1e-3)


def truncated(y: Tensor) -> None:
    """No density below zero, where a Gaussian guide draws all the same."""
    x = pyro.sample("x", dist.Normal(y.new_tensor(0.0), 1.0))
    z = pyro.sample("z", dist.Normal(x, 0.1))
    pyro.factor("edge", torch.where(x > -1.0, torch.zeros_like(x), torch.full_like(x, -torch.inf)))
    pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def test_draws_without_a_density_do_not_stop_the_correction() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the guide's own draws are not what this is about
        raw = fitted(truncated, COUNTS[0] / 30, "laplace")
    result = correct(raw, draws=1000)
    assert (result.data["posterior"]["x"].values > -1.0).all()
    assert result.verdict.status in ("trusted", "doubtful", "failed")


def test_a_fit_loaded_without_its_guide_is_refused_with_a_remedy(raw: lvm.Fit) -> None:
    from dataclasses import replace

    with pytest.raises(lvm.PyrolvmError, match="Fix:"):
        correct(replace(raw, guide=None))


@pytest.mark.parametrize("draws", [0, -5, 2.5])
def test_a_number_of_draws_that_is_none_is_refused(raw: lvm.Fit, draws: Any) -> None:
    with pytest.raises(lvm.ArgumentError, match=r"draws.*Fix:"):
        correct(raw, draws=draws)


def test_chains_are_refused_with_a_remedy() -> None:
    chains = lvm.nuts(lvm.Problem(counts, COUNTS), chains=1, warmup=20, draws=20, progress=False)
    with pytest.raises(lvm.ArgumentError, match="Fix:"):
        correct(chains)  # type: ignore[arg-type]
