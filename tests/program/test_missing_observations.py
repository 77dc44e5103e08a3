"""Observations that are missing: left out where nothing depends on them, latents where something does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

NAN = float("nan")
QUICK = {"progress": False, "max_steps": 5, "draws": 50, "engine": "pyro"}
GENERATOR = torch.Generator().manual_seed(0)
X = torch.linspace(-1, 1, 20, dtype=torch.float64)
Y = 1.0 + 2.0 * X + 0.5 * torch.randn(20, generator=GENERATOR, dtype=torch.float64)
SEEN = torch.ones(20, dtype=torch.bool)
SEEN[[3, 17]] = False
GAPS = torch.where(SEEN, Y, NAN)


def line(x: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a + b * x, 0.5), obs=y)


def chain(y: Tensor) -> None:
    pyro.sample("c", dist.Normal(0.0, 1.0))
    pyro.sample("first", dist.Normal(0.0, 1.0), obs=y[0])
    with pyro.plate("steps", len(y) - 1):
        pyro.sample("y", dist.Normal(0.8 * y[:-1], 0.6), obs=y[1:])


def pairs(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2, dtype=y.dtype), 3.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.MultivariateNormal(mu, COVARIANCE), obs=y)


def columns(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2, dtype=y.dtype), 3.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=y)


def covariate(x: Tensor, y: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(y)):
        x = pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
        pyro.sample("y", dist.Normal(slope * x, 0.3), obs=y)


COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)


def means(posterior: lvm.Posterior, name: str) -> Any:
    return posterior.data["posterior"][name].mean(("chain", "draw")).values


def test_values_that_nothing_depends_on_are_left_out_of_the_density_and_drawn_from_the_posterior_predictive() -> None:
    problem = lvm.Problem(line, X, GAPS, missing="latent")
    assert [site.name for site in problem.latents] == ["a", "b"]
    assert problem.coords == {"y_missing_at": [3, 17]}
    with_gaps, without = lvm.exact(problem), lvm.exact(lvm.Problem(line, X[SEEN], Y[SEEN]))
    assert math.isclose(with_gaps.evidence.value, without.evidence.value, abs_tol=1e-9)
    assert np.array_equal(means(with_gaps, "a"), means(without, "a"))
    expected = means(with_gaps, "a") + means(with_gaps, "b") * X[~SEEN].numpy()
    drawn = with_gaps.data["posterior"]["y_missing"]
    assert np.allclose(means(with_gaps, "y_missing"), expected, atol=4 * 0.53 / math.sqrt(4000))
    assert drawn.coords["y_missing_at"].values.tolist() == [3, 17]
    assert 0.47 < drawn.values.std(axis=(0, 1)).min() < 0.6


def test_rows_that_are_missing_are_in_no_group_of_data_and_predictions_have_all() -> None:
    posterior = lvm.exact(lvm.Problem(line, X, GAPS, missing="latent"))
    assert posterior.data["log_likelihood"]["y"].coords["rows"].values.tolist() == [
        i for i in range(20) if i not in (3, 17)
    ]
    assert posterior.data["observed_data"]["y"].shape == (18,)
    assert list(posterior.data["constant_data"]) == ["x"]
    assert posterior.data["posterior_predictive"]["y"].shape[-1] == 20
    assert posterior.loo().rows.sizes["rows"] == 18
    assert lvm.predict(posterior)["predictions"]["y"].shape[-1] == 20
    assert lvm.predict(posterior, [0.0])["predictions"]["y"].shape[-1] == 1


def test_lags_of_missing_values_are_values_of_latents() -> None:
    y = torch.randn(12, generator=GENERATOR, dtype=torch.float64)
    problem = lvm.Problem(chain, y.index_fill(0, torch.tensor([5]), NAN), missing="latent")
    assert [site.name for site in problem.latents] == ["y_missing", "c"]
    posterior = lvm.exact(problem)
    precision = (1 + 0.8**2) / 0.6**2
    mean = 0.8 * (y[4] + y[6]) / 0.6**2 / precision
    draws = posterior.data["posterior"]["y_missing"].values.reshape(-1)
    assert abs(draws.mean() - mean) < 4 / math.sqrt(precision * draws.size)
    assert math.isclose(draws.std(), precision**-0.5, rel_tol=0.05)
    assert posterior.data["posterior"].coords["y_missing_at"].values.tolist() == [4]
    kept = lvm.exact(lvm.Problem(chain, y)).evidence
    at_mean = dist.Normal(0.8**2 * y[4], (0.6**2 * (1 + 0.8**2)) ** 0.5).log_prob(y[6])
    both = dist.Normal(0.8 * y[4:6], 0.6).log_prob(y[5:7]).sum()
    assert math.isclose(posterior.evidence.value, kept.value - float(both) + float(at_mean), abs_tol=1e-6)


def test_of_a_multivariate_row_the_missing_part_follows_from_the_part_that_is_seen() -> None:
    y = torch.randn(15, 2, generator=GENERATOR, dtype=torch.float64)
    gaps = y.clone()
    gaps[4, 0] = NAN
    gaps[7] = NAN
    posterior = lvm.exact(lvm.Problem(pairs, gaps, missing="latent"))
    rows = [i for i in range(15) if i != 7]
    prior, inverse = torch.eye(2, dtype=torch.float64) / 9, torch.linalg.inv(COVARIANCE)
    precision, weighted = prior.clone(), torch.zeros(2, dtype=torch.float64)
    for i in rows:
        single = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        term = single if i == 4 else inverse
        precision, weighted = precision + term, weighted + term @ y[i]
    mu = torch.linalg.solve(precision, weighted)
    assert np.allclose(means(posterior, "mu"), mu.numpy(), atol=4 * 0.3 / math.sqrt(4000))
    expected = mu[0] + 0.8 * (y[4, 1] - mu[1])
    assert abs(means(posterior, "y_missing")[0] - expected) < 4 * 0.65 / math.sqrt(4000)
    assert posterior.data["posterior"].coords["y_missing_at"].values.tolist() == ["4, 0", "7, 0", "7, 1"]
    assert posterior.data["log_likelihood"]["y"].shape[-1] == 14


def test_single_values_of_independent_columns_are_left_out() -> None:
    y = torch.randn(6, 2, generator=GENERATOR, dtype=torch.float64)
    y[2, 1] = NAN
    problem = lvm.Problem(columns, y, missing="latent")
    assert [site.name for site in problem.latents] == ["mu"]
    posterior = lvm.exact(problem)
    assert np.isnan(posterior.data["observed_data"]["y"].values).sum() == 1
    assert posterior.data["log_likelihood"]["y"].shape[-1] == 6
    seen = y[~torch.isnan(y[:, 1]), 1]
    assert math.isclose(
        means(posterior, "mu")[1], float(seen.sum() / (len(seen) + 1 / 9)), abs_tol=4 * 0.45 / math.sqrt(4000)
    )


CONTAINERS = {
    "nullable": pd.array([0, 1, None, 1], dtype="Int64"),
    "masked": np.ma.masked_equal([0, 1, 9, 1], 9),
    "None": [0, 1, None, 1],
    "text": pd.Series(["no", "yes", None, "yes"]),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_discrete_values_that_any_container_marks_as_missing_are_summed_out(kind: str) -> None:
    def model(y: Tensor) -> None:
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    posterior = lvm.exact(lvm.Problem(model, CONTAINERS[kind], missing="latent"))
    assert math.isclose(posterior.evidence.value, math.log(1 / 12), abs_tol=1e-5)
    assert set(np.unique(posterior.data["posterior"]["y_missing"].values)) == {0.0, 1.0}


@pytest.mark.slow
def test_a_covariate_that_is_given_a_distribution_is_a_latent_where_it_is_missing(tmp_path: Path) -> None:
    x = torch.randn(40, generator=GENERATOR)
    y = 1.5 * x + 0.3 * torch.randn(40, generator=GENERATOR)
    problem = lvm.Problem(covariate, x.index_fill(0, torch.tensor([0, 1]), NAN), y, missing="latent")
    assert problem.coords == {"x_missing_at": [0, 1]}
    fit = lvm.fit(problem, "full_rank", progress=False)
    assert fit.verdict.status == "trusted"
    slope = means(fit, "slope")
    assert np.allclose(means(fit, "x_missing"), slope * y[:2].numpy() / (slope**2 + 0.3**2), atol=0.03)
    fit.save(tmp_path / "a")
    loaded = lvm.load(tmp_path / "a", problem=problem)
    assert [*loaded.summary().index] == ["x_missing[0]", "x_missing[1]", "slope"]
    assert lvm.predict(loaded, [0.0], None)["predictions"]["y"].shape[-1] == 1
    with pytest.raises(lvm.PyrolvmError, match="cannot be taken in parts"):
        lvm.fit(problem, batch_size=10, **QUICK)


def test_minibatches_take_rows_of_which_some_are_missing() -> None:
    fit = lvm.fit(lvm.Problem(line, X, GAPS, missing="latent"), "mean_field", batch_size=8, **QUICK)
    assert fit.data["posterior"]["y_missing"].shape == (1, 50, 2)


def test_what_cannot_be_left_to_the_model_is_refused_with_what_to_write() -> None:
    with pytest.raises(
        lvm.DataError, match=r"'x' of line has 2 missing values.*x = pyro.sample\(\"x\", dist.Normal\(m, s\), obs=x\)"
    ):
        lvm.Problem(line, GAPS, Y, missing="latent")
    with pytest.raises(lvm.DataError, match=r"'x' has 2 non-finite values.*missing=\"latent\""):
        lvm.Problem(line, GAPS, Y)
    with pytest.raises(lvm.ArgumentError, match='missing must be "error" or "latent", got True'):
        lvm.Problem(line, X, Y, missing=True)

    def lagged(y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("steps", len(y) - 1):
            pyro.sample("y", dist.Bernoulli(logits=a * y[:-1]), obs=y[1:])

    with pytest.raises(lvm.DataError, match=r"'y' has 1 missing values, on which other sites.*discrete"):
        lvm.Problem(lagged, [0.0, 1.0, NAN, 1.0, 0.0], missing="latent")
    with pytest.raises(lvm.DataError, match="no value that is not missing"):
        lvm.Problem(line, X, torch.full_like(X, NAN), missing="latent")


def test_a_model_that_masks_missing_values_itself_stays_as_it_is() -> None:
    def model(y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        seen = ~torch.isnan(y)
        with pyro.plate("rows", len(y)), pyro.poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(a, 1.0), obs=torch.where(seen, y, 0.0))

    problem = lvm.Problem(model, GAPS, missing="latent")
    assert not problem.absent and problem.program is model
