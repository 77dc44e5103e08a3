"""The models and guides of the table of mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

# --- models -----------------------------------------------------------------------------------------------------------


def schools(sigma: Tensor, y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def line(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)


def local(x: Tensor, y: Tensor) -> None:
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z * x, 1.0), obs=y)


def subsampled(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y), subsample_size=4) as i:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(w * x[i] + z, 1.0), obs=y[i])


def mixture(y: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(loc + z, 1.0), obs=y)


def counts(y: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    with pyro.plate("rows", len(y)):
        n = pyro.sample("n", dist.Poisson(rate))
        pyro.sample("y", dist.Normal(n, 1.0), obs=y)


def fraction(y: Tensor) -> None:
    p = pyro.sample("p", dist.Uniform(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(p, 1.0), obs=y)


def n_by_n(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(w * x[:, None], 1.0).to_event(2), obs=y)


def n_by_n_in_plate(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(w * x[:, None], 1.0), obs=y)


def no_plate(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(w * x, 1.0).to_event(1), obs=y)


def half_in_plate(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)
    pyro.sample("again", dist.Normal(w * x, 2.0).to_event(1), obs=y)


def factor_outside(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)
    pyro.factor("penalty", -((y - w * x) ** 2).sum())


def total_outside(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)
    pyro.sample("total", dist.Normal(w, 1.0), obs=y.sum())


def walled(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.factor("wall", 0.0 * mu - float("inf"))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def bounded(y: Tensor) -> None:
    high = pyro.sample("high", dist.Uniform(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Uniform(0.0, high), obs=y)


def poisson(y: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def negative_scale(y: Tensor) -> None:
    s = pyro.sample("s", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(0.0, -1 - s**2), obs=y)


def twice(y: Tensor) -> None:
    pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("a", dist.Normal(0.0, 1.0))


def plate_of(size: int) -> Callable[[Tensor], None]:
    def model(y: Tensor) -> None:
        with pyro.plate("rows", size):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    return model


def loop_of(size: int) -> Callable[[Tensor], None]:
    def model(y: Tensor) -> None:
        for i in pyro.plate("rows", size):
            pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))

    return model


def mixed_inside(y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    x = torch.ones(8, 3, dtype=torch.float16)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


# --- guides -----------------------------------------------------------------------------------------------------------


def guide_of(*, tau: Any = None, mu: Any = dist.Normal, extra: str | None = None) -> Callable[..., None]:
    """A guide for ``schools``, with a choice of mistakes."""

    def guide(sigma: Tensor, y: Tensor) -> None:
        m = pyro.param("m", torch.tensor(0.0))
        pyro.sample("mu", mu(m, 1.0))
        if tau is not None:
            pyro.sample("tau", tau(m, 1.0))
        if extra is not None:
            pyro.sample(extra, dist.Normal(m, 1.0))
        with pyro.plate("school", len(y)):
            pyro.sample("theta", dist.Normal(m, 1.0))

    return guide


def wide_fraction(y: Tensor) -> None:
    m = pyro.param("m", torch.tensor(-1.0))
    pyro.sample("p", dist.LogNormal(m, 1.0))


def other_plate(x: Tensor, y: Tensor) -> None:
    m = pyro.param("m", torch.tensor(0.0))
    pyro.sample("w", dist.Normal(m, 1.0))
    loc = pyro.param("loc", torch.zeros(8))
    with pyro.plate("lines", len(y), subsample_size=4) as i:
        pyro.sample("z", dist.Normal(loc[i], 1.0))


def own_rows(x: Tensor, y: Tensor) -> None:
    m = pyro.param("m", torch.tensor(0.0))
    pyro.sample("w", dist.Normal(m, 1.0))
    loc = pyro.param("loc", torch.zeros(8))
    rows = torch.tensor([1, 3, 5, 7])
    pyro.sample("z", dist.Normal(loc[rows], 1.0).to_event(1))


def sized_by_batch(x: Tensor, y: Tensor) -> None:
    m = pyro.param("m", torch.tensor(0.0))
    pyro.sample("w", dist.Normal(m, 1.0))
    with pyro.plate("rows", len(y), subsample_size=4):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(4)), 1.0))


def other_size(x: Tensor, y: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(8))
    with pyro.plate("rows", 9, subsample=torch.arange(1, 9)):
        pyro.sample("z", dist.Normal(loc, 1.0))


def continuous_z(y: Tensor) -> None:
    m = pyro.param("m", torch.tensor(0.0))
    pyro.sample("loc", dist.Normal(m, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("z", dist.Normal(m, 1.0))


def nothing_to_train(x: Tensor, y: Tensor) -> None:
    pyro.sample("w", dist.Normal(0.0, 1.0))
