"""Frames of posteriors with many rows, from a sample of them."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm.family import starting_frame, starting_frame_pays
from pyrolvm.family.pilot import find_pilot

ROWS = 60_000


def logistic(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 100.0).expand([x.shape[1]]).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def shown(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 100.0).expand([x.shape[1]]).to_event(1))
    with pyro.plate("rows", len(y), subsample_size=200) as rows:
        pyro.sample("y", dist.Bernoulli(logits=x[rows] @ w), obs=y[rows])


def local(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def _data() -> tuple[Tensor, Tensor]:
    """Columns of very different scale, two of them correlated."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 3, generator=random, dtype=torch.float64)
    x[:, 1] += 3 * x[:, 0]
    x = x * torch.tensor([1.0, 100.0, 0.01], dtype=torch.float64)
    w = torch.tensor([0.5, -0.01, 80.0], dtype=torch.float64)
    return x, torch.bernoulli(torch.sigmoid(x @ w), generator=random)


def _newton(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The mode and the sds, which with so many rows are those of the posterior to within a few thousandths."""
    w = torch.zeros(x.shape[1], dtype=x.dtype)
    prior = 1e-4 * torch.eye(len(w), dtype=x.dtype)
    for _ in range(20):
        p = torch.sigmoid(x @ w)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + prior
        w = w + torch.linalg.solve(hessian, x.T @ (y - p) - prior @ w)
    return w, torch.linalg.inv(hessian).diagonal().sqrt()


@pytest.mark.parametrize("model", [logistic, shown])
def test_the_frame_of_a_sample_lies_at_the_mode_of_all_rows(model: object) -> None:
    x, y = _data()
    problem = lvm.Problem(model, x, y)
    assert starting_frame_pays(problem)
    mode, sd = _newton(x, y)
    with problem.session(seed=0):
        family = starting_frame(problem, seed=0).best.family
    assert bool(((torch.as_tensor(family.means[0]) - mode).abs() < 0.02 * sd).all())
    scale = torch.as_tensor((family.trils[0] ** 2).sum(axis=1)).sqrt()
    assert torch.allclose(scale, sd, rtol=0.1)


@pytest.mark.slow
def test_minibatches_start_from_it() -> None:
    x, y = _data()
    problem = lvm.Problem(logistic, x, y)
    mode, sd = _newton(x, y)
    fit = lvm.fit(problem, "full_rank", batch_size=256, max_steps=1_200, draws=500, progress=False)
    draws = torch.as_tensor(fit.data["posterior"]["w"].values[0])
    assert bool(((draws.mean(0) - mode).abs() < 0.25 * sd).all())
    assert torch.allclose(draws.std(0), sd, rtol=0.25)
    plain = lvm.fit(
        problem,
        lvm.guide("full_rank", precondition="none"),
        batch_size=256,
        max_steps=600,
        draws=200,
        progress=False,
    )
    draws = torch.as_tensor(plain.data["posterior"]["w"].values[0])
    assert bool(((draws.mean(0) - mode).abs() > 2 * sd).any())


def test_rows_with_latents_of_their_own_cannot_stand_for_others() -> None:
    problem = lvm.Problem(local, torch.zeros(ROWS, dtype=torch.float64))
    assert not starting_frame_pays(problem)
    with problem.session(seed=0), pytest.raises(lvm.ArgumentError, match=r"'rows'.*latent sites of their own.*Fix:"):
        find_pilot(problem, seed=0)
