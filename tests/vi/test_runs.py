"""How often the user's model runs before a fit takes its first step."""

from __future__ import annotations

from collections import Counter

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._methods.fit import inference

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


@pytest.mark.parametrize(
    ("centred", "most"),
    [
        (False, 30),
        (True, 56),
    ],  # each draw of a guide in coordinates of its parents runs the model up to the last of them
)
def test_a_fit_of_eight_schools_begins_after_few(monkeypatch, centred: bool, most: int) -> None:
    runs: Counter[str] = Counter()
    now = ["before"]

    def schools(sigma, y):
        runs[now[0]] += 1
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, tau) if centred else dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(theta if centred else mu + tau * theta, sigma), obs=y)

    problem = lvm.Problem(schools, ERRORS, EFFECTS)
    assert runs.pop("before") == 1
    search = inference.search

    def searched(*args, **kwargs):
        now[0] = "steps"
        return search(*args, **kwargs)

    monkeypatch.setattr(inference, "search", searched)
    fit = lvm.fit(problem, max_steps=400, progress=False)
    assert fit.engine == "c" and fit.name == "full_rank"
    assert 0 < runs["before"] <= most
