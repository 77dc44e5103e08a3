"""What a fit that cannot be made says: of NUTS where that takes the model, and of nothing where it does not."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

Y = torch.tensor([0.3, -0.8, 1.1, 0.4, -0.2, 0.9])


def volatility(y: Tensor) -> None:
    """A variance that follows the squares before it, stationary by a bound that another latent sets."""
    base = pyro.sample("base", dist.HalfNormal(1.0))
    fresh = pyro.sample("fresh", dist.Uniform(0.0, 1.0))
    kept = pyro.sample("kept", dist.Uniform(0.0, 1.0 - fresh))
    variance = torch.ones(())
    for t in range(len(y)):
        pyro.sample(f"y_{t}", dist.Normal(0.0, variance.sqrt()), obs=y[t])
        variance = base + fresh * y[t] ** 2 + kept * variance


def threshold(y: Tensor) -> None:
    low = pyro.sample("low", dist.Gamma(3.0, 3.0))
    high = pyro.sample("high", dist.Pareto(low, 3.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(high, 0.5), obs=y)


def within(y: Tensor) -> None:
    width = pyro.sample("width", dist.LogNormal(0.0, 0.5))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Uniform(-width, width))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


@pytest.mark.parametrize("guide", ["auto", "mean_field"])
@pytest.mark.parametrize("model", [volatility, threshold, within])
def test_a_refusal_says_that_nuts_takes_the_model(model, guide):
    problem = lvm.Problem(model, Y)
    with pytest.raises(lvm.GuideError, match=r"Fix: .* Or sample: lvm\.nuts\(problem\) takes this model as it is\.$"):
        lvm.fit(problem, guide, progress=False)
    assert (
        lvm.nuts(problem, engine="pyro", chains=1, warmup=1, draws=2, max_tree_depth=1, progress=False).num_draws == 2
    )


def learned(y: Tensor) -> None:
    scale = pyro.param("scale", torch.tensor(1.0))
    width = pyro.sample("width", dist.LogNormal(0.0, 0.5))
    z = pyro.sample("z", dist.Uniform(-width, width))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(z * scale, 0.5), obs=y)


def test_a_refusal_names_nuts_only_where_it_takes_the_model():
    with pytest.raises(lvm.GuideError) as refused:
        lvm.fit(lvm.Problem(learned, Y), "mean_field", progress=False)
    assert "lvm.nuts" not in str(refused.value)


@pytest.mark.slow
def test_a_density_whose_height_is_beyond_all_measure_ends_in_a_result_or_our_error():
    def model(y: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(m, s), obs=y)

    problem = lvm.Problem(model, (1e30 * Y).double())
    for run in (
        lambda: lvm.fit(problem, "full_rank", max_steps=50, draws=20, progress=False),
        lambda: lvm.nuts(problem, chains=1, warmup=5, draws=5, max_tree_depth=2, progress=False),
    ):
        try:
            assert not run().verdict.trusted
        except lvm.PyrolvmError as error:
            assert "Fix:" in str(error) and "tuple index" not in str(error)


def test_an_argument_that_is_a_distribution_is_no_array():
    def model(y: Tensor, prior: dist.Distribution) -> None:
        m = pyro.sample("m", prior)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    problem = lvm.Problem(model, Y, prior=dist.Normal(0.0, 2.0))
    for guide in ("full_rank", "mean_field"):
        assert lvm.fit(problem, guide, max_steps=3, draws=4, progress=False).num_draws == 4
