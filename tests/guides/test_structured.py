"""The guide whose Gaussians depend on each other as the model's plates do."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

DRIFT, NOISE = 1.5, 0.5


def hierarchy(y: Tensor) -> None:
    """Groups of rows: normal throughout, so that every conditional is."""
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("groups", y.shape[0], dim=-2):
        a = pyro.sample("a", dist.Normal(mu, 1.0))
        with pyro.plate("rows", y.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(a, DRIFT))
            pyro.sample("y", dist.Normal(z, NOISE), obs=y)


def pairs(y: Tensor) -> None:
    """Two sites in a row, which the data tie together, and two globals."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(m, 1.0).to_event(1))
        v = pyro.sample("v", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z.sum(-1) + v, NOISE), obs=y)


def funnel(y: Tensor, noise: float = 1.0) -> None:
    tau = pyro.sample("tau", dist.LogNormal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, tau))
        pyro.sample("y", dist.Normal(z, noise), obs=y)


def unplated() -> None:
    pyro.sample("x", dist.Normal(torch.zeros(3), 1.0))


def _data(*shape: int) -> Tensor:
    return 2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("model", "shape", "precondition"),
    [
        (hierarchy, (3, 4), "none"),
        pytest.param(pairs, (5,), "frame", marks=pytest.mark.slow),
        pytest.param(hierarchy, (3, 4), "frame", marks=pytest.mark.slow),
        pytest.param(pairs, (5,), "none", marks=pytest.mark.slow),
    ],
)
def test_it_is_exact_where_rows_are_gaussian_given_the_globals(
    model: object, shape: tuple[int, ...], precondition: str
) -> None:
    problem = lvm.Problem(model, _data(*shape))
    exact = lvm.exact(problem, progress=False)
    fit = lvm.fit(problem, lvm.guide("structured", precondition=precondition), progress=False)
    assert exact.evidence is not None
    assert fit.elbo == pytest.approx(exact.evidence.value, abs=0.02)
    assert fit.data["sample_stats"]["log_weight"].std() < 0.15
    mean_field = lvm.fit(problem, "mean_field", progress=False)
    assert mean_field.elbo < exact.evidence.value - 0.3


def test_it_starts_there_in_a_frame() -> None:
    problem = lvm.Problem(hierarchy, _data(3, 4))
    exact = lvm.exact(problem, progress=False)
    fit = lvm.fit(
        problem, lvm.guide("structured", precondition="frame"), max_steps=1, learning_rate=1e-6, progress=False
    )
    assert exact.evidence is not None
    assert fit.elbo == pytest.approx(
        exact.evidence.value, abs=0.1
    )  # moments of the frame's Gaussian are of 4,000 draws


def test_scales_of_rows_follow_the_globals() -> None:
    problem = lvm.Problem(funnel, _data(6), 4.0)
    found = {
        name: lvm.fit(problem, lvm.guide(name, precondition="none"), progress=False).elbo
        for name in ("structured", "full_rank")
    }
    assert found["structured"] > found["full_rank"] + 0.3


def test_minibatches_find_what_all_rows_find() -> None:
    problem = lvm.Problem(funnel, _data(400))
    # The posterior of tau: z sums out of y.
    grid = torch.linspace(-0.5, 2.0, 2001, dtype=torch.float64)
    y = problem.args[0]
    log_p = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(0.0, (1 + grid.exp()[:, None] ** 2).sqrt()).log_prob(
        y
    ).sum(-1)
    weight = (log_p - log_p.logsumexp(0)).exp()
    mean = float((weight * grid).sum())
    sd = float((weight * (grid - mean) ** 2).sum().sqrt())
    for batch_size in (None, 50):
        fit = lvm.fit(
            problem, lvm.guide("structured", precondition="none"), batch_size=batch_size, seed=1, progress=False
        )
        log_tau = fit.data["posterior"]["tau"].values.ravel()
        log_tau = torch.as_tensor(log_tau).log()
        assert float(log_tau.mean()) == pytest.approx(mean, abs=0.35 * sd)
        assert float(log_tau.std()) == pytest.approx(sd, rel=0.25)


def test_batch_dimensions_without_a_plate_are_refused() -> None:
    with pytest.raises((lvm.GuideError, lvm.ProblemError), match="x"):
        lvm.fit(lvm.Problem(unplated), "structured", progress=False)
