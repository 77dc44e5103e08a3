"""Which engine evaluates a density, in which order, and what happens to one whose density is not the model's."""

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
from pyrolvm._methods.nuts.potential import Disagreement, check_far
from pyrolvm._program.density import Joint
from pyrolvm._program.density import target as module
from pyrolvm._program.density.target import Points, Target, stock
from pyrolvm.family import find_frame, frame, modes

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

Y = torch.tensor([0.3, -1.2, 0.8, 2.1], dtype=torch.float64)


def plain(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_zeros(()), 2.0))
    scale = pyro.sample("scale", dist.HalfNormal(y.new_ones(())))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


def sorted_model(y: Tensor) -> None:
    """By an operation that has no rule in C."""
    level = pyro.sample("level", dist.Normal(torch.zeros_like(y), 2.0).to_event(1))
    pyro.sample("y", dist.Normal(level.sort().values, 1.0).to_event(1), obs=y)


def determinant(y: Tensor) -> None:
    root = pyro.sample("root", dist.Normal(y.new_zeros(2, 2), 1.0).to_event(2))
    pyro.factor("volume", torch.linalg.slogdet(root @ root.mT + torch.eye(2, dtype=y.dtype)).logabsdet)


def bessel(y: Tensor) -> None:
    size = pyro.sample("size", dist.HalfNormal(y.new_ones(())))
    pyro.factor("bend", -torch.i0(size).log() * len(y))


def positive(y: Tensor) -> None:
    """Its log density is not finite beyond 700, and Pyro's is not either."""
    x = pyro.sample("x", dist.Normal(y.new_zeros(()), 1.0))
    pyro.factor("tail", -torch.exp(x * 10))


def target_of(model: Callable[[Tensor], None], engine: str = "auto", y: Tensor = Y) -> Target:
    return Target.of(Joint(lvm.Problem(model, y)), engine=engine)


def points(target: Target, count: int = 5) -> Points:
    return np.random.default_rng(0).normal(size=(count, target.size))


@pytest.mark.parametrize("model", [sorted_model, determinant, bessel])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_c_has_no_rule_for_is_compiled_by_xla(model: Callable[[Tensor], None], dtype: torch.dtype) -> None:
    problem = lvm.Problem(model, Y.to(dtype))
    with problem.session(seed=0):
        target = Target.of(Joint(problem))
        assert target.engine == "jax"
        assert "no rule for" in target.reason
        for count in (1, 5, 40):
            at = points(target, count)
            found, expected = target(at), Target.of(target.joint, engine="pyro")(at)
            for got, wanted in zip(found, expected, strict=True):
                assert got.shape == wanted.shape
                np.testing.assert_allclose(got, wanted, rtol=1e-9 if dtype == torch.float64 else 2e-4, atol=1e-4)


def test_engines_that_are_not_there_leave_it_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise lvm.CaptureError("not here.")

    with lvm.Problem(plain, Y).session(seed=0):
        monkeypatch.setattr("pyrolvm._program.density.target.compile_gradient", refuses)
        assert target_of(plain).engine == "jax"
        monkeypatch.setattr(module, "by_xla", refuses)
        target = target_of(plain)
        assert (target.engine, target.reason) == ("torch", "not here. not here.")
        np.testing.assert_allclose(target(points(target))[0], target_of(plain, "pyro")(points(target))[0])


def test_a_graph_that_is_run_for_long_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    calls: list[int] = []

    def compiles(captured: object, like: Tensor) -> module.Evaluate:
        calls.append(1)
        return target_of(plain)._evaluate

    monkeypatch.setattr(module, "by_inductor", compiles)
    with lvm.Problem(plain, Y).session(seed=0):
        target = target_of(plain, "torch")
        for _ in range(3):
            target(points(target))
    assert target.engine == "inductor"
    assert calls == [1]


def test_a_graph_that_cannot_be_compiled_is_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise lvm.CaptureError("no compiler.")

    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setattr(module, "by_inductor", refuses)
    with lvm.Problem(plain, Y).session(seed=0):
        target = target_of(plain, "torch")
        first, second = target(points(target)), target(points(target))
    assert target.engine == "torch"
    assert "no compiler." in target.reason
    np.testing.assert_array_equal(first[0], second[0])


# --- trust --------------------------------------------------------------------------------------------------------------


def _spoiled(
    target: Target, bad: Callable[[Points], np.ndarray], *, gradient: bool = False, value: float = np.nan
) -> Target:
    """A compiled density that is not finite where it should be, away from the two points that are always compared."""
    right = target._evaluate

    def wrong(at: Points) -> tuple[Points, Points]:
        values, gradients = right(at)
        (gradients if gradient else values)[bad(at)] = value
        return values, gradients

    target._evaluate = wrong
    return target


@pytest.mark.parametrize(
    ("gradient", "value"),
    [(False, np.nan), (False, -np.inf), (True, np.nan)],
    ids=["nan", "minus infinity", "gradient"],
)
def test_a_compiled_density_that_is_not_finite_where_pyros_is_is_disowned(gradient: bool, value: float) -> None:
    with lvm.Problem(plain, Y).session(seed=0):
        target = _spoiled(target_of(plain), lambda at: at[:, 0] > 1.0, gradient=gradient, value=value)
        at = points(target, 40)
        values, gradients = target.finite(at)
        expected = target_of(plain, "pyro")(at)
    assert target.engine == "jax"
    assert target.native is None
    assert "engine 'c' is not finite where Pyro's is" in target.reason
    assert target.disowned.keys() == {"c"}
    np.testing.assert_allclose(values, expected[0], rtol=1e-9)
    np.testing.assert_allclose(gradients, expected[1], rtol=1e-8, atol=1e-9)


def test_a_density_that_is_not_finite_by_pyro_either_is_kept() -> None:
    with lvm.Problem(positive, Y).session(seed=0):
        target = target_of(positive)
        values, _ = target.finite(np.array([[0.0], [80.0], [1e200], [np.nan]]))
    assert np.isfinite(values[0])
    assert (values[1:] == -np.inf).all()
    assert (target.engine, target.disowned) == ("c", {})


def test_a_density_that_hangs_on_the_last_digits_of_a_point_is_none() -> None:
    def nearly_singular(y: Tensor) -> None:
        loadings = pyro.sample("loadings", dist.Normal(torch.zeros(6, dtype=y.dtype), 1.0).to_event(1))
        covariance = loadings[:, None] * loadings + 1e-12 * torch.eye(6, dtype=y.dtype)
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(6, dtype=y.dtype), covariance), obs=y)

    problem = lvm.Problem(nearly_singular, torch.linspace(-1.0, 1.0, 6, dtype=torch.float64))
    with problem.session(seed=0):
        joint = module.Joint(problem)
        point = torch.linspace(0.5, 1.4, 6, dtype=torch.float64)
        small = point / 100
        assert module.stock(joint, small) == pytest.approx(-float(joint.potential(small)))
        assert torch.isfinite(joint.potential(point * 30))
        assert module.stock(joint, point * 30) is None


def test_pyro_is_asked_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(module, "stock", lambda *_: asked.append(1))
    with lvm.Problem(positive, Y).session(seed=0):
        target = target_of(positive)
        for _ in range(50):
            target(np.full((9, 1), 80.0))
    assert len(asked) == module.ASKED


def test_stock_pyro_that_raises_has_no_density_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with lvm.Problem(plain, Y).session(seed=0):
        joint = Joint(lvm.Problem(plain, Y))
        assert stock(joint, torch.zeros(2, dtype=torch.float64)) is not None
        monkeypatch.setattr(joint, "potential", lambda _: torch.linalg.cholesky(-torch.eye(2)).sum())
        assert stock(joint, torch.zeros(2, dtype=torch.float64)) is None


def test_chains_are_not_run_on_a_density_that_was_disowned() -> None:
    problem = lvm.Problem(plain, Y)
    with problem.session(seed=0):
        found = find_frame(problem)
        found.target.disowned["c"] = "seen to be wrong."
    chains = lvm.nuts(problem, chains=1, warmup=60, draws=60, progress=False)
    assert chains.engine == "jax"
    assert "not compiled from C: seen to be wrong." in chains.engine_reason


def test_a_result_says_what_evaluated_its_frame() -> None:
    fit = lvm.fit(lvm.Problem(sorted_model, Y), "student", draws=200, progress=False)
    assert fit.engine == "jax"
    assert fit.data["posterior"].attrs["frame_engine"].startswith("jax: engine 'c' has no rule for")
    chains = lvm.nuts(lvm.Problem(plain, Y), chains=1, warmup=30, draws=30, progress=False)
    assert chains.data["posterior"].attrs["frame_engine"] == "c"


def test_places_that_chains_have_kept_away_from_are_compared_with_pyro() -> None:
    draws = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with lvm.Problem(plain, Y).session(seed=0):
        target = target_of(plain)
        check_far(target.joint, draws, target)
        wrong = _spoiled(target_of(plain), lambda at: np.abs(at[:, 0]) > 4.0)._evaluate
        with pytest.raises(Disagreement, match="is not finite where Pyro's log density is"):
            check_far(target.joint, draws, wrong)
    with lvm.Problem(positive, Y).session(seed=0):
        target = target_of(positive)
        check_far(target.joint, 100 * draws[..., :1], target)  # where Pyro's is not finite either


# --- cost ---------------------------------------------------------------------------------------------------------------


def test_a_frame_that_costs_more_than_it_saves_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "SAVES_SECONDS", 0.0)
    problem = lvm.Problem(plain, Y)
    sought: list[int] = []
    monkeypatch.setattr(modes, "climb", lambda *a, _climb=modes.climb, **k: (sought.append(1), _climb(*a, **k))[1])
    monkeypatch.setattr(frame._with, "__defaults__", (0.0,))
    with problem.session(seed=0):
        for _ in range(2):
            with pytest.raises(
                lvm.FitError,
                match=r"densities and gradients of plain by engine 'c', about 0 s of .*, more than the 0 s",
            ):
                find_frame(problem)
    assert sought == [1]  # the second time it is known
    chains = lvm.nuts(problem, chains=1, warmup=30, draws=30, progress=False)
    assert chains.data["posterior"].attrs["sampled_in"].startswith("unconstrained: the search took")
