"""Latents of new rows, given what is observed of these rows."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyrolvm as lvm

QUIET = {"progress": False}
LOADINGS = torch.tensor([[1.0, 0.5], [0.0, 2.0], [1.0, -1.0]])


def components(x: Tensor, seen: Tensor) -> None:
    sd = pyro.sample("sd", dist.LogNormal(np.log(0.5), 0.001))
    with pyro.plate("rows", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("columns", 3, dim=-1), pyro.poutine.mask(mask=seen):
            pyro.sample("x", dist.Normal((z @ LOADINGS.T).squeeze(-2), sd), obs=x)


def test_missing_coordinates_of_components_follow_from_those_that_are_there() -> None:
    x = torch.sin(torch.arange(30.0)).reshape(10, 3)
    fit = lvm.fit(lvm.Problem(components, x, torch.ones(10, 3, dtype=torch.bool)), "mean_field", max_steps=60, **QUIET)
    new, seen = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 0.0]]), torch.tensor([[True, True, False], [True] * 3])
    found = lvm.predict(fit, new, seen, draws=2000)
    cov = LOADINGS @ LOADINGS.T + 0.25 * torch.eye(3)
    mean = float(cov[2, :2] @ torch.linalg.solve(cov[:2, :2], new[0, :2]))
    sd = float((cov[2, 2] - cov[2, :2] @ torch.linalg.solve(cov[:2, :2], cov[:2, 2])).sqrt())
    again = found["reconstructions"]["x"].values[0, :, 0, 2]
    assert abs(again.mean() - mean) < 4 * sd / np.sqrt(len(again)) and abs(again.std() / sd - 1) < 0.08
    wanted = [
        dist.MultivariateNormal(torch.zeros(2), cov[:2, :2]).log_prob(new[0, :2]),
        dist.MultivariateNormal(torch.zeros(3), cov).log_prob(new[1]),
    ]
    np.testing.assert_allclose(found["scores"]["x_lpd"], wanted, atol=0.01)
    assert found["predictions"].attrs["latents_of_rows"] == "Gaussian"


def mixture(x: Tensor) -> None:
    middle = pyro.sample("middle", dist.Normal(torch.tensor([-2.0, 2.0]), 0.01).to_event(1))
    with pyro.plate("rows", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample("x", dist.Normal(middle[k], 1.0), obs=x)


def test_new_rows_of_a_mixture_are_assigned_and_scored_with_assignments_summed_out() -> None:
    fit = lvm.fit(lvm.Problem(mixture, torch.linspace(-3, 3, 30)), "mean_field", max_steps=60, **QUIET)
    new = torch.tensor([-2.0, 0.0, 0.5, 2.0])
    found = lvm.predict(fit, new, draws=2000)
    joint = torch.stack([np.log(w) + dist.Normal(m, 1.0).log_prob(new) for w, m in ((0.3, -2.0), (0.7, 2.0))])
    np.testing.assert_allclose(found["predictions"]["k"].mean(("chain", "draw")), joint.softmax(0)[1], atol=0.05)
    np.testing.assert_allclose(found["scores"]["x_lpd"], joint.logsumexp(0), atol=0.01)
    below = 0.3 * dist.Normal(-2.0, 1.0).cdf(new) + 0.7 * dist.Normal(2.0, 1.0).cdf(new)
    np.testing.assert_allclose(found["scores"]["x_pit"], below, atol=0.05)  # not of the assignment that x itself gives


def counts(y: Tensor) -> None:
    base = pyro.sample("base", dist.Normal(1.0, 0.001))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Poisson((base + z).exp()), obs=y)


def test_latents_without_a_closed_form_are_chosen_by_their_weights() -> None:
    result = lvm.fit(lvm.Problem(counts, torch.arange(6.0)), "mean_field", max_steps=60, **QUIET)
    new = torch.tensor([0.0, 3.0, 20.0])
    found = lvm.predict(result, new, draws=2000)
    grid = torch.linspace(-6, 6, 600)[:, None]
    base = float(result.data["posterior"]["base"].mean())
    joint = dist.Poisson((base + grid).exp()).log_prob(new) + dist.Normal(0.0, 1.0).log_prob(grid)
    share = joint.softmax(0)
    mean = (share * grid).sum(0)
    sd = ((share * (grid - mean) ** 2).sum(0)).sqrt()
    z = found["predictions"]["z"]
    assert np.all(np.abs(z.mean(("chain", "draw")) - mean.numpy()) < 5 * sd.numpy() / np.sqrt(2000))
    np.testing.assert_allclose(z.std(("chain", "draw")), sd, rtol=0.08)
    np.testing.assert_allclose(found["scores"]["y_lpd"], joint.logsumexp(0) + np.log(12 / 599), atol=0.03)


def linear(given: int, found: int) -> nn.Linear:
    """Weights that are the same in every process."""
    module = nn.Linear(given, found)
    weights = torch.linspace(-0.5, 0.7, given * found).reshape(found, given)
    module.load_state_dict({"weight": weights, "bias": torch.zeros(found)})
    return module


decoder, encoder = linear(1, 3), linear(3, 2)


def auto(x: Tensor) -> None:
    net = pyro.module("decoder", decoder)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=net(z)).to_event(1), obs=x)


def encode(x: Tensor) -> None:
    net = pyro.module("encoder", encoder)
    with pyro.plate("rows", len(x)):
        found = net(x)
        pyro.sample("z", dist.Normal(found[:, :1], found[:, 1:].exp()).to_event(1))


@pytest.mark.slow
def test_an_encoder_infers_rows_that_it_has_not_seen_and_a_guide_by_rows_does_not() -> None:
    x = (torch.arange(60).reshape(20, 3) % 3 == torch.arange(20)[:, None] % 2).float()
    problem = lvm.Problem(auto, x)
    encoded = lvm.predict(lvm.fit(problem, encode, max_steps=50, draws=200, **QUIET), x[:6] + 0.0)
    assert encoded["predictions"].attrs["latents_of_rows"] == "encoder"
    assert encoded["predictions"].attrs["evaluated_by"] == "vmap"  # the network runs for rows, not for draws
    fit = lvm.fit(problem, encode, max_steps=300, draws=500, **QUIET)
    found = lvm.predict(fit, x[:6] + 0.0)["scores"]["x_lpd"]
    grid = torch.linspace(-6, 6, 600)[:, None]
    with torch.no_grad():
        logits = fit.module("decoder")(grid)
    terms = dist.Bernoulli(logits=logits[:, None]).log_prob(x[:6]).sum(-1)
    density = (terms + dist.Normal(0.0, 1.0).log_prob(grid)).logsumexp(0) + np.log(12 / 599)
    np.testing.assert_allclose(found, density, atol=0.02)
    by_row = lvm.predict(lvm.fit(problem, "mean_field", max_steps=50, draws=200, **QUIET), x[:6] + 0.0)
    assert by_row["predictions"].attrs["latents_of_rows"] == "mode"


class Top(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))
        self.down = linear(3, 4)


def by_units(x, network):
    pyro.module("network", network)
    with pyro.plate("rows", len(x)):
        on = pyro.sample("on", dist.Bernoulli(logits=network.logits).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=network.down(on)).to_event(1), obs=x)


class Reading(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = linear(4, 3)

    def forward(self, x, network):
        with pyro.plate("rows", len(x)):
            pyro.sample("on", dist.Bernoulli(logits=self.up(x)).to_event(1))


def test_a_prior_that_is_a_parameter_itself_is_read_before_parameters_are_put_back() -> None:
    x = (torch.arange(24).reshape(6, 4) % 3 == 0).float()
    guide = lvm.Guide("reading", lambda problem: Reading())
    fit = lvm.fit(lvm.Problem(by_units, x, Top()), guide, max_steps=3, tolerance=0, draws=4, engine="pyro", **QUIET)
    found = lvm.predict(fit, x=x[:2], draws=50)
    assert np.isfinite(found["scores"]["x_lpd"].values).all()


def test_quantities_are_functions_of_all_values_of_a_draw() -> None:
    def line(x: Tensor, y: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)

    x = torch.linspace(-1, 1, 20)
    result = lvm.exact(lvm.Problem(line, x, 2 * x), draws=500, **QUIET)
    found = lvm.predict(
        result, torch.tensor([1.0, 3.0]), quantities={"total": lambda v: v["y"].sum(-1) + 0 * v["slope"]}
    )
    np.testing.assert_allclose(found["predictions"]["total"], found["predictions"]["y"].sum("rows"), rtol=1e-5)


def test_the_mean_of_values_without_an_order_is_their_probabilities() -> None:
    def graded(x: Tensor, y: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 0.001))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.OrderedLogistic(slope * x, torch.tensor([-1.0, 1.0])), obs=y)

    x = torch.linspace(-1, 1, 9)
    fit = lvm.fit(lvm.Problem(graded, x, torch.arange(9) % 3), "mean_field", max_steps=30, draws=100, **QUIET)
    found = lvm.predict(fit, torch.tensor([0.0, 1.0]), kind="mean")["predictions"]["y"].mean(("chain", "draw"))
    low = 1 / (1 + np.e)
    np.testing.assert_allclose(found, [[low, 1 - 2 * low, low]] * 2, atol=0.01)
