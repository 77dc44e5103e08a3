"""log p(x) of rows: closed forms of linear-Gaussian models and mixtures, bits of known models, chunks that change nothing."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import pyrolvm as lvm
from pyrolvm._check.evaluate.scoring import Scorer, plan
from pyrolvm._results import Fit
from pyrolvm_models.ppca import maximum_likelihood

QUIET = {"progress": False}
SIGMA = 0.6


def learned(problem):
    """What a fit of a model with nothing to learn and nothing latent is."""
    return Fit("by hand", xr.DataTree(), problem, {}, {}, "pyro", "", 0)


def linear(x, loadings):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
        pyro.sample("x", dist.Normal((loadings @ z.unsqueeze(-1)).squeeze(-1), SIGMA).to_event(1), obs=x)


def encoder(x, loadings):
    weights = pyro.param("weights", torch.full((x.shape[1], 2), 0.1, dtype=x.dtype))
    scale = pyro.param("scale", torch.full((2,), 0.5, dtype=x.dtype), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ weights, scale).to_event(1))


def posterior(x, loadings):
    """The posterior itself, so that all weights of a row are p(x)."""
    precision = loadings.T @ loadings / SIGMA**2 + torch.eye(2, dtype=x.dtype)
    mean = torch.linalg.solve(precision, loadings.T @ x.T / SIGMA**2).T
    pyro.param("unused", torch.zeros(1, dtype=x.dtype))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(mean, precision_matrix=precision))


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    loadings = torch.as_tensor(random.normal(size=(4, 2)))
    x = torch.as_tensor(random.normal(size=(200, 2)) @ loadings.numpy().T + SIGMA * random.normal(size=(200, 4)))
    return x[:100], x[100:], loadings


@pytest.fixture(scope="module")
def fit(data):
    train, _, loadings = data
    return lvm.fit(
        lvm.Problem(linear, train, loadings), encoder, max_steps=60, tolerance=0, draws=50, engine="pyro", **QUIET
    )


@pytest.fixture(scope="module")
def found(fit, data):
    return lvm.evaluate(fit, data[1], **QUIET)


def exact(x, loadings):
    covariance = loadings @ loadings.T + SIGMA**2 * torch.eye(len(loadings), dtype=x.dtype)
    return dist.MultivariateNormal(torch.zeros(len(loadings), dtype=x.dtype), covariance).log_prob(x).numpy()


def test_a_linear_model_has_the_density_of_the_closed_form(found, data):
    truth = exact(data[1], data[2])
    rows = found.rows
    z = (rows["log_p"] - truth) / rows["log_p_error"]
    assert found.draws == 5_000 and len(rows) == 100 and not found.exact
    assert abs(z).max() < 5 and 0.5 < z.std() < 1.5
    assert abs(found.log_p - truth.mean()) < 4 * found.log_p_error
    train = exact(data[0], data[2]).mean()
    assert found.table.loc["log p(x)", "train"] == pytest.approx(train, abs=0.02)
    assert found["train - held out"] == pytest.approx(train - truth.mean(), abs=0.03)


def test_the_elbo_is_its_parts_and_below_log_p(found, data, fit):
    assert found["ELBO"] == pytest.approx(found["reconstruction"] - found["KL of z"], abs=1e-9)
    weights, scale = fit.params["weights"], fit.params["scale"].exp()
    loc = data[1] @ weights
    divergence = 0.5 * (scale**2 + loc**2 - 1).sum(1) - scale.log().sum()
    np.testing.assert_allclose(found.rows["kl_z"], divergence.numpy(), atol=0.15)
    assert found["KL of z"] == pytest.approx(float(divergence.mean()), abs=0.01)
    bounds = found.data["bounds"]["bound"].to_numpy()
    assert found["ELBO"] == pytest.approx(bounds[0]) and (np.diff(bounds) > 0).all()
    assert bounds[-1] == pytest.approx(found.log_p)


def test_posterior_means_are_the_guides(found, fit, data):
    loc = (data[1] @ fit.params["weights"]).numpy()
    latents = found.data["latents"]
    np.testing.assert_allclose(latents["z"], loc, atol=5 * 0.6 / math.sqrt(5_000))
    np.testing.assert_allclose(latents["z_sd"].mean("row"), fit.params["scale"].exp().numpy(), rtol=0.02)
    assert found["active units of z"] == 2
    assert found.units["variance_of_mean"].to_numpy() == pytest.approx(loc.var(axis=0), rel=0.15)


def test_the_optimum_of_probabilistic_pca_is_reached_and_its_density_found():
    problem = lvm.problem("ppca", learn=True, q=2)
    best = maximum_likelihood(problem.args[0], 2)
    fit = lvm.fit(problem, "amortized", max_steps=1000, draws=50, engine="c", seed=1, **QUIET)
    found = lvm.evaluate(fit, draws=1_000, **QUIET)
    # The fit is near the optimum; the density at what it has reached is what the weights must give.
    loadings, sigma = fit.params["W"].double(), fit.params["sigma"].double().exp()
    covariance = loadings @ loadings.T + sigma**2 * torch.eye(len(loadings)).double()
    own = dist.MultivariateNormal(torch.zeros(len(loadings)).double(), covariance).log_prob(problem.args[0].double())
    assert found.log_p == pytest.approx(float(own.mean()), abs=5 * found.log_p_error + 1e-3)
    optimum = best.log_likelihoods[-1] / len(own)
    assert optimum - 0.2 < found.log_p < optimum + 5 * found.log_p_error + 1e-3


def test_exact_weights_are_the_same_however_they_are_cut(data):
    _, held, loadings = data
    problem = lvm.Problem(linear, held, loadings)
    truth = exact(held, loadings)
    for room in (1, 40, 700, 10**6):
        with problem.session(seed=0):
            scorer = Scorer(problem, "data", posterior, room=room)
            blocks = list(scorer.blocks(torch.arange(7, 30), 35))
        values = np.concatenate([block.log_weight for block in blocks], axis=1)
        np.testing.assert_allclose(values, np.tile(truth[7:30], (35, 1)), atol=1e-8)
        assert torch.equal(torch.cat([block.rows for block in blocks]), torch.arange(7, 30))


@pytest.mark.parametrize("width", [1, 64, 834, 3_072, 10**7])
@pytest.mark.parametrize("draws", [1, 50, 5_000, 10**6])
@pytest.mark.parametrize("rows", [1, 13, 10_000])
def test_no_chunk_is_larger_than_the_room_for_it(width, draws, rows):
    room = 400_000
    cut = plan(width, draws, rows, room)
    assert cut.draws >= 1 and cut.rows >= 1 and cut.rows_held % cut.rows == 0
    assert cut.draws * cut.rows * width <= max(room, width)
    assert cut.rows_held * draws <= max(4_000_000, cut.rows * draws)


def test_chunks_that_run_are_those_of_the_plan(fit, data):
    problem = lvm.Problem(linear, data[1], data[2])
    largest = []
    for room in (60, 600, 6_000):
        with problem.session(seed=0, params=fit.params):
            scorer = Scorer(problem, "data", encoder, room=room)
            for _ in scorer.blocks(torch.arange(100), 200):
                pass
            largest.append(scorer.largest * scorer.width)
            assert scorer.engine == "captured"
    assert (
        all(size <= room for size, room in zip(largest, (60, 600, 6_000), strict=True)) and largest[2] > 5 * largest[0]
    )


def test_the_same_seed_gives_the_same_figures(fit, data):
    first, second = (lvm.evaluate(fit, data[1], rows=20, draws=100, train_rows=5, seed=4, **QUIET) for _ in range(2))
    np.testing.assert_array_equal(first.rows["log_p"], second.rows["log_p"])
    third = lvm.evaluate(fit, data[1], rows=20, draws=100, train_rows=5, seed=5, **QUIET)
    assert not np.array_equal(first.rows["log_p"], third.rows["log_p"])


# --- discrete latents -------------------------------------------------------------------------------------------------

LOCS = torch.tensor([-2.0, 0.5, 3.0])
SHARES = torch.tensor([0.2, 0.5, 0.3])


def mixture(x):
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(SHARES))
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(LOCS[k] + u, 0.5), obs=x)


def of_mixture(x):
    slope = pyro.param("slope", torch.tensor(0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("u", dist.Normal(slope * x, 1.0))


def with_classes(x):
    logits = pyro.param("logits", torch.zeros(3))
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.Categorical(logits=logits.expand(len(x), 3)))
        pyro.sample("u", dist.Normal(torch.zeros(len(x)), 1.2))


@pytest.mark.parametrize("guide", [of_mixture, with_classes], ids=["summed out", "drawn by the guide"])
def test_a_mixture_has_the_density_of_the_sum(guide):
    generator = torch.Generator().manual_seed(0)
    k = torch.multinomial(SHARES, 60, replacement=True, generator=generator)
    x = LOCS[k] + math.sqrt(1.25) * torch.randn(60, generator=generator)
    fit = lvm.fit(lvm.Problem(mixture, x[:30]), guide, max_steps=5, tolerance=0, draws=20, engine="pyro", **QUIET)
    found = lvm.evaluate(fit, x[30:], **QUIET)
    parts = SHARES.log() + dist.Normal(LOCS, math.sqrt(1.25)).log_prob(x[30:, None])
    z = (found.rows["log_p"] - parts.logsumexp(-1).numpy()) / found.rows["log_p_error"]
    assert abs(z).max() < 4.5
    if guide is of_mixture:
        assert found.left_out["KL of k"] == "it is summed out"
    else:
        assert "KL of k" in found.table.index and "it is discrete" in found.left_out["active units of k"]


# --- no latents -------------------------------------------------------------------------------------------------------


def coins(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Bernoulli(torch.full((6,), 0.5)).to_event(1), obs=x)


def flat(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Uniform(torch.zeros(6), 1.0, validate_args=False).to_event(1), obs=x)


def test_fair_coins_take_one_bit_each_and_their_density_is_exact():
    x = (torch.arange(60).reshape(10, 6) % 3 == 0).float()
    found = lvm.evaluate(learned(lvm.Problem(coins, x)), 1 - x, shape=(2, 3), **QUIET)
    assert found.exact and found["bits per dimension"] == pytest.approx(1.0, abs=1e-6)
    assert found.log_p == pytest.approx(-6 * math.log(2)) and found.log_p_error == 0
    assert "exact" in found.left_out["ELBO"] and "nothing is latent" in found.left_out["reconstructions"]
    assert found.verdict.status == "trusted"
    with pytest.raises(KeyError, match="nothing is latent: log p"):
        found["ELBO"]


def test_dequantised_levels_under_a_flat_density_take_the_logarithm_of_the_levels():
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(0, 16, (40, 6), generator=generator)
    x = (grey + torch.rand(40, 6, generator=generator)) / 16
    fit = learned(lvm.Problem(flat, x[:20]))
    assert lvm.evaluate(fit, x[20:], levels=16, **QUIET)["bits per dimension"] == pytest.approx(4.0, abs=1e-5)
    without = lvm.evaluate(fit, x[20:], **QUIET)
    assert "levels=256" in without.left_out["bits per dimension"]
    on_grid = lvm.evaluate(fit, grey[20:] / 16.0, levels=16, **QUIET)
    assert "dequantise" in on_grid.left_out["bits per dimension"]


@pytest.mark.slow
def test_a_compiled_graph_weighs_as_the_graph_does(data, monkeypatch):
    from pyrolvm._check.evaluate import scoring

    monkeypatch.setattr(scoring, "COMPILED", 0.0)
    problem = lvm.Problem(linear, data[1], data[2])
    with problem.session(seed=0):
        scorer = Scorer(problem, "data", posterior, room=5_000)
        blocks = list(scorer.blocks(torch.arange(100), 40))
    assert scorer.compiled and scorer.engine == "captured"
    values = np.concatenate([block.log_weight for block in blocks], axis=1)
    np.testing.assert_allclose(values, np.tile(exact(data[1], data[2]), (40, 1)), atol=1e-8)
