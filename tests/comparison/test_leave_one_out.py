"""Leave-one-out where weights alone are not enough: draws that are moved, and fits without a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

QUIET: dict[str, Any] = {"progress": False}
GROUP = torch.arange(40) % 8
Y = 1.5 * torch.sin(5.0 * torch.arange(8.0))[GROUP] + torch.sin(37.0 * torch.arange(40.0))
Y[5] = 9.0


def grouped(group: Tensor, y: Tensor) -> None:
    middle = pyro.sample("middle", dist.Normal(0.0, 3.0))
    with pyro.plate("groups", 8):
        effect = pyro.sample("effect", dist.Normal(middle, 1.5))
    with pyro.plate("rows", len(group)):
        pyro.sample("y", dist.Normal(effect[group], 1.0), obs=y)


def exact_rows() -> np.ndarray:
    same = (GROUP[:, None] == GROUP).numpy().astype(float)
    precision = np.linalg.inv(9.0 + 2.25 * same + np.eye(40))
    gap = precision @ Y.numpy().astype(float)
    var = 1 / np.diag(precision)
    return -0.5 * np.log(2 * np.pi * var) - 0.5 * gap**2 * var


def counts(x: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Poisson((a + b * x).exp()), obs=y)


def test_moved_draws_leave_out_a_row_of_a_hierarchical_model_that_weights_cannot() -> None:
    fit = lvm.fit(lvm.Problem(grouped, GROUP, Y), "full_rank", **QUIET)
    plain, moved = (fit.loo(moment_match=match, integrate=False) for match in (False, True))
    wanted = exact_rows()
    assert plain.bad == 1 and abs(float(plain.rows["elpd"][5]) - wanted[5]) > 0.3
    assert moved.bad == 0 and moved.matched == 1 and moved.verdict.trusted
    np.testing.assert_allclose(moved.rows["elpd"], wanted, atol=0.15)


def test_moved_draws_leave_out_a_count_far_from_all_others() -> None:
    x = torch.linspace(-2, 2, 40)
    y = torch.round(torch.exp(0.5 + 0.6 * x))
    y[3] = 9.0
    fit = lvm.fit(lvm.Problem(counts, x, y), "full_rank", **QUIET)
    a, b = torch.meshgrid(*[torch.linspace(-1.5, 2.5, 300, dtype=torch.float64)] * 2, indexing="ij")
    terms = dist.Poisson((a[..., None] + b[..., None] * x).exp()).log_prob(y.double())
    joint = dist.Normal(0.0, 2.0).log_prob(a) + dist.Normal(0.0, 2.0).log_prob(b) + terms.sum(-1)
    wanted = np.array([float(joint.logsumexp((0, 1)) - (joint - terms[..., i]).logsumexp((0, 1))) for i in range(40)])
    plain, moved = fit.loo(moment_match=False), fit.loo()
    assert plain.bad and moved.bad < plain.bad
    assert abs(moved.elpd - wanted.sum()) < 0.5 * abs(plain.elpd - wanted.sum())


@pytest.mark.slow
def test_rows_that_stay_bad_are_left_out_by_fits_without_them() -> None:
    problem = lvm.Problem(grouped, GROUP, Y)
    found = lvm.nuts(problem, chains=2, warmup=200, draws=300, **QUIET).loo(
        moment_match=False, integrate=False, refit=True
    )
    assert found.refitted >= 1 and found.bad == 0
    # Nine sds away few of 600 draws say anything: integrating the effects out needs no such draws.
    assert float(found.rows["elpd"][5]) == pytest.approx(exact_rows()[5], abs=4.0)
