"""The density at many points a call: the same numbers whatever evaluates them."""

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
from pyrolvm._program.density.target import Target
from pyrolvm.family.climb import climb

Y = torch.tensor([2.8, 0.8, -0.3, 0.7], dtype=torch.float64)
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def schools(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 1.5), obs=y)


def supports(y: Tensor) -> None:
    a = pyro.sample("a", dist.Gamma(y.new_tensor(2.0), 3.0))
    b = pyro.sample("b", dist.Uniform(y.new_tensor(-1.0), 3.0))
    p = pyro.sample("p", dist.Dirichlet(y.new_tensor([1.0, 2.0, 3.0])))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.StudentT(5.0, b + p[0], 1.0 + a), obs=y)


def mixed(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 3.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(y.new_tensor([0.3, 0.7])))
        pyro.sample("y", dist.Normal(mu + 2.0 * z, 0.8), obs=y)


def improper(y: Tensor) -> None:
    """Flat priors: the posterior of mu is Normal(mean of y, 1 / 4)."""
    mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def reads(y: Tensor) -> None:
    """Its code depends on a value that it draws, so that no recording of it holds for others."""
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 2.0))
    scale = 1.0 if mu.item() > 0 else 2.0
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, scale), obs=y)


def bounded(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 1.0))
    pyro.factor("half", torch.where(mu > 0, torch.zeros_like(mu), torch.full_like(mu, -torch.inf)))


def hopeless(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 1.0))
    pyro.factor("nowhere", mu * 0.0 - torch.inf)


MODELS = [schools, supports, mixed, improper]
CASES = [(model, centred) for model in MODELS for centred in (True, False) if centred or model is schools]


def joint_of(model: Callable[[Tensor], None], centred: bool = True) -> Joint:
    problem = lvm.Problem(model, Y)
    return Joint(
        problem, centring=None if centred else {"theta": torch.linspace(0, 1, 8, dtype=torch.float64).reshape(2, 4)}
    )


def points_of(joint: Joint, count: int = 5) -> np.ndarray:
    return np.random.default_rng(4).normal(0.0, 1.0, (count, joint.problem.unconstrained_size))


@needs_compiler
@pytest.mark.parametrize(("model", "centred"), CASES)
def test_engines_agree_in_value_and_gradient(model: Callable[[Tensor], None], centred: bool) -> None:
    joint = joint_of(model, centred)
    points = points_of(joint)
    with joint.problem.session(seed=0):
        targets = {engine: Target.of(joint, engine=engine) for engine in ("auto", "torch", "pyro")}
        found = {engine: target(points) for engine, target in targets.items()}
    assert [targets[engine].engine for engine in found] == ["c", "torch", "pyro"]
    assert targets["auto"].reason == ""
    for engine in ("auto", "torch"):
        np.testing.assert_allclose(found[engine][0], found["pyro"][0], rtol=1e-10)
        np.testing.assert_allclose(found[engine][1], found["pyro"][1], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("model", "centred"), CASES)
def test_values_and_gradients_are_those_of_the_potential(model: Callable[[Tensor], None], centred: bool) -> None:
    joint = joint_of(model, centred)
    points = points_of(joint, 3)
    with joint.problem.session(seed=0):
        values, gradients = Target.of(joint)(points)
        for point, value, gradient in zip(points, values, gradients, strict=True):
            u = torch.as_tensor(point).requires_grad_()
            potential = joint.potential(u)
            (slope,) = torch.autograd.grad(potential, u)
            assert value == pytest.approx(-float(potential.detach()), rel=1e-9)
            np.testing.assert_allclose(gradient, -slope.numpy(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("model", "centred"), CASES)
def test_points_and_draws_are_inverse(model: Callable[[Tensor], None], centred: bool) -> None:
    joint = joint_of(model, centred)
    points = points_of(joint)
    with joint.problem.session(seed=0):
        target = Target.of(joint, engine="torch")
        draws = target.draws(points)
        np.testing.assert_allclose(target.points(draws), points, atol=1e-9)
    assert {name: len(values) for name, values in draws.items()} == dict.fromkeys(
        [site.name for site in joint.problem.continuous], 5
    )


def test_a_model_that_reads_values_is_run_as_it_is_with_the_reason() -> None:
    joint = joint_of(reads)
    points = points_of(joint)
    with joint.problem.session(seed=0):
        target = Target.of(joint)
        values, gradients = target(points)
        for point, value in zip(points, values, strict=True):
            assert value == pytest.approx(-float(joint.potential(torch.as_tensor(point))), rel=1e-10)
    assert target.engine == "pyro"
    assert not target.together
    assert "test_target.py" in target.reason
    assert np.isfinite(gradients).all()
    assert np.sign(points[:, 0]).min() < 0 < np.sign(points[:, 0]).max()  # both branches were taken


@pytest.mark.parametrize("engine", ["auto", "torch", "pyro"])
def test_evaluations_are_counted(engine: str) -> None:
    joint = joint_of(schools)
    with joint.problem.session(seed=0):
        target = Target.of(joint, engine=engine)
        before = target.evaluations
        target(points_of(joint, 7))
        target.finite(points_of(joint, 2))
        target.at(points_of(joint, 1)[0])
    assert target.evaluations - before == 10


def test_an_improper_prior_leaves_the_likelihood() -> None:
    joint = joint_of(improper)
    grid = np.linspace(-3.0, 4.0, 9)[:, None]
    with joint.problem.session(seed=0):
        values, gradients = Target.of(joint)(grid)
    y = Y.numpy()
    np.testing.assert_allclose(values, -0.5 * ((y - grid) ** 2 + np.log(2 * np.pi)).sum(1), rtol=1e-10)
    np.testing.assert_allclose(gradients[:, 0], (y - grid).sum(1), rtol=1e-8, atol=1e-9)


def test_finite_gives_minus_infinity_and_no_slope_outside_the_support() -> None:
    joint = joint_of(bounded)
    with joint.problem.session(seed=0):
        values, gradients = Target.of(joint).finite(np.array([[-1.0], [0.5], [np.nan]]))
    assert values[0] == values[2] == -np.inf
    assert np.isfinite(values[1])
    np.testing.assert_allclose(gradients[:, 0], [0.0, -0.5, 0.0], atol=1e-9)


def test_single_precision_is_evaluated_to_its_own_rounding() -> None:
    double, single = (joint_of(schools), Joint(lvm.Problem(schools, Y.float())))
    points, found = points_of(double), []
    for joint in (double, single):
        with joint.problem.session(seed=0):
            found.append(Target.of(joint)(points))
    assert found[1][0].dtype == np.float64
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-4)
    assert np.abs(found[1][0] - found[0][0]).max() > 0


def test_a_density_that_is_finite_nowhere_is_refused_with_its_sites() -> None:
    joint = joint_of(hopeless)
    with joint.problem.session(seed=0):
        assert len(climb(Target.of(joint_of(schools)), starts=2, seed=0)) == 2
        with pytest.raises(lvm.FitError, match=r"in 7 tries.*nowhere: -inf.*Fix:"):
            climb(Target.of(joint), starts=2, seed=0, tries=7)


def test_a_compiled_density_that_is_not_the_models_is_refused() -> None:
    from pyrolvm._program.density.target import _checked

    joint = joint_of(schools)
    with joint.problem.session(seed=0):
        right = Target.of(joint, engine="torch")
        wrong = Target(joint, "c", "", lambda points: (right(points)[0] + 1e-3, right(points)[1]))
        steep = Target(joint, "c", "", lambda points: (right(points)[0], 1.001 * right(points)[1]))
        zero = torch.zeros(6, dtype=torch.float64)
        assert _checked(right, zero) is right
        for target in (wrong, steep):
            with pytest.raises(lvm.CaptureError, match="where Pyro gives"):
                _checked(target, zero)


# --- coordinates beside discrete latents ------------------------------------------------------------------------------


def groups_of_two_kinds(y: Tensor) -> None:
    mu, tau = (
        pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 2.0)),
        pyro.sample("tau", dist.HalfNormal(y.new_tensor(1.0))),
    )
    with pyro.plate("rows", len(y)):
        effect = pyro.sample("effect", dist.Normal(mu, tau))
        z = pyro.sample("z", dist.Bernoulli(y.new_tensor(0.3)))
        pyro.sample("y", dist.Normal(effect + 3.0 * z, 1.0), obs=y)


def switching(y: Tensor) -> None:
    drift, state = pyro.sample("drift", dist.LogNormal(y.new_tensor(-1.0), 0.5)), y.new_tensor(0.0)
    level = y.new_tensor(0.0)
    for t in pyro.markov(range(3)):
        level = pyro.sample(f"level_{t}", dist.Normal(level, drift))
        state = pyro.sample(f"state_{t}", dist.Bernoulli(0.2 + 0.6 * state), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{t}", dist.Normal(level + state, 1.0), obs=y[t])


def scaled_mixture(y: Tensor) -> None:
    scale = pyro.sample("scale", dist.Gamma(y.new_tensor(2.0), 1.0))
    with pyro.plate("kinds", 2):
        centre = pyro.sample("centre", dist.Normal(0.0, scale))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(y.new_tensor([0.4, 0.6])))
        pyro.sample("y", dist.Normal(centre[z], 0.5), obs=y)


@pytest.mark.parametrize("model", [groups_of_two_kinds, switching, scaled_mixture])
def test_what_is_not_compiled_takes_all_points_at_once_in_coordinates_of_its_own(
    model: Callable[[Tensor], None],
) -> None:
    with joint_of(model).problem.session(seed=0):
        joint = joint_of(model).non_centred()
        points = points_of(joint)
        target = Target.eager(joint, joint.potential)
        assert target.together
        np.testing.assert_allclose(target(points)[0], Target.of(joint, engine="torch")(points)[0], rtol=1e-9)


def ordinal(y: Tensor) -> None:
    """Probabilities of categories are written into a tensor, place by place."""
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    start = dist.Normal(torch.zeros(3), 3.0).to_event(1)
    cuts = pyro.sample("cuts", dist.TransformedDistribution(start, [dist.transforms.OrderedTransform()]))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.OrderedLogistic(slope * y, cuts), obs=torch.tensor([3, 2, 0, 1]))


def written(y: Tensor) -> None:
    """The same by the operation itself, which the recorder has no part in."""
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    mean = torch.select_scatter(torch.zeros(4, 2), mu.expand(4), 1, 0).sum(-1)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.mark.parametrize(("model", "engine"), [(ordinal, "torch"), (written, "pyro"), (written, "torch")])
def test_gradients_of_places_that_are_written_are_each_points_own(model: Callable[..., None], engine: str) -> None:
    problem = lvm.Problem(model, Y)
    points = np.random.default_rng(0).normal(size=(5, problem.unconstrained_size))
    with problem.session(seed=0):
        joint = Joint(problem)
        _, gradients = Target.of(joint, engine=engine)(points)
        for point, gradient in zip(points, gradients, strict=True):
            flat = torch.as_tensor(point).requires_grad_()
            (wanted,) = torch.autograd.grad(joint.potential(flat), flat)
            assert gradient == pytest.approx(-wanted.numpy(), rel=1e-6)
