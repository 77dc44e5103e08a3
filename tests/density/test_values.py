"""Log densities of many points, which are computed without gradients: the same as with them, wherever those are finite or not."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._program.density import Joint
from pyrolvm._program.density import target as module
from pyrolvm._program.density.target import Points, Target
from pyrolvm.family import Student, draw_weighed

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

Y = torch.tensor([0.3, -1.2, 0.8, 2.1], dtype=torch.float64)
COUNTS = torch.tensor([0, 2, 1, 3])
ENGINES = ["c", "jax", "torch"]
EDGES = [0.0, -800.0, 800.0, 1e200, -1e200, np.inf, -np.inf, np.nan]


def scaled(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_zeros(()), 2.0))
    scale = pyro.sample("scale", dist.HalfNormal(y.new_ones(())))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.StudentT(4.0, mean, scale), obs=y)


def correlated(y: Tensor) -> None:
    factor = pyro.sample("factor", dist.LKJCholesky(2, y.new_tensor(2.0)))
    with pyro.plate("rows", 2):
        pyro.sample("y", dist.MultivariateNormal(y.new_zeros(2), scale_tril=factor), obs=y.reshape(2, 2))


def shares(y: Tensor) -> None:
    level = pyro.sample("level", dist.Dirichlet(Y.new_ones(4)))
    rate = pyro.sample("rate", dist.Gamma(Y.new_tensor(2.0), 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson(rate * level + 0.1), obs=y)


def rooted(y: Tensor) -> None:
    """The density is finite at zero, where its gradient is not."""
    x = pyro.sample("x", dist.Normal(y.new_zeros(()), 1.0))
    pyro.sample("y", dist.Normal(x.abs().sqrt(), 1.0).expand([4]).to_event(1), obs=y)


DATA = {scaled: Y, correlated: Y, shares: COUNTS, rooted: Y}


@pytest.fixture(autouse=True)
def any_number_is_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALONE", dict.fromkeys(module.ALONE, 0.0))


def target_of(model: Callable[[Tensor], None], engine: str = "c") -> Target:
    return Target.of(Joint(lvm.Problem(model, DATA[model])), engine=engine)


def without_gradients(target: Target) -> Target:
    """The target, which fails from here on where it computes gradients."""
    target.values(np.zeros((1, target.size)))

    def refuses(_: Points) -> tuple[Points, Points]:
        raise AssertionError("gradients were computed.")

    target._evaluate = refuses
    return target


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", [pytest.param(scaled, marks=pytest.mark.slow), correlated, shares])
def test_values_alone_are_those_that_come_with_gradients(model: Callable[[Tensor], None], engine: str) -> None:
    with lvm.Problem(model, DATA[model]).session(seed=0):
        target = target_of(model, engine)
        at = np.random.default_rng(0).normal(size=(1037, target.size))
        expected, _ = target(at)
        found = without_gradients(target).values(at)
    assert found.shape == (1037,)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", [scaled, correlated, shares])
def test_values_alone_are_finite_where_those_with_gradients_are(model: Callable[[Tensor], None], engine: str) -> None:
    with lvm.Problem(model, DATA[model]).session(seed=0):
        target = target_of(model, engine)
        at = np.full((len(EDGES) * target.size, target.size), 0.3)
        for row, point in enumerate(at):
            point[row % target.size] = EDGES[row // target.size]
        expected, _ = target(at)
        found = target.values(at)
    assert target.engine == engine
    assert target._alone[engine] is not None
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    np.testing.assert_allclose(found[np.isfinite(found)], expected[np.isfinite(found)], rtol=1e-12)
    assert (found[~np.isfinite(found)] == -np.inf).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_draws_are_weighed_without_gradients(engine: str) -> None:
    with lvm.Problem(scaled, Y).session(seed=0):
        target = target_of(scaled, engine)
        family = Student.one(np.zeros(2), np.eye(2), 4.0)
        expected = target.finite(family.sample(512, seed=1))[0]
        held = draw_weighed(without_gradients(target), family, 512, seed=1)
    np.testing.assert_allclose(held.log_p, expected, rtol=1e-12)


@pytest.mark.parametrize("least", [0.0, np.inf], ids=["alone", "with gradients"])
def test_a_draw_without_a_finite_gradient_keeps_its_weight(least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALONE", {"c": least})
    with lvm.Problem(rooted, Y).session(seed=0):
        target = target_of(rooted)
        at = np.array([[0.0], [0.5]])
        assert not np.isfinite(target(at)[1][0]).all()
        values = target.values(at)
        right = -float(target.joint.potential(torch.zeros(1, dtype=torch.float64)))
    assert values[0] == pytest.approx(right, rel=1e-12)
    assert (target.engine, target.disowned) == ("c", {})


def test_values_alone_that_are_not_finite_where_pyros_are_are_disowned() -> None:
    with lvm.Problem(scaled, Y).session(seed=0):
        target = target_of(scaled, "auto")
        at = np.random.default_rng(0).normal(size=(40, 2))
        expected, _ = target(at)
        target._alone["c"] = lambda points: np.where(points[:, 0] > 0.5, np.nan, expected)
        found = target.values(at)
    assert target.engine == "jax"
    assert target.disowned.keys() == {"c"}
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_program_of_values_that_are_others_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pyrolvm._program.density.target.compile_density", lambda _: lambda points: np.full(len(points), -3.0)
    )
    with lvm.Problem(scaled, Y).session(seed=0):
        target = target_of(scaled)
        at = np.random.default_rng(0).normal(size=(4, 2))
        np.testing.assert_array_equal(target.values(at), target(at)[0])
    assert target.engine == "c"
    assert "Without gradients: the compiled density is -3 where" in target.reason


def test_what_is_many_is_told_by_one_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with lvm.Problem(scaled, Y).session(seed=0):
        target = target_of(scaled)
        captured = target._captured
        assert captured is not None
        monkeypatch.setattr(module, "ALONE", {"c": 100 * captured.numbers / (module.OPERATIONS + captured.size)})
        at = np.random.default_rng(0).normal(size=(101, 2))
        for _ in range(3):
            target.values(at[:99])
        assert not target._alone
        target.values(at)
        target._alone["c"] = lambda points: np.zeros(len(points))
        assert target.values(at[:99]).all()
        assert not target.values(at).any()
