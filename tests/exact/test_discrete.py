"""Discrete latents against sums over every configuration, written out here."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

import pyrolvm as lvm

TIGHT = 1e-10

START = np.array([0.6, 0.3, 0.1])
MOVE = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
LOCS, SCALES = np.array([-1.0, 0.5, 3.0]), np.array([1.0, 0.5, 2.0])


def double(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def hmm(y: Tensor) -> None:
    start, move, locs, scales = map(double, (START, MOVE, LOCS, SCALES))
    z = None
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Categorical(start if z is None else move[z]))
        pyro.sample(f"y_{t}", dist.Normal(locs[z], scales[z]), obs=y[t])


def brute_force(y):
    """Log joint densities of all paths, and the paths."""
    paths = np.array(list(itertools.product(range(3), repeat=len(y))))
    logs = np.log(START[paths[:, 0]]) + np.log(MOVE[paths[:, :-1], paths[:, 1:]]).sum(1)
    return logs + stats.norm(LOCS[paths], SCALES[paths]).logpdf(y).sum(1), paths


def forward_backward(y):
    """Log likelihood and state probabilities by the two recursions."""
    emit = stats.norm(LOCS, SCALES).logpdf(y[:, None])
    forward, backward = np.empty((len(y), 3)), np.zeros((len(y), 3))
    forward[0] = np.log(START) + emit[0]
    for t in range(1, len(y)):
        forward[t] = np.logaddexp.reduce(forward[t - 1][:, None] + np.log(MOVE), axis=0) + emit[t]
    for t in range(len(y) - 2, -1, -1):
        backward[t] = np.logaddexp.reduce(np.log(MOVE) + emit[t + 1] + backward[t + 1], axis=1)
    total = np.logaddexp.reduce(forward[-1])
    return total, np.exp(forward + backward - total)


@pytest.mark.parametrize("length", [1, 2, 6, 8])  # 8: more paths than are summed for verification
def test_an_hmm_is_the_sum_over_every_path(exact, rng, length):
    y = rng.normal(size=length)
    result = exact(hmm, double(y), draws=2000)
    logs, paths = brute_force(y)
    total = np.logaddexp.reduce(logs)
    assert result.evidence.value == pytest.approx(total, abs=TIGHT)
    probability = np.exp(logs - total)
    for t in range(length):
        wanted = np.array([probability[paths[:, t] == k].sum() for k in range(3)])
        np.testing.assert_allclose(result.marginals[f"z_{t}"].values, wanted, atol=TIGHT)
    drawn = np.stack([result.data["posterior"][f"z_{t}"].values[0] for t in range(length)], 1)
    place = (drawn * 3 ** np.arange(length - 1, -1, -1)).sum(1)
    np.testing.assert_allclose(result.log_q[0], logs[place] - total, atol=1e-9)
    counts = np.bincount(place, minlength=len(paths))
    likely = probability * 2000 >= 5
    expected = np.append(probability[likely], probability[~likely].sum()) * 2000
    found = np.append(counts[likely], counts[~likely].sum())
    keep = expected > 0
    assert stats.chisquare(found[keep], expected[keep] * found[keep].sum() / expected[keep].sum()).pvalue > 1e-4


def test_a_long_hmm_agrees_with_forward_and_backward_recursions(exact, rng):
    y = rng.normal(size=60) * 2
    result = exact(hmm, double(y), draws=500)
    total, states = forward_backward(y)
    assert result.evidence.value == pytest.approx(total, abs=TIGHT)
    found = np.stack([result.marginals[f"z_{t}"].values for t in range(60)])
    np.testing.assert_allclose(found, states, atol=TIGHT)
    assert result.verdict.trusted


def test_mixture_responsibilities(exact, rng):
    weights, locs = np.array([0.2, 0.5, 0.3]), rng.normal(size=(3, 2)) * 2

    def mixture(y: Tensor) -> None:
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(double(weights)))
            pyro.sample("y", dist.Normal(double(locs)[z], 0.8).to_event(1), obs=y)

    y = rng.normal(size=(50, 2)) * 2
    result = exact(mixture, double(y), draws=2000)
    each = weights * np.exp(stats.norm(locs, 0.8).logpdf(y[:, None]).sum(-1))
    assert result.evidence.value == pytest.approx(np.log(each.sum(1)).sum(), abs=TIGHT)
    wanted = each / each.sum(1, keepdims=True)
    np.testing.assert_allclose(result.marginals["z"].values, wanted, atol=TIGHT)
    drawn = result.data["posterior"]["z"].values[0]
    np.testing.assert_allclose(result.log_q[0], np.log(wanted[np.arange(50), drawn]).sum(1), atol=1e-9)


def test_nested_plates_and_a_shared_cause(exact, rng):
    def model(y: Tensor) -> None:
        cause = pyro.sample("cause", dist.Bernoulli(0.3))
        with pyro.plate("columns", 2, dim=-1), pyro.plate("rows", 3, dim=-2):
            z = pyro.sample("z", dist.Bernoulli(0.2 + 0.5 * cause))
            pyro.sample("y", dist.Normal(2 * z, 1.0), obs=y)

    y = rng.normal(size=(3, 2))
    result = exact(model, double(y))
    one, zero = stats.norm(2, 1).pdf(y), stats.norm(0, 1).pdf(y)
    sides = np.array([(p * one + (1 - p) * zero).prod() * w for p, w in ((0.2, 0.7), (0.7, 0.3))])
    assert result.evidence.value == pytest.approx(math.log(sides.sum()), abs=TIGHT)
    sides /= sides.sum()
    np.testing.assert_allclose(result.marginals["cause"].values, sides, atol=TIGHT)
    wanted = sum(s * p * one / (p * one + (1 - p) * zero) for s, p in zip(sides, (0.2, 0.7), strict=True))
    np.testing.assert_allclose(result.marginals["z"].values[..., 1], wanted, atol=TIGHT)
    assert result.marginals["z"].dims == ("rows", "columns", "z_value")


def test_a_plate_of_one_row_and_a_support_of_one_value(exact):
    def model(y: Tensor) -> None:
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("one", dist.Categorical(torch.ones(1)))
            pyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=y)

    result = exact(model, double([0.5]))
    np.testing.assert_allclose(result.marginals["z"].values, [[0.5, 0.5]], atol=TIGHT)
    np.testing.assert_allclose(result.marginals["one"].values, [[1.0]], atol=TIGHT)


def test_a_binomial_latent(exact):
    def model(y: Tensor) -> None:
        n = pyro.sample("n", dist.Binomial(4, torch.tensor(0.3)))
        pyro.sample("y", dist.Normal(n, 1.0), obs=y)

    result = exact(model, double(1.2))
    each = stats.binom(4, 0.3).pmf(np.arange(5)) * stats.norm(np.arange(5), 1).pdf(1.2)
    assert result.evidence.value == pytest.approx(math.log(each.sum()), abs=TIGHT)
    np.testing.assert_allclose(result.marginals["n"].values, each / each.sum(), atol=TIGHT)


def test_data_that_no_configuration_allows_are_refused(exact):
    def model(y: Tensor) -> None:
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5, 0.0])))
        pyro.factor("never", torch.where(z < 9, -torch.inf, 0.0))
        pyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=y)

    with pytest.raises(lvm.ProblemError, match=r"no configuration has a positive probability.*Fix:"):
        exact(model, double(1.0))


def test_latents_that_cannot_be_summed_out_together_are_refused(exact):
    """What is outside a plate depends on everything inside it."""

    def model(y: Tensor) -> None:
        with pyro.plate("spikes", 3):
            z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y)

    with pytest.raises(lvm.ProblemError, match=r"Fix:"):
        exact(model, double(1.0))


def test_too_long_without_markov_is_refused_with_the_remedy(exact, rng):
    def model(y: Tensor) -> None:
        z = torch.tensor(0)
        for t in range(len(y)):
            z = pyro.sample(f"z_{t}", dist.Categorical(double(MOVE)[z]))
            pyro.sample(f"y_{t}", dist.Normal(double(LOCS)[z], 1.0), obs=y[t])

    with pytest.raises(lvm.ProblemError, match=r"pyro\.markov"):
        exact(model, double(rng.normal(size=90)))
