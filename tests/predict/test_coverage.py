"""Intervals of predictions hold what they say, over data simulated from the model."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

DATA_SETS = 200
GROUP = torch.arange(15) % 3


def grouped(x: Tensor, group: Tensor, count: int, y: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("groups", count):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.5))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(slope * x + effect[group], 0.5), obs=y)


METHODS = {
    "exact": lambda problem, seed: lvm.exact(problem, draws=500, progress=False),
    "full_rank": lambda problem, seed: lvm.fit(problem, "full_rank", draws=500, seed=seed, progress=False),
    "nuts": lambda problem, seed: lvm.nuts(problem, chains=2, warmup=150, draws=250, seed=seed, progress=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_intervals_of_known_and_new_groups_cover_their_share_of_simulated_data(method: str) -> None:
    generator = np.random.default_rng(0)
    inside = {0.5: [], 0.9: []}
    x, new, where = torch.linspace(-1, 1, 15), torch.tensor([2.0, 0.5]), torch.tensor([1, 3])
    for seed in range(DATA_SETS):
        slope, effect = generator.normal(), 1.5 * generator.normal(size=4)
        y = slope * x.numpy() + effect[GROUP.numpy()] + 0.5 * generator.normal(size=15)
        truth = slope * new.numpy() + effect[where.numpy()] + 0.5 * generator.normal(size=2)
        result = METHODS[method](lvm.Problem(grouped, x, GROUP, 3, y.astype(np.float32)), seed)
        draws = lvm.predict(result, new, where, 4, draws=500, seed=seed)["predictions"]["y"].values.reshape(-1, 2)
        for share, found in inside.items():
            low, high = np.quantile(draws, [(1 - share) / 2, (1 + share) / 2], axis=0)
            found.append((low <= truth) & (truth <= high))
    for share, found in inside.items():
        error = np.sqrt(share * (1 - share) / DATA_SETS)
        assert np.all(np.abs(np.mean(found, axis=0) - share) < 3.5 * error + 0.01), (share, np.mean(found, axis=0))
