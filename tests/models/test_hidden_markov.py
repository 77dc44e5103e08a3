"""The hidden Markov model against sums over all paths, published likelihoods, and Pyro's own enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from scipy.special import logsumexp
from scipy.stats import poisson

import pyrolvm as lvm
from pyrolvm_models.hidden_markov import EARTHQUAKES, PoissonChain, log_likelihood, smoothed

pytestmark = pytest.mark.usefixtures("double")

SITES = ("initial", "transition", "rate")


def _paths(counts, draw):
    """Every path of states ``(paths, t)`` and its log probability with the counts, by a plain sum."""
    initial, transition, rate = (draw[name].numpy() for name in SITES)
    paths = np.array(list(itertools.product(range(len(rate)), repeat=len(counts))))
    log_p = np.log(initial)[paths[:, 0]] + np.log(transition)[paths[:, :-1], paths[:, 1:]].sum(1)
    return paths, log_p + poisson(rate[paths]).logpmf(np.asarray(counts)).sum(1)


@pytest.mark.parametrize("states", [1, 2, 3])
@pytest.mark.parametrize("seed", range(2))
def test_the_marginal_is_the_sum_over_all_paths(states, seed, prior_draw, log_joint):
    problem = lvm.problem("hidden_markov", states=states, years=8).to(dtype=torch.float64)
    draw = prior_draw(problem, seed)
    paths, log_p = _paths(EARTHQUAKES[:8], draw)
    counts = problem.args[0]
    assert float(log_likelihood(counts, draw)) == pytest.approx(logsumexp(log_p), abs=1e-10)
    prior = (
        dist.Dirichlet(torch.ones(states)).log_prob(draw["initial"])
        + dist.Dirichlet(1 + 4 * torch.eye(states)).log_prob(draw["transition"]).sum()
        + dist.Gamma(4.0, 0.2).log_prob(draw["rate"]).sum()
    )
    assert float(log_joint(problem, draw) - prior) == pytest.approx(logsumexp(log_p), abs=1e-10)
    expected = [
        [np.exp(logsumexp(log_p[paths[:, t] == k]) - logsumexp(log_p)) for k in range(states)] for t in range(8)
    ]
    np.testing.assert_allclose(smoothed(counts, draw), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("states", [2, 3])
def test_enumeration_of_the_chain_gives_the_same(states, prior_draw, log_joint):
    explicit = lvm.problem("hidden_markov", states=states, years=12, marginal=False).to(dtype=torch.float64)
    marginal = lvm.problem("hidden_markov", states=states, years=12).to(dtype=torch.float64)
    draw = prior_draw(marginal)

    def guide(y):
        for name, value in draw.items():
            pyro.sample(name, dist.Delta(value, event_dim=value.dim()))

    enumerated = -TraceEnum_ELBO(max_plate_nesting=0).loss(explicit.model, guide, *explicit.args)
    assert enumerated == pytest.approx(float(log_joint(marginal, draw)), abs=1e-10)


@pytest.mark.parametrize(
    ("initial", "transition", "rate", "published"),
    [
        ([0.6608, 0.3392], [[0.9340, 0.0660], [0.1285, 0.8715]], [15.472, 26.125], -342.318),
        (
            [0.4436, 0.4045, 0.1519],
            [[0.955, 0.024, 0.021], [0.050, 0.899, 0.051], [1e-9, 0.197, 0.803]],
            [13.146, 19.721, 29.714],
            -329.460,
        ),
    ],
)
def test_the_published_estimates_have_their_published_likelihoods(initial, transition, rate, published):
    """Zucchini and MacDonald (2009), section 3.5.2: stationary models; their parameters are rounded."""
    draw = {"initial": torch.tensor(initial), "transition": torch.tensor(transition), "rate": torch.tensor(rate)}
    assert float(log_likelihood(torch.tensor(EARTHQUAKES), draw)) == pytest.approx(published, abs=0.01)


def test_the_counts_are_those_of_the_book():
    assert (len(EARTHQUAKES), EARTHQUAKES[0], EARTHQUAKES[-1]) == (107, 13, 11)
    assert np.mean(EARTHQUAKES) == pytest.approx(19.36, abs=0.005)
    assert np.var(EARTHQUAKES, ddof=1) == pytest.approx(51.57, abs=0.005)


def test_neither_density_nor_quantities_see_labels(prior_draw, log_joint):
    problem = lvm.problem("hidden_markov", states=3).to(dtype=torch.float64)
    draw = prior_draw(problem)
    for permutation in itertools.permutations(range(3)):
        order = torch.tensor(permutation)
        renamed = {"initial": draw["initial"][order], "rate": draw["rate"][order]}
        renamed["transition"] = draw["transition"][order][:, order]
        torch.testing.assert_close(log_joint(problem, renamed), log_joint(problem, draw))
        for name, function in problem.quantities.items():
            torch.testing.assert_close(function(renamed), function(draw), msg=lambda text, name=name: f"{name}: {text}")


def test_years_of_few_and_many_earthquakes_are_told_apart():
    draw = {
        "initial": torch.tensor([0.66, 0.34]),
        "transition": torch.tensor([[0.934, 0.066], [0.1285, 0.8715]]),
        "rate": torch.tensor([15.5, 26.1]),
    }
    problem = lvm.problem("hidden_markov").to(dtype=torch.float64)
    busy = smoothed(problem.args[0], draw)[:, 1]
    assert busy[1943 - 1900] > 0.99
    assert busy[1987 - 1900] < 0.01
    found = dict(zip(problem.coords["when"], problem.quantities["busiest"](draw).tolist(), strict=True))
    assert found[1976] == pytest.approx(float(busy[76]))


@pytest.mark.parametrize("years", [1, 2, 3, 64, 107])
def test_the_scan_is_the_forward_algorithm(years, prior_draw):
    draws = [prior_draw(lvm.problem("hidden_markov", states=3).to(dtype=torch.float64), seed) for seed in range(4)]
    counts = torch.tensor(EARTHQUAKES[:years], dtype=torch.float64)
    together = PoissonChain(*(torch.stack([draw[name] for draw in draws]) for name in SITES), years).log_prob(counts)
    one_by_one = torch.stack([log_likelihood(counts, draw) for draw in draws])
    torch.testing.assert_close(together, one_by_one, rtol=1e-12, atol=1e-10)


def test_draws_of_the_chain_have_its_moments():
    """A stationary chain: the mean count is that of the stationary mixture, neighbours covary by the second eigenvalue."""
    initial, transition = torch.tensor([2 / 3, 1 / 3]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    rate = torch.tensor([5.0, 20.0])
    with poutine.seed(rng_seed=0):
        y = PoissonChain(initial, transition, rate, 5).sample(torch.Size([20_000]))
    assert y.shape == (20_000, 5)
    variance = 15**2 * 2 / 9
    error = ((variance + 10) / 20_000) ** 0.5
    assert (y.mean(0) - 10).abs().max() < 4 * error
    covariance = float(((y[:, 1] - 10) * (y[:, 2] - 10)).mean())
    assert covariance == pytest.approx(0.7 * variance, abs=4 * 1.5 * variance / 20_000**0.5)
