"""Latents that no guide can have: discrete ones that cannot be summed out, and point masses. The message says why, and what to do."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._program.density import Joint


def counted(y: Tensor) -> None:
    n = pyro.sample("n", dist.Geometric(0.3))
    pyro.sample("y", dist.Normal(n + pyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0).expand([3]).to_event(1), obs=y)


def vector(y: Tensor) -> None:
    n = pyro.sample("n", dist.Bernoulli(0.3).expand([3]).to_event(1))
    pyro.sample("y", dist.Normal(n + pyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0).to_event(1), obs=y)


def uneven(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3):
        n = pyro.sample("n", dist.Binomial(torch.tensor([2, 3, 4]), torch.full((3,), 0.4)))
        pyro.sample("y", dist.Normal(n + mu, 1.0), obs=y)


def split(y: Tensor) -> None:
    n = pyro.sample("n", dist.Multinomial(4, torch.tensor([0.2, 0.3, 0.5])))
    pyro.sample("y", dist.Normal(n + pyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0).to_event(1), obs=y)


def tree(y: Tensor) -> None:
    edges = pyro.sample("n", dist.SpanningTree(torch.zeros(6)))
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(edges.sum(-1) + mu, 1.0).to_event(1), obs=y)


def matched_by_steps(y: Tensor) -> None:
    pairs = pyro.sample("n", dist.OneOneMatching(torch.zeros(7, 7)))
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(pairs[:3] + mu, 1.0).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "why", "instead"),
    [
        (counted, "Geometric, discrete with infinitely many values", "GammaPoisson.*truncate"),
        (vector, r"Bernoulli, discrete in dimensions declared by \.to_event", "into a plate"),
        (uneven, "Binomial, discrete with values that Pyro does not list", "the same values"),
        (split, "Multinomial, counts of a total", "Categorical in a plate"),
        (tree, "SpanningTree, a tree", "log_partition_function"),
        (matched_by_steps, "OneOneMatching, a matching", "relax it"),
    ],
)
def test_the_message_says_why_a_discrete_latent_cannot_be_summed_out_and_what_to_do(
    model: Callable[[Tensor], None], why: str, instead: str
) -> None:
    problem = lvm.Problem(model, torch.tensor([1.0, 0.0, 2.0]))
    for fails in (lambda: lvm.fit(problem, "mean_field", progress=False), lambda: lvm.nuts(problem, progress=False)):
        with pytest.raises(lvm.PyrolvmError, match=f"{why}.*Fix:.*{instead}"):
            fails()


def matched(y: Tensor) -> None:
    logits = torch.tensor([[0.5, -1.0, 0.3], [0.0, 1.0, 0.2], [0.4, 0.1, -0.7]])
    pairs = pyro.sample("n", dist.OneOneMatching(logits))
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(mu + pairs, 0.5).to_event(1), obs=y)


def test_matchings_of_few_nodes_are_summed_out() -> None:
    y = torch.tensor([1.3, 0.2, 2.4])
    problem = lvm.Problem(matched, y)
    logits = torch.tensor([[0.5, -1.0, 0.3], [0.0, 1.0, 0.2], [0.4, 0.1, -0.7]])
    orders = torch.tensor(list(itertools.permutations(range(3))))
    weight = logits[torch.arange(3), orders].sum(-1).log_softmax(-1)
    for mu in (-0.4, 0.9):
        seen = dist.Normal(mu + orders, 0.5).log_prob(y).sum(-1)
        wanted = (weight + seen).logsumexp(-1) + dist.Normal(0.0, 1.0).log_prob(torch.tensor(mu))
        with problem.session(seed=0):
            found = Joint(problem).log_p({"mu": torch.tensor(mu)})
        torch.testing.assert_close(found, wanted)


def fixed(y: Tensor) -> None:
    start = pyro.sample("start", dist.Delta(torch.tensor(1.5)))
    pyro.sample("y", dist.Normal(start + pyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0).expand([3]).to_event(1), obs=y)


def fixed_vector(y: Tensor) -> None:
    start = pyro.sample("start", dist.Delta(torch.zeros(3)).to_event(1))
    pyro.sample("y", dist.Normal(start + pyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0).to_event(1), obs=y)


def fixed_by_another(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3):
        start = pyro.sample("start", dist.Delta(2.0 * mu))
        pyro.sample("y", dist.Normal(start, 1.0), obs=y)


@pytest.mark.parametrize("model", [fixed, fixed_vector, fixed_by_another])
def test_a_latent_that_is_a_point_is_named_with_what_to_write(model: Callable[[Tensor], None]) -> None:
    problem = lvm.Problem(model, torch.tensor([1.0, 0.0, 2.0]))
    with pytest.raises(lvm.FitError, match=r"'start' is a Delta, .*pyro\.deterministic\('start', value\)"):
        lvm.fit(problem, "mean_field", progress=False)
