"""The weighted ELBO: what beta and free bits do, and schedules that run inside the captured step."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer
from torch import Tensor
from torch.distributions import constraints

import pyrolvm as lvm
from pyrolvm._base import runtime
from pyrolvm._methods.fit.objectives import Beta_ELBO, ParticleELBO

Y = torch.tensor([[0.3, 1.2], [-0.4, 2.0], [1.0, -1.0]], dtype=torch.float64)


def model(y: Tensor) -> None:
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(y.new_zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y)


def guide(y: Tensor) -> None:
    slope = pyro.param("slope", y.new_tensor([0.5, 0.01]))
    sd = pyro.param("sd", y.new_tensor([0.4, 0.99]), constraint=constraints.positive)
    with pyro.plate("row", len(y)):
        pyro.sample("z", dist.Normal(slope * y, sd).to_event(1))


def kl(y: Tensor) -> Tensor:
    loc, sd = y.new_tensor([0.5, 0.01]) * y, y.new_tensor([0.4, 0.99])
    return -sd.log() + (sd**2 + loc**2) / 2 - 0.5


def mean(elbo: Any, count: int = 4000) -> float:
    elbo.num_particles = count
    with runtime.session(seed=0, dtype=torch.float64), torch.no_grad():
        guide(Y)
        return float(elbo.particles(model, guide, Y).mean())


def test_beta_weighs_the_divergence() -> None:
    once, twice = mean(Beta_ELBO(beta=1.0)), mean(Beta_ELBO(beta=2.5))
    assert once == pytest.approx(mean(ParticleELBO("TraceMeanField_ELBO")), rel=1e-12)
    assert once - twice == pytest.approx(1.5 * float(kl(Y).sum()), rel=1e-9)


def test_a_floor_is_under_each_units_mean() -> None:
    units = kl(Y).mean(0)
    assert float(units[1]) < 0.1 < float(units[0])
    raised = mean(Beta_ELBO()) - mean(Beta_ELBO(free_bits=0.1))
    assert raised == pytest.approx(3 * (0.1 - float(units[1])), rel=1e-9)


def test_a_unit_below_the_floor_has_no_gradient_of_its_divergence() -> None:
    def slopes(elbo: Beta_ELBO) -> Tensor:
        with runtime.session(seed=0, dtype=torch.float64):
            guide(Y)
            elbo.loss_and_grads(lambda y: model(y), guide, Y)
            return runtime.parameters()["slope"].grad.clone()  # type: ignore[union-attr]

    free, none, plain = slopes(Beta_ELBO(free_bits=0.1)), slopes(Beta_ELBO(beta=0.0)), slopes(Beta_ELBO())
    assert free[0] == plain[0] != none[0]
    assert free[1] == none[1] != plain[1]


def test_a_guide_that_does_not_factorise_has_its_divergence_drawn() -> None:
    def two(y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 1.0))
        pyro.sample("b", dist.Normal(a, 1.0))

    def backwards(y: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(pyro.param("loc", y.new_tensor(0.3)), 1.0))
        pyro.sample("a", dist.Normal(0.5 * b, 0.7))

    elbos = [Beta_ELBO(20_000), ParticleELBO(num_particles=20_000)]
    means = []
    for elbo in elbos:
        with runtime.session(seed=0, dtype=torch.float64), torch.no_grad():
            backwards(Y)
            means.append(float(elbo.particles(two, backwards, Y).mean()))
    assert means[0] == pytest.approx(means[1], rel=1e-9)


def test_a_schedule_is_a_line_then_level() -> None:
    steps = torch.tensor([0.0, 25.0, 50.0, 100.0, 1000.0])
    assert lvm.Warmup(50, start=0.2)(steps).tolist() == pytest.approx([0.2, 0.6, 1.0, 1.0, 1.0])
    cyclic = lvm.Warmup(100, cycles=2)(torch.tensor([0.0, 12.5, 25.0, 49.0, 50.0, 62.5, 99.0, 100.0, 5000.0]))
    assert cyclic.tolist() == pytest.approx([0, 0.5, 1, 1, 0, 0.5, 1, 1, 1])


@pytest.mark.parametrize("engine", ["pyro", "c", "jax"])
def test_every_engine_follows_the_schedule_step_by_step(engine: str) -> None:
    """Without learning, the loss at step t is the likelihood's plus beta(t) times a divergence that is known."""
    fit = lvm.fit(
        lvm.Problem(model, Y), guide, objective=Beta_ELBO(4000, beta=lvm.Warmup(20)), engine=engine, max_steps=40, tolerance=0,
        learning_rate=1e-12, draws=20, progress=False,
    )  # fmt: skip
    assert fit.engine == engine
    total = float(kl(Y).sum())
    assert float(fit.losses[20:].mean() - fit.losses[0]) == pytest.approx(total, abs=0.4)
    assert float(fit.losses[10] - fit.losses[0]) == pytest.approx(total / 2, abs=0.4)
    assert "Warmup(steps=20" in fit.data["posterior"].attrs["objective"]


def test_stock_pyro_counts_its_steps() -> None:
    elbo = Beta_ELBO(beta=lvm.Warmup(4))
    with runtime.session(seed=0, dtype=torch.float64):
        svi = infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
        seen = []
        for _ in range(6):
            seen.append(float(elbo.weight()))
            svi.step(Y)
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_wrong_settings_are_refused() -> None:
    for options in ({"beta": -1.0}, {"beta": math.nan}, {"free_bits": -0.1}, {"num_particles": 0}):
        with pytest.raises(lvm.ArgumentError, match="Fix"):
            Beta_ELBO(**options)
    with pytest.raises(lvm.ArgumentError, match="steps"):
        lvm.Warmup(0)
    with pytest.raises(lvm.GuideError, match=r"free_bits.*Fix"):
        lvm.fit(
            lvm.Problem(model, Y), infer.autoguide.AutoDiagonalNormal, objective=Beta_ELBO(free_bits=0.1), max_steps=5,
            progress=False,
        )  # fmt: skip
