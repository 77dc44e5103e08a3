"""Small problems that the tests of ``lvm.fit`` share, and a short fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm


def normal(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
    scale = pyro.sample("scale", dist.LogNormal(y.new_tensor(0.0), 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


def mixture(y: Tensor) -> None:
    centre = pyro.sample("centre", dist.Normal(y.new_tensor(0.0), 3.0))
    with pyro.plate("row", len(y)):
        on = pyro.sample("on", dist.Bernoulli(y.new_tensor(0.4)))
        pyro.sample("y", dist.Normal(on * centre, 0.7), obs=y)


def data(dtype: torch.dtype = torch.float32, rows: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (1.0 + torch.randn(rows, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.fixture
def normal_problem() -> lvm.Problem:
    return lvm.Problem(normal, data())


@pytest.fixture
def mixture_problem() -> lvm.Problem:
    return lvm.Problem(mixture, data())


@pytest.fixture
def make_data() -> Callable[..., Tensor]:
    return data


@pytest.fixture
def short() -> Callable[..., lvm.Fit]:
    """A fit of few steps and few draws."""

    def run(problem: lvm.Problem, guide: Any = "mean_field", **options: Any) -> lvm.Fit:
        return lvm.fit(problem, guide, **{"max_steps": 30, "draws": 50, "progress": False, **options})

    return run
