"""``lvm.fit`` of groups with unknowns of their own, where rows are taken in parts and nothing else is asked for."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._methods.fit.over_blocks import over_blocks
from pyrolvm._methods.fit.over_rows import Asked


def answers(groups: int = 30, each: int = 20) -> lvm.Problem:
    """Yes-or-no answers in groups."""
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(groups), each)
    x = random.normal(size=(groups * each, 2))
    logits = 0.3 + x @ np.array([1.0, -0.5]) + 0.8 * random.normal(size=groups)[group]
    y = (random.random(len(group)) < 1 / (1 + np.exp(-logits))).astype(np.float64)

    def model(x: torch.Tensor, group: torch.Tensor, y: torch.Tensor | None) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 2.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        with pyro.plate("groups", groups):
            effect = pyro.sample("effect", dist.Normal(0.0, tau))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=a + x @ b + effect[group]), obs=y)

    return lvm.Problem(model, torch.as_tensor(x), torch.as_tensor(group), torch.as_tensor(y))


def series() -> lvm.Problem:
    """A series: no unknown is independent of the others."""
    y = torch.linspace(-1.0, 1.0, 64, dtype=torch.float64).reshape(-1, 1).repeat(1, 2)

    def model(y: torch.Tensor) -> None:
        with pyro.plate("times", 64, dim=-2):
            shock = pyro.sample("shock", dist.Normal(0.0, 1.0))
            with pyro.plate("two", 2, dim=-1):
                pyro.sample("y", dist.Normal(shock.cumsum(-2), 0.5), obs=y)

    return lvm.Problem(model, y)


@pytest.fixture(scope="module")
def fit() -> lvm.Fit:
    """The fit of answers in parts."""
    return lvm.fit(answers(), batch_size=100, batch_plate="rows", draws=1_500, seed=0, progress=False)


def test_groups_are_integrated_out_in_place_of_steps(fit: lvm.Fit) -> None:
    assert fit.verdict.status == "trusted"
    assert fit.name == "structured"
    assert fit.converged
    assert "30 groups integrated out" in fit.stop_reason
    wanted = lvm.sparse(answers(), draws=1_500, seed=0, progress=False)
    for name in ("a", "b", "tau", "effect"):
        assert np.array_equal(fit.data["posterior"][name].values, wanted.data["posterior"][name].values)
    assert fit.data["posterior"].attrs["inference_method"] == "svi"


def test_the_guide_has_the_moments_of_the_draws(fit: lvm.Fit) -> None:
    drawn, again = fit.data["posterior"], fit.sample(4_000, seed=1)
    for name in ("a", "b", "effect"):
        mean, sd = (getattr(drawn[name], what)(("chain", "draw")).values for what in ("mean", "std"))
        values = again[name].values.reshape(-1, *mean.shape)
        assert np.all(np.abs(values.mean(0) - mean) < 0.12 * sd)
        assert np.all(np.abs(values.std(0) / sd - 1) < 0.08)
    # A group's effect goes down as the common level goes up, in the guide as in the posterior.
    together = [
        np.corrcoef(one["a"].values.reshape(-1), one["effect"].values.reshape(-1, 30).mean(1))[0, 1]
        for one in (drawn, again)
    ]
    assert together[0] < -0.4
    assert together[1] == pytest.approx(together[0], abs=0.08)


def test_the_result_is_saved_and_predicts_as_any_fit(fit: lvm.Fit, tmp_path) -> None:
    fit.save(tmp_path / "fit")
    again = lvm.load(tmp_path / "fit", problem=answers())
    assert isinstance(again, lvm.Fit)
    assert again.verdict.status == "trusted"
    x, group, _ = answers().args
    predicted = lvm.predict(again, x[:7], group[:7], None, seed=0)
    assert predicted["predictions"]["y"].shape[-1] == 7


def test_where_there_are_no_such_groups_or_more_is_asked_for_steps_are_taken() -> None:
    asked = Asked(16, "two", None, 0, False)
    assert over_blocks(series(), asked) is None
    steps = lvm.fit(answers(), batch_size=100, batch_plate="rows", max_steps=50, seed=0, progress=False)
    assert len(steps.losses) == 50
