"""Simulated data: drawn from the joint density, and put where the model meets its observations."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyrolvm as lvm
from pyrolvm._check.calibrate.ranking import Ranking
from pyrolvm._program.density import Joint
from pyrolvm._program.simulate import Simulator


def plain(x, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(mu * x, 0.5), obs=y)


def masked(y, seen):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(y)), poutine.mask(mask=seen):
        pyro.sample("obs", dist.Normal(mu, 0.5), obs=y)


def without_plate(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(mu, 0.5), obs=y)


def autoregression(y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("t", len(y) - 1):
        pyro.sample("next", dist.Normal(slope * y[:-1], 1.0), obs=y[1:])


def prior_from_data(y):
    mu = pyro.sample("mu", dist.Normal(y.mean(), 1.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(mu, 0.5), obs=y)


def counts(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def subsampled(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(y), subsample_size=3) as rows:
        pyro.sample("y", dist.Normal(mu, 0.5), obs=y[rows])


Y = torch.tensor([0.3, -1.2, 0.8, 2.0, -0.4, 0.9])


def log_p(problem, draw):
    with problem.session(seed=0), torch.no_grad():
        return float(Joint(problem).log_p(draw))


CASES = {
    "argument": (plain, (torch.linspace(-1, 1, 6), Y), True),
    "masked": (masked, (Y, torch.tensor([True, True, False, True, False, True])), True),
    "without a plate": (without_plate, (Y,), True),
    "part of an argument": (autoregression, (Y,), False),
    "data in the prior": (prior_from_data, (Y,), False),
    "counts": (counts, (torch.tensor([1, 4, 2, 0, 3]),), True),
    "subsampled by the model": (subsampled, (Y,), True),
}


@pytest.mark.parametrize("name", CASES)
def test_data_are_replaced_where_the_model_meets_them(name):
    model, args, by_arguments = CASES[name]
    problem = lvm.Problem(model, *args)
    simulator = Simulator.of(problem)
    assert simulator.by_arguments is by_arguments
    _, observed = simulator.draw(3)
    made = simulator.attach(observed)
    (site,) = problem.observed
    assert observed[site.name].shape == site.shape or name == "without a plate"
    with made.session(seed=0):
        seen = Joint(made).observations()[site.name]
    assert torch.equal(seen, observed[site.name]) and not torch.equal(seen.float(), args[0].float()[: len(seen)])
    assert made.name == problem.name and made.latents == problem.latents


def test_density_is_prior_times_likelihood_of_the_new_data():
    simulator = Simulator.of(lvm.Problem(autoregression, Y))
    truth, observed = simulator.draw(0)
    slope = truth["slope"]
    wanted = dist.Normal(0.0, 1.0).log_prob(slope) + dist.Normal(slope * Y[:-1], 1.0).log_prob(observed["next"]).sum()
    assert log_p(simulator.attach(observed), truth) == pytest.approx(float(wanted), rel=1e-5)


def test_masked_values_stay_out_of_the_density():
    seen = torch.tensor([True, False, True, True, False, True])
    simulator = Simulator.of(lvm.Problem(masked, Y, seen))
    truth, observed = simulator.draw(0)
    other = {"obs": torch.where(seen, observed["obs"], observed["obs"] + 100)}
    assert log_p(simulator.attach(other), truth) == log_p(simulator.attach(observed), truth)


def test_rows_without_a_plate_are_drawn_one_by_one():
    _, observed = Simulator.of(lvm.Problem(without_plate, Y)).draw(0)
    assert observed["y"].shape == Y.shape and len(observed["y"].unique()) == len(Y)


def test_counts_keep_the_kind_of_the_data():
    simulator = Simulator.of(lvm.Problem(counts, torch.tensor([1, 4, 2, 0, 3])))
    _, observed = simulator.draw(0)
    assert observed["y"].dtype == torch.int64
    assert simulator.attach(observed).args[0].dtype == torch.int64


def test_a_guide_that_looks_at_the_data_sees_the_new_ones():
    for model in (plain, prior_from_data):
        args = (torch.linspace(-1, 1, 6), Y) if model is plain else (Y,)
        simulator = Simulator.of(lvm.Problem(model, *args))
        _, observed = simulator.draw(1)
        assert torch.equal(simulator.attach(observed).arguments["y"], observed["y"])


def test_draws_follow_the_prior_and_the_seed():
    simulator = Simulator.of(lvm.Problem(plain, torch.ones(6), Y))
    values = np.array([float(simulator.draw(seed)[0]["mu"]) for seed in range(400)])
    assert abs(values.mean()) < 4 / 20 and abs(values.std() - 1) < 4 / np.sqrt(800)
    assert torch.equal(simulator.draw(7)[1]["y"], simulator.draw(7)[1]["y"])


def test_minibatches_need_data_in_an_argument():
    simulator = Simulator.of(lvm.Problem(prior_from_data, Y))
    problem = simulator.attach(simulator.draw(0)[1])
    with pytest.raises(lvm.ProblemError, match="minibatches"):
        lvm.fit(problem, "mean_field", batch_size=2, max_steps=5, progress=False)


def improper(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    sd = pyro.sample("sd", dist.ImproperUniform(dist.constraints.positive, (), ()))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(mu, sd), obs=y)


def learnable(y):
    sd = pyro.param("sd", torch.tensor(1.0), constraint=dist.constraints.positive)
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(mu, sd), obs=y)


def with_factor(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.factor("penalty", -mu.abs())
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def tempered(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(y)), poutine.scale(scale=0.5):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def no_data(y):
    pyro.sample("mu", dist.Normal(y.mean(), 1.0))


def no_latents(y):
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (improper, "'sd'.*improper"),
        (learnable, "sd"),
        (with_factor, "'penalty'"),
        (tempered, "'y'"),
        (no_data, "no observed site"),
        (no_latents, "no latent site"),
    ],
)
def test_what_cannot_be_simulated_is_said_at_once(model, says):
    with pytest.raises(lvm.ProblemError, match=rf"(?s){says}.*Fix:"):
        lvm.calibrate(lvm.Problem(model, Y), "mean_field", simulations=2, progress=False)


def partly_observed(y, seen):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y, obs_mask=seen)


def test_latents_that_a_mask_takes_out_are_not_ranked():
    problem = lvm.Problem(partly_observed, Y, torch.tensor([True, True, False, True, True, True]))
    simulator = Simulator.of(problem)
    ranking = Ranking.of(problem, None, *simulator.draw(0))
    assert set(ranking.shapes) == {"mu", "log_likelihood", "log_prior"}
    assert "y_unobserved" in ranking.left_out[0]


def subsampled_part(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(y), subsample_size=3) as rows:
        pyro.sample("y", dist.Normal(mu, 0.5), obs=2 * y[rows])


def test_rows_of_data_that_the_model_makes_are_refused():
    with pytest.raises(lvm.ProblemError, match=r"(?s)plate 'n'.*Fix:"):
        Simulator.of(lvm.Problem(subsampled_part, Y))
