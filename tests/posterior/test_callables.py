"""The trained guide and model as Pyro callables."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm.family.registry import guides

X = torch.linspace(-1, 1, 30)
Y = 1.0 + 2.0 * X


def line(x: Tensor, y: Tensor | None = None) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a + b * x, 0.5), obs=y)


def by_hand(x: Tensor, y: Tensor | None = None) -> None:
    for name in ("a", "b"):
        loc = pyro.param(f"loc_{name}", torch.tensor(0.0))
        scale = pyro.param(f"scale_{name}", torch.tensor(0.5), constraint=dist.constraints.positive)
        pyro.sample(name, dist.Normal(loc, scale))


class Decoded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.decoder(z.unsqueeze(-1)).squeeze(-1), 0.5), obs=x)


def listed(model: Any) -> AutoGuideList:
    found = AutoGuideList(model)
    found.append(AutoNormal(pyro.poutine.block(model, expose=["a"])))
    found.append(AutoNormal(pyro.poutine.block(model, expose=["b"])))
    return found


PROBLEM = lvm.Problem(line, X, Y)
GUIDES = {
    "function": by_hand,
    "class": AutoNormal,
    "instance": AutoNormal(line),
    "list": listed,
    **{name: name for name in guides() if name in ("full_rank", "laplace", "mixture")},
}


def fitted(guide: Any, steps: int = 150) -> lvm.Fit:
    return lvm.fit(
        PROBLEM, guide, max_steps=steps, tolerance=0, draws=400, learning_rate=0.05, engine="pyro", progress=False
    )


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in ("function", "laplace", "list") else [pytest.mark.slow])
        for kind in GUIDES
    ],
)
def test_the_trained_guide_draws_what_the_fit_draws(kind: str) -> None:
    fit = fitted(GUIDES[kind])
    drawn = Predictive(fit.guide_fn(), num_samples=400)(X, Y)
    ours = fit.data["posterior"]
    for name in ("a", "b"):
        mean, sd = float(ours[name].mean()), float(ours[name].std())
        assert float(drawn[name].mean()) == pytest.approx(mean, abs=5 * sd / 20)
        assert float(drawn[name].std()) == pytest.approx(sd, rel=0.25)


def test_the_store_and_modules_of_the_caller_are_left_alone() -> None:
    guide = AutoNormal(line)
    guide(X, Y)
    before = {name: value.detach().clone() for name, value in guide.named_parameters()}
    fit = fitted(guide)
    pyro.clear_param_store()
    pyro.param("loc_a", torch.tensor(100.0))
    hand = fitted(by_hand)
    for one in (fit, hand):
        one.guide_fn()(X, Y)
        one.model_fn()()
    assert list(pyro.get_param_store().keys()) == ["loc_a"]
    assert pyro.param("loc_a").item() == 100.0
    assert all(torch.equal(before[name], value) for name, value in guide.named_parameters())
    assert abs(Predictive(hand.guide_fn(), num_samples=200)()["a"].mean().item() - 1.0) < 0.2
    pyro.clear_param_store()


def test_model_and_guide_predict_at_new_arguments_as_predict_does() -> None:
    fit = fitted("full_rank")
    new = torch.tensor([0.0, 3.0])
    found = Predictive(fit.model_fn(), guide=fit.guide_fn(), num_samples=500, return_sites=["y"])(new, None)["y"]
    ours = lvm.predict(fit, new)["predictions"]["y"].mean(("chain", "draw")).values
    assert found.shape == (500, 2)
    assert found.mean(0).tolist() == pytest.approx(ours.tolist(), abs=0.25)


def test_a_trained_decoder_is_a_copy_at_the_fitted_values() -> None:
    model = Decoded()
    before = model.decoder.weight.detach().clone()
    data = 3.0 + 2.0 * torch.randn(200, generator=torch.Generator().manual_seed(0))
    fit = lvm.fit(lvm.Problem(model, data), max_steps=300, tolerance=0, draws=50, progress=False)
    callable_, module = fit.model_fn(), fit.module("decoder")
    with torch.no_grad():
        trace = pyro.poutine.trace(callable_).get_trace(data[:5])
        expected = module(trace.nodes["z"]["value"].unsqueeze(-1)).squeeze(-1)
    trace.compute_log_prob()  # after the call
    assert torch.allclose(trace.nodes["x"]["fn"].loc, expected)
    assert torch.equal(model.decoder.weight, before) and not torch.allclose(module.weight, before)


def test_a_fit_without_its_guide_says_what_to_pass(tmp_path: Any) -> None:
    fit = fitted(by_hand, 20)
    fit.save(tmp_path / "a")
    loaded = lvm.load(tmp_path / "a", problem=PROBLEM)
    with pytest.raises(lvm.StoreError, match="guide="):
        loaded.guide_fn()
    assert lvm.load(tmp_path / "a", problem=PROBLEM, guide=by_hand).guide_fn()() is None
