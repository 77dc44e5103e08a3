"""Posteriors under flat priors: those whose density falls nowhere are found, and heavy tails are none of them."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

import pyrolvm as lvm

X = torch.tensor([-2.0, -1.0, -0.5, 0.4, 1.0, 2.0])
APART = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
MIXED = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])


def flat(name: str, support: object = constraints.real) -> Tensor:
    return pyro.sample(name, dist.ImproperUniform(support, (), ()))


def logistic(y: Tensor) -> None:
    slope = flat("slope")
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=slope * X), obs=y)


def sum_alone(y: Tensor) -> None:
    total = flat("one") + flat("other")
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(total, 1.0), obs=y)


def scale_of_one(y: Tensor) -> None:
    pyro.sample("y", dist.Normal(0.0, flat("scale", constraints.positive)), obs=y[0] + 1)


def location_and_scale(y: Tensor) -> None:
    mu, scale = flat("mu"), flat("scale", constraints.positive)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, scale), obs=y)


def heavy(y: Tensor) -> None:
    place = flat("place")
    with pyro.plate("rows", 2):
        pyro.sample("y", dist.Cauchy(place, 1.0), obs=y[:2])


def far_and_narrow(y: Tensor) -> None:
    place = flat("place")
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(place, 1e-4), obs=1e3 + 1e-4 * y)


def fitted(model: object, y: Tensor) -> lvm.Fit:
    return lvm.fit(lvm.Problem(model, y), "mean_field", max_steps=200, draws=50, seed=0, progress=False)


@pytest.mark.filterwarnings("ignore::pyrolvm.PyrolvmWarning")
@pytest.mark.parametrize(  # which of two that make up a line is named, the axis says
    ("model", "y", "site"),
    [(logistic, APART, "slope"), (sum_alone, X, "other"), (scale_of_one, X, "scale")],
    ids=["separated", "sum", "one datum"],
)
def test_a_density_that_never_falls_is_no_posterior(model, y, site):
    verdict = fitted(model, y).verdict
    assert verdict.status == "failed" and f"`{site}`" in str(verdict) and "improper" in str(verdict)


@pytest.mark.filterwarnings("ignore::pyrolvm.PyrolvmWarning")
@pytest.mark.parametrize(
    ("model", "y"),
    [
        pytest.param(logistic, MIXED, marks=pytest.mark.slow, id="logistic"),
        pytest.param(location_and_scale, X, id="location and scale"),
        pytest.param(heavy, X, id="two Cauchys"),
        pytest.param(far_and_narrow, X, marks=pytest.mark.slow, id="far and narrow"),
    ],
)
def test_a_proper_posterior_under_flat_priors_is_not_called_improper(model, y):
    attrs = fitted(model, y).data["posterior"].attrs
    assert "endless" not in attrs and "propriety_note" not in attrs


@pytest.mark.slow
def test_chains_of_an_improper_posterior_fail_too():
    problem = lvm.Problem(logistic, APART)
    assert "improper" in str(lvm.nuts(problem, chains=2, warmup=50, draws=20, seed=1, progress=False).verdict)
