"""Tests of the converters from Pyro, as they would lie in arviz-base."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from io_pyro import from_pyro, from_pyro_svi
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
SCHOOLS = list("ABCDEFGH")


def schools(sigma, y=None):
    """Eight schools, not centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(sigma)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * z)
        pyro.sample("obs", dist.Normal(theta, sigma), obs=y)


@pytest.fixture(scope="module")
def mcmc():
    """A short run of two chains."""
    pyro.set_rng_seed(0)
    run = MCMC(NUTS(schools, jit_compile=False), num_samples=20, warmup_steps=20, num_chains=1, disable_progbar=True)
    run.run(SIGMA, Y)
    return run


def test_mcmc(mcmc):
    """Groups, dimensions by plates, and log likelihoods that are those of the model."""
    samples = mcmc.get_samples()
    tree = from_pyro(
        mcmc, model=schools, model_args=(SIGMA, Y), coords={"school": SCHOOLS},
        posterior_predictive=Predictive(schools, samples, return_sites=["obs"])(SIGMA),
        prior=Predictive(schools, num_samples=7)(SIGMA),
    )  # fmt: skip
    assert set(tree.children) == {
        "posterior", "sample_stats", "log_likelihood", "observed_data", "posterior_predictive", "prior", "prior_predictive"
    }  # fmt: skip
    assert tree["posterior"]["z"].dims == ("chain", "draw", "school")
    assert list(tree["posterior"]["school"].values) == SCHOOLS
    assert tree["prior"]["mu"].sizes["draw"] == 7 and "obs" in tree["prior_predictive"]
    np.testing.assert_array_equal(tree["observed_data"]["obs"].values, Y)
    assert set(tree["observed_data"].data_vars) == {"obs"} == set(tree["log_likelihood"].data_vars)
    theta = samples["mu"][:, None] + samples["tau"][:, None] * samples["z"]
    wanted = dist.Normal(theta, SIGMA).log_prob(Y)
    np.testing.assert_allclose(tree["log_likelihood"]["obs"].values[0], wanted, rtol=1e-5)
    assert tree["posterior"].attrs["inference_library"] == "pyro"


def test_samples_alone_and_names_that_are_given():
    """A dict of samples is enough; given dims come before those of plates."""
    tree = from_pyro({"a": np.zeros((2, 5, 3))}, dims={"a": ["k"]}, coords={"k": ["x", "y", "z"]})
    assert tree["posterior"]["a"].dims == ("chain", "draw", "k") and set(tree.children) == {"posterior"}


def test_svi():
    """Draws of a guide are one chain, with both log densities and the losses."""
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    guide = AutoNormal(schools)
    svi = SVI(schools, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(SIGMA, Y) for _ in range(200)]
    tree = from_pyro_svi(guide, model=schools, model_args=(SIGMA, Y), num_samples=300, losses=losses)
    assert tree["posterior"].sizes["chain"] == 1 and tree["posterior"].sizes["draw"] == 300
    assert set(tree["posterior"].data_vars) == {"mu", "tau", "z", "theta"}
    weights = tree["sample_stats"]["lp"] - tree["sample_stats"]["log_q"]
    assert abs(float(weights.mean()) + np.mean(losses[-50:])) < 1.5  # the ELBO
    assert tree["optimization"]["loss"].sizes["step"] == 200
    assert tree["posterior"].attrs["inference_method"] == "svi"
