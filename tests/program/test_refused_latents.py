"""Latents that no guide can have: discrete ones that cannot be summed out, and point masses. The message says why of this one."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm


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


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (counted, "Geometric, discrete with infinitely many values"),
        (vector, r"Bernoulli, discrete in dimensions declared by \.to_event"),
        (uneven, "Binomial, discrete with values that Pyro does not list"),
        (split, "Multinomial, discrete with values that Pyro does not list"),
    ],
)
def test_the_message_says_why_a_discrete_latent_cannot_be_summed_out(model: Callable[[Tensor], None], why: str) -> None:
    problem = lvm.Problem(model, torch.tensor([1.0, 0.0, 2.0]))
    for fails in (lambda: lvm.fit(problem, "mean_field", progress=False), lambda: lvm.nuts(problem, progress=False)):
        with pytest.raises(lvm.PyrolvmError, match=f"{why}.*Fix:"):
            fails()


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
