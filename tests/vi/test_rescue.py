"""Fits whose steps go wrong: what they go back to, and at which rate they go on."""

from __future__ import annotations

import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

ENGINES = ("c", "jax", "torch", "pyro")
Y = torch.tensor([0.3, 1.2, -0.4, 0.8], dtype=torch.float64)


def model(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 0.1), obs=y)


def cliff(y: Tensor) -> None:
    """Beyond 2 there is no density, not even minus infinity."""
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
    pyro.factor("cliff", 0.0 * (2.0 - mean).log())
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 0.1), obs=y)


def times(fit: lvm.Fit) -> int:
    found = re.search(
        r"the steps diverged (\d) times?, and went on from the best parameters at 0\.\d+", fit.stop_reason
    )
    return int(found[1]) if found else 0


@pytest.mark.parametrize(
    "engine",
    [pytest.param(engine, marks=[] if engine in ("c", "jax") else [pytest.mark.slow]) for engine in ENGINES],
)
def test_a_rate_that_is_far_too_high_is_lowered(engine: str) -> None:
    problem = lvm.Problem(model, Y)
    guide = lvm.guide("mean_field", precondition="none")
    fit = lvm.fit(problem, guide, learning_rate=20.0, engine=engine, max_steps=3_000, num_particles=4, progress=False)
    assert fit.engine == engine
    assert 1 <= times(fit) <= 3
    assert fit.data["optimization"]["learning_rate"].values[-1] < 3
    exact = lvm.exact(problem, progress=False)
    assert exact.evidence is not None
    assert fit.elbo == pytest.approx(exact.evidence.value, abs=1.0)
    high = lvm.fit(
        problem,
        guide,
        learning_rate=20.0,
        schedule="constant",
        engine=engine,
        max_steps=300,
        num_particles=4,
        progress=False,
    )
    assert not times(high)
    assert np.mean(high.losses[-50:]) > 100 - exact.evidence.value


@pytest.mark.parametrize("engine", ["c", "pyro"])
def test_steps_over_a_cliff_are_taken_back(engine: str) -> None:
    problem = lvm.Problem(cliff, Y + 1.2)
    guide = lvm.guide("mean_field", precondition="none", init_scale=0.01)
    fit = lvm.fit(problem, guide, learning_rate=5.0, engine=engine, max_steps=2_000, num_particles=4, progress=False)
    assert times(fit) >= 1
    assert np.isfinite(fit.losses).all()
    assert float(fit.data["posterior"]["mean"].mean()) == pytest.approx(float(Y.mean() + 1.2), abs=0.1)


def test_a_good_rate_is_left_alone() -> None:
    fit = lvm.fit(lvm.Problem(model, Y), "full_rank", progress=False)
    assert not times(fit)
    assert fit.verdict.status != "failed"


def test_steps_that_are_not_finite_are_retried_whatever_the_schedule() -> None:
    problem = lvm.Problem(cliff, Y + 1.2)
    guide = lvm.guide("mean_field", precondition="none", init_scale=0.01)
    for schedule in ("constant", lambda step: 1.0):
        fit = lvm.fit(
            problem,
            guide,
            learning_rate=5.0,
            schedule=schedule,
            engine="c",
            max_steps=800,
            num_particles=4,
            progress=False,
        )
        assert times(fit) >= 1
        assert "Not finite: model 'cliff'" in fit.stop_reason
        assert np.isfinite(fit.losses).all()
        assert fit.data["optimization"]["learning_rate"].values[-1] <= 0.5
