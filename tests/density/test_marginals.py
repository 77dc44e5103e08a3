"""Discrete latents of which some are given, and the probabilities of those that are not."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._program.density import Joint, map_draws, marginals, repeat

MOVE = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)


def chain(y: Tensor) -> None:
    z = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Categorical(MOVE[z]))
        pyro.sample(f"y_{t}", dist.Normal(2.0 * z, 1.0), obs=y[t])


def one_row(y: Tensor) -> None:
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3, dtype=y.dtype)))
        pyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)


def test_a_given_site_inside_markov_leaves_the_others_summed_out() -> None:
    problem = lvm.Problem(chain, torch.tensor([0.1, 1.5, 2.2, -0.4], dtype=torch.float64))
    with problem.session(seed=0):
        joint, given = Joint(problem), torch.tensor([0, 1])
        total = joint.log_p({})
        for name in ("z_0", "z_2", "z_3"):
            parts = map_draws(lambda one: {"log_p": joint.log_p(one)}, {name: given})["log_p"]
            torch.testing.assert_close(torch.logsumexp(parts, 0), total, rtol=1e-12, atol=0.0)
            torch.testing.assert_close((parts - total).exp(), marginals(joint)[name], rtol=1e-12, atol=0.0)


def test_draws_and_probabilities_keep_a_plate_of_one_row() -> None:
    problem = lvm.Problem(one_row, torch.tensor([0.7], dtype=torch.float64))
    with problem.session(seed=0):
        joint = Joint(problem)
        assert joint.discrete({})["z"].shape == (1,)
        assert marginals(joint)["z"].shape == (1, 2)
        drawn = repeat(lambda: joint.discrete({}), 3, like=torch.zeros(()))
        assert drawn["z"].shape == (3, 1)
