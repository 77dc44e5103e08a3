"""Models without latents: maximum likelihood by the same call, its result, and its verdict."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyrolvm as lvm

ENGINES = ("pyro", "c", "jax", "torch")


def gaussian(x: Tensor) -> None:
    mean = pyro.param("mean", torch.zeros(2))
    scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.5, 2.0]) + torch.tensor(
        [1.0, -1.0]
    )


def test_the_estimate_is_the_closed_form(x: Tensor) -> None:
    fit = lvm.fit(lvm.Problem(gaussian, x), engine="c", max_steps=3000, progress=False)
    mean, sd = x.mean(0), x.std(0, unbiased=False)
    torch.testing.assert_close(fit.params["mean"], mean, atol=2e-3, rtol=0)
    torch.testing.assert_close(fit.params["scale"].exp(), sd, atol=2e-3, rtol=0)
    exact = float(dist.Normal(mean, sd).log_prob(x).sum())
    assert fit.log_p.item() == pytest.approx(exact, abs=0.01)
    assert fit.elbo == fit.log_p.item() and fit.evidence is None and fit.log_q is None and math.isnan(fit.khat)
    assert fit.converged and fit.verdict.trusted
    assert "log p(data)" in fit.stop_reason and "ELBO" not in fit.stop_reason


def test_the_tree_has_the_density_of_each_row(x: Tensor) -> None:
    fit = lvm.fit(lvm.Problem(gaussian, x), engine="pyro", max_steps=20, progress=False)
    rows = fit.data["log_likelihood"]["x"]
    assert rows.dims == ("chain", "draw", "data") and rows.shape == (1, 1, 200)
    assert float(rows.sum()) == pytest.approx(fit.log_p.item(), rel=1e-5)
    assert fit.data["posterior"].attrs["inference_method"] == "maximum_likelihood"
    np.testing.assert_allclose(fit.data["observed_data"]["x"].values, x.numpy())


@pytest.mark.parametrize(
    "engine", [pytest.param(engine, marks=[pytest.mark.slow] if engine == "torch" else []) for engine in ENGINES]
)
def test_every_engine_with_and_without_minibatches(x: Tensor, engine: str) -> None:
    found = []
    for size in (None, 50):
        fit = lvm.fit(
            lvm.Problem(gaussian, x), engine=engine, batch_size=size, max_steps=150, learning_rate=0.05, progress=False
        )
        assert fit.engine == engine
        found.append(fit.log_p.item())
    exact = float(dist.Normal(x.mean(0), x.std(0, unbiased=False)).log_prob(x).sum())
    assert found[0] == pytest.approx(exact, abs=3.0) and found[1] == pytest.approx(exact, abs=12.0)


def test_the_same_seed_gives_the_same_fit(x: Tensor) -> None:
    runs = [
        lvm.fit(lvm.Problem(gaussian, x), batch_size=20, engine="c", seed=s, max_steps=300, progress=False)
        for s in (1, 1, 2)
    ]
    assert torch.equal(runs[0].params["mean"], runs[1].params["mean"])
    assert not torch.equal(runs[0].params["mean"], runs[2].params["mean"])


def test_new_data_are_of_the_fitted_density(x: Tensor) -> None:
    fit = lvm.fit(lvm.Problem(gaussian, x), engine="c", max_steps=2000, progress=False)
    drawn = fit.sample(20_000, seed=3)["x"]
    assert drawn.shape == (1, 20_000, 2)
    np.testing.assert_allclose(drawn.mean(("chain", "draw")), x.mean(0), atol=0.07)
    np.testing.assert_allclose(drawn.std(("chain", "draw")), x.std(0), rtol=0.03)


def test_without_latents_and_parameters_there_is_nothing_to_fit(x: Tensor) -> None:
    def fixed(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x)

    with pytest.raises(lvm.ProblemError, match=r"neither latent sites nor learnable parameters.*Fix:"):
        lvm.fit(lvm.Problem(fixed, x))


@pytest.mark.parametrize("method", [lvm.infer, lvm.nuts, lvm.exact, lvm.evidence])
def test_methods_for_posteriors_name_the_one_that_applies(x: Tensor, method) -> None:
    with pytest.raises((lvm.ProblemError, lvm.ArgumentError), match=r"no .*latent|no value.*Fix:|lvm\.fit"):
        method(lvm.Problem(gaussian, x), progress=False)


def test_a_guide_has_nothing_to_draw(x: Tensor) -> None:
    with pytest.raises(lvm.GuideError, match=r"'mean_field' has nothing to draw.*Fix:"):
        lvm.fit(lvm.Problem(gaussian, x), "mean_field")


# --- modules ----------------------------------------------------------------------------------------------------------


def regression(x: Tensor, y: Tensor, net: nn.Module) -> None:
    pyro.module("net", net)
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(net(x).squeeze(-1), 0.1), obs=y)


def normalised(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))


@pytest.mark.parametrize("engine", ["pyro", "jax"])
def test_buffers_are_kept_saved_and_restored(x: Tensor, engine: str, tmp_path: Path) -> None:
    net = normalised()
    problem = lvm.Problem(regression, x, x.sum(1).sin(), net)
    fit = lvm.fit(problem, engine=engine, max_steps=60, batch_size=50, progress=False)
    assert fit.engine == engine
    trained: nn.Module = fit.module("net")
    assert not trained.training and net.training
    assert torch.equal(net[1].running_mean, torch.zeros(8))  # the caller's module is as it was
    with torch.no_grad():
        expected = trained[0](x).mean(0)  # type: ignore[index]
    # What 50 batches of exponential averaging leave of the mean of all rows.
    torch.testing.assert_close(trained[1].running_mean, expected, atol=0.15, rtol=0.2)  # type: ignore[index]
    loaded = lvm.load(fit.save(tmp_path / "fit"), problem=problem)
    again = loaded.module()
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    np.testing.assert_array_equal(loaded.sample(5)["y"], fit.sample(5)["y"])
    # The density in the result is that of evaluation mode: no dropout, running averages.
    with torch.no_grad():
        direct = dist.Normal(trained(x).squeeze(-1), 0.1).log_prob(x.sum(1).sin()).sum()
    assert fit.log_p.item() == pytest.approx(float(direct), rel=1e-4)


def test_a_guides_modules_come_back_too() -> None:
    problem = lvm.problem("vae", images=50)
    fit = lvm.fit(problem, "amortized", max_steps=5, draws=10, engine="pyro", progress=False)
    decoder = fit.module("decoder")
    assert [p.shape for p in decoder.parameters()] == [p.shape for p in problem.args[1].parameters()]
    assert not torch.equal(next(decoder.parameters()), next(problem.args[1].parameters()))
    assert isinstance(fit.module("amortized"), nn.Module)
    with pytest.raises(lvm.UnknownNameError, match="decoder"):
        fit.module("dekoder")


# --- transform --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["pyro", "c", "jax"])
def test_a_transform_is_drawn_anew_in_every_step(engine: str) -> None:
    """Bernoulli logits under pixels that are drawn anew go to the probabilities, under one draw to its 0s and 1s."""
    probability = torch.tensor([0.2, 0.5, 0.9]).expand(40, 3)

    def pixels(x: Tensor, probability: Tensor) -> None:
        logits = pyro.param("logits", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    once = torch.bernoulli(probability, generator=torch.Generator().manual_seed(1))
    problem = lvm.Problem(pixels, once, probability)
    options = {"engine": engine, "max_steps": 400, "learning_rate": 0.05, "progress": False, "tolerance": 0}
    fresh = lvm.fit(
        problem, transform=lambda x, probability: {"x": (torch.rand_like(x) < probability).float()}, **options
    )
    assert fresh.engine == engine
    fixed = lvm.fit(problem, **options)
    wanted, mean = probability[0], once.mean(0)
    assert not torch.allclose(wanted, mean, atol=0.05)
    torch.testing.assert_close(fresh.params["logits"].sigmoid(), wanted, atol=0.04, rtol=0)
    torch.testing.assert_close(fixed.params["logits"].sigmoid(), mean, atol=0.01, rtol=0)
    # The result is of the data as they are.
    np.testing.assert_array_equal(fresh.data["observed_data"]["x"], once.numpy())


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda x: x, r"returned a Tensor, expected a dictionary.*\(x\)"),
        (lambda x: {"z": x}, "returned z"),
        (lambda x: {"x": x[:3]}, r"made argument 'x' \(3, 2\)"),
        (lambda x: {"x": x @ x}, "transform fails"),
    ],
)
def test_a_transform_that_is_none(x: Tensor, transform, message: str) -> None:
    with pytest.raises(lvm.ArgumentError, match=message) as error:
        lvm.fit(lvm.Problem(gaussian, x), transform=transform, engine="pyro", max_steps=5)
    assert "Fix:" in str(error.value)
