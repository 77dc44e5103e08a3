from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm

Y = torch.tensor([-1.2, -0.9, 1.1, 0.8, -1.0])


def hmm(y):
    moves = pyro.param("moves", torch.ones(2, 2) / 2, constraint=dist.constraints.simplex)
    means = pyro.param("means", torch.tensor([-1.0, 1.0]))
    state = 0
    for t in pyro.markov(range(len(y))):
        state = pyro.sample(f"state_{t}", dist.Categorical(moves[state]), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{t}", dist.Normal(means[state], 0.3), obs=y[t])


def mixture(y):
    shares = pyro.param("shares", torch.tensor([0.5, 0.5]), constraint=dist.constraints.simplex)
    with pyro.plate("rows", len(y)):
        kind = pyro.sample("kind", dist.Categorical(shares))
        pyro.sample("y", dist.Normal(2.0 * kind - 1, 0.3), obs=y)


def one_switch(y):
    chance = pyro.param("chance", torch.tensor(0.5), constraint=dist.constraints.unit_interval)
    on = pyro.sample("on", dist.Bernoulli(chance))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(on, 1.0), obs=y)


def nothing(y):
    """A guide that draws nothing."""


@pytest.mark.parametrize("guide", ["auto", "mean_field", nothing])
@pytest.mark.parametrize("model", [hmm, mixture, one_switch])
def test_parameters_with_discrete_latents_alone_are_fitted_by_marginal_likelihood(model, guide):
    fit = lvm.fit(lvm.Problem(model, Y), guide, max_steps=10, draws=20, progress=False)
    assert fit.maximum_likelihood
    assert fit.evidence is None
    assert fit.num_draws == 20
    assert fit.sample(3).sizes["draw"] == 3


def test_it_finds_the_maximum_and_the_posterior_there(tmp_path):
    problem = lvm.Problem(mixture, Y)
    fit = lvm.fit(problem, max_steps=1500, draws=200, progress=False)
    assert float(fit.data["posterior"]["kind"].mean()) == pytest.approx(0.4, abs=0.02)
    fit.save(tmp_path / "fit")
    assert lvm.load(tmp_path / "fit", problem=problem).maximum_likelihood
    assert lvm.infer(problem, progress=False).data["posterior"].attrs["inference_method"] == "maximum_likelihood"


def test_nuts_says_what_applies():
    with pytest.raises(lvm.ProblemError, match=r"lvm\.fit, which learns its parameters"):
        lvm.nuts(lvm.Problem(mixture, Y), progress=False)


def test_a_fit_of_discrete_latents_without_parameters_has_draws_and_more_of_them():
    def model(y):
        with pyro.plate("rows", len(y)):
            kind = pyro.sample("kind", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Normal(kind, 1.0), obs=y)

    fit = lvm.fit(lvm.Problem(model, Y), "mean_field", draws=10, progress=False)
    assert fit.sample(4).sizes["draw"] == 4
