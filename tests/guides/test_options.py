"""What the options of single families do, and which are refused."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from tests.guides.test_families import local, make


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("mean_field", {"init_scale": 0.0}),
        ("low_rank", {"rank": 0}),
        ("flow", {"transforms": 0}),
        ("flow", {"bins": 1}),
        ("flow", {"hidden": (0,)}),
        ("flow", {"tails": 31}),
        ("autoregressive", {"hidden": ()}),
        ("mixture", {"components": 0}),
        ("amortized", {"global_family": "flow"}),
        ("laplace", {"polish": -1}),
    ],
)
def test_options_out_of_range_are_refused(family: str, options: dict[str, Any]) -> None:
    with pytest.raises(lvm.ArgumentError, match=f"{next(iter(options))}.*Fix:"):
        make(family, lvm.Problem(local, torch.zeros(4)), **options)


def test_low_rank_of_rank_one_has_fewer_parameters_than_full_rank() -> None:
    problem = lvm.Problem(local, torch.zeros(20))
    count = {
        f: sum(p.numel() for name, p in make(f, problem).named_parameters() if not name.startswith("frame_"))
        for f in ("low_rank", "full_rank")
    }
    assert count["low_rank"] < count["full_rank"] / 2


@pytest.mark.parametrize("options", [{"coupling": True}, {"hidden": (8,)}, {"bound": 3.0, "bins": 4}, {"tails": 5}])
def test_flow_options(options: dict[str, Any]) -> None:
    problem = lvm.Problem(local, torch.zeros(4))
    guide = make("flow", problem, **options)
    law = guide.posterior()
    z = law.rsample()
    torch.testing.assert_close(guide.posterior().log_prob(z), law.log_prob(z), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("global_family", ["mean_field", "full_rank"])
def test_amortized_reads_rows_in_the_plate_and_treats_the_rest_as_global(global_family: str) -> None:
    x, y = torch.randn(7, 3), torch.randn(7)

    def model(x: Tensor, y: Tensor, unrelated: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(x @ w + z, 1.0), obs=y)

    problem = lvm.Problem(model, x, y, unrelated=torch.zeros(2))
    guide = make("amortized", problem, global_family=global_family)
    assert guide.features.width == 4
    assert set(guide(x, y, unrelated=torch.zeros(2))) == {"w", "z"}


def test_amortized_falls_back_to_observed_sites_that_are_no_arguments() -> None:
    y = torch.randn(2, 5)

    def model() -> None:
        with pyro.plate("rows", 5):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.deterministic("twice", 2 * z)
            pyro.sample("a", dist.Normal(z, 1.0), obs=y[0])
            pyro.sample("b", dist.Normal(z, 1.0), obs=y[1])

    guide = make("amortized", lvm.Problem(model))
    assert guide.features.width == 2
    assert guide()["z"].shape == (5,)


def test_laplace_repairs_a_saddle_only_if_allowed() -> None:
    def flat() -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("saddle", 0.5 * x * x - 0.0 * x)

    problem = lvm.Problem(flat)
    assert torch.isfinite(make("laplace", problem).finalize()()["x"])
    with pytest.raises(lvm.GuideError, match=r"not positive definite.*Fix:"):
        make("laplace", problem, repair=False).finalize()


def test_laplace_template_takes_the_finalized_parameters() -> None:
    problem = lvm.Problem(local, torch.randn(4))
    guide = make("laplace", problem)
    final = guide.finalize(*problem.args)
    empty = guide.template()
    empty.load_state_dict(final.state_dict())
    a, b = dict(final.named_parameters()), dict(empty.named_parameters())
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
