"""Centred and non-centred coordinates: one density in all of them, once the log Jacobian is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._program.density import Joint
from pyrolvm._program.density.centring import centred, non_centred

Y = torch.tensor([0.7, -1.2, 2.1], dtype=torch.float64)


def child(law: Callable[[Tensor, Tensor], Any], event: int = 0) -> Callable[[Tensor], None]:
    """A model whose site x depends on two latents, a and the positive b."""

    def model(y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(y.new_tensor(0.3), 1.0))
        b = pyro.sample("b", dist.LogNormal(y.new_tensor(-0.5), 0.7))
        if event:
            x = pyro.sample("x", law(a, b))
        else:
            with pyro.plate("rows", len(y)):
                x = pyro.sample("x", law(a, b))
        pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)

    return model


def correlated(a: Tensor, b: Tensor) -> Any:
    tril = torch.eye(3, dtype=a.dtype) + 0.4 * torch.ones(3, 3, dtype=a.dtype).tril(-1) * a
    return dist.MultivariateNormal(a.expand(3), scale_tril=b * tril)


LAWS: dict[str, tuple[Callable[[Tensor, Tensor], Any], int]] = {
    "Normal": (lambda a, b: dist.Normal(a, b), 0),
    "Normal, an event": (lambda a, b: dist.Normal(a.expand(3), b).to_event(1), 1),
    "LogNormal": (lambda a, b: dist.LogNormal(a, b), 0),
    "StudentT": (lambda a, b: dist.StudentT(4.0, a, b), 0),
    "HalfNormal": (lambda a, b: dist.HalfNormal(b), 0),
    "Gamma": (lambda a, b: dist.Gamma(2.0, b), 0),
    "InverseGamma": (lambda a, b: dist.InverseGamma(2.0, b), 0),
    "Weibull": (lambda a, b: dist.Weibull(b, torch.tensor(1.5, dtype=b.dtype)), 0),
    "Exponential": (lambda a, b: dist.Exponential(b), 0),
    "MultivariateNormal": (correlated, 1),
}
NOTHING = non_centred(Y)
PARTLY = torch.tensor([[0.0, 0.6, 40.0], [0.0, -0.3, 30.0]], dtype=torch.float64)
HELD = [NOTHING, PARTLY, centred(Y)]
TOGETHER = torch.tensor([[2.0, 0.9, 0.0], [0.9, 3.0, -1.1], [0.0, -1.1, 1.5], [0.4, -0.2, 1.0]], dtype=torch.float64)
"""A precision matrix of all of a vector's elements, and its product with a value."""


def made(law: str) -> lvm.Problem:
    density, event = LAWS[law]
    return lvm.Problem(child(density, event), Y)


def some_point(problem: lvm.Problem, seed: int = 3) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(0.0, 0.8, problem.unconstrained_size))


def plainly(plain: Joint, joint: Joint) -> Callable[[Tensor], Tensor]:
    """From coordinates to unconstrained values."""
    return lambda u: plain.flatten(plain.unconstrain(joint.constrain(u)))


@pytest.mark.parametrize("held", HELD, ids=["non-centred", "partly", "centred"])
@pytest.mark.parametrize("law", LAWS)
def test_the_density_changes_by_the_log_jacobian(law: str, held: Tensor) -> None:
    problem = made(law)
    u = some_point(problem)
    with problem.session(seed=0):
        plain, joint = Joint(problem), Joint(problem, centring={"x": held})
        move = plainly(plain, joint)
        jacobian = torch.as_tensor(torch.autograd.functional.jacobian(move, u))
        wanted = plain.potential(move(u)) - torch.linalg.slogdet(jacobian)[1]
        assert float(joint.potential(u)) == pytest.approx(float(wanted), rel=1e-10)


def test_a_precision_matrix_changes_the_density_by_the_log_jacobian() -> None:
    problem = made("MultivariateNormal")
    u = some_point(problem)
    with problem.session(seed=0):
        plain, joint = Joint(problem), Joint(problem, centring={"x": TOGETHER})
        move = plainly(plain, joint)
        jacobian = torch.as_tensor(torch.autograd.functional.jacobian(move, u))
        wanted = plain.potential(move(u)) - torch.linalg.slogdet(jacobian)[1]
        assert float(joint.potential(u)) == pytest.approx(float(wanted), rel=1e-10)
        assert torch.allclose(joint.flatten(joint.unconstrain(joint.constrain(u))), u, atol=1e-10)


def test_a_diagonal_is_the_matrix_that_has_nothing_beside_it() -> None:
    problem = made("MultivariateNormal")
    u = some_point(problem)
    rows = torch.cat([torch.diag(PARTLY[0]), PARTLY[1:]])
    with problem.session(seed=0):
        short, long = (Joint(problem, centring={"x": held}) for held in (PARTLY, rows))
        assert torch.equal(short.constrain(u)["x"], long.constrain(u)["x"])


def test_what_data_say_of_a_vector_together_makes_it_independent_of_its_parents() -> None:
    """With a normal likelihood of a sum of elements, the posterior's second derivatives between x and its parents' vanish."""
    weights = torch.tensor([[1.0, 2.0, -1.0], [0.5, 1.0, 3.0]], dtype=torch.float64)
    seen = torch.tensor([0.7, -0.4], dtype=torch.float64)

    def model(y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(y.new_tensor(0.3), 1.0))
        b = pyro.sample("b", dist.LogNormal(y.new_tensor(-0.5), 0.7))
        x = pyro.sample("x", correlated(a, b))
        pyro.sample("y", dist.Normal(weights @ x, 0.5).to_event(1), obs=y)

    problem = lvm.Problem(model, seen)
    precision = 4.0 * weights.T @ weights
    shift = 4.0 * (weights.T @ seen)[None]
    u = some_point(problem)
    cross = []
    with problem.session(seed=0):
        for rows in (torch.diag(precision.diagonal()), precision):
            joint = Joint(problem, centring={"x": torch.cat([rows, shift])})
            hessian = torch.as_tensor(torch.autograd.functional.hessian(joint.potential, u))
            cross.append(float(hessian[2:, :2].abs().max()))
    assert cross[0] > 0.01
    assert cross[1] < 1e-8


@pytest.mark.parametrize("law", LAWS)
def test_non_centred_coordinates_are_others_than_centred_ones(law: str) -> None:
    problem = made(law)
    u = some_point(problem)
    with problem.session(seed=0):
        plain, joint = Joint(problem), Joint(problem, centring={"x": NOTHING})
        assert not torch.allclose(plainly(plain, joint)(u)[2:], u[2:], atol=0.05)


@pytest.mark.parametrize("law", ["Normal", "LogNormal", "HalfNormal", "Gamma", "Exponential", "MultivariateNormal"])
def test_non_centred_coordinates_do_not_depend_on_the_parents_a_priori(law: str) -> None:
    """Without data, log p(u_x, a, b) is a sum: its second derivatives between x and its parents vanish."""
    density, event = LAWS[law]

    def prior(y: Tensor) -> None:
        child(density, event)(y)
        pyro.factor("undone", -dist.Normal(_last["x"], 1.0).log_prob(y).sum())

    _last: dict[str, Tensor] = {}

    def model(y: Tensor) -> None:
        with _Noted(_last):
            prior(y)

    problem = lvm.Problem(model, Y)
    u = some_point(problem)
    with problem.session(seed=0):
        cross = []
        for centring in ({}, {"x": NOTHING}):
            hessian = torch.autograd.functional.hessian(Joint(problem, centring=centring).potential, u)
            cross.append(float(torch.as_tensor(hessian)[2:, :2].abs().max()))
    assert cross[0] > 0.01
    assert cross[1] < 1e-9


class _Noted(pyro.poutine.messenger.Messenger):
    """Keeps the values of sites, for a factor that undoes the likelihood."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_post_sample(self, msg: Any) -> None:
        self.values[msg["name"]] = msg["value"]


@pytest.mark.parametrize("held", HELD, ids=["non-centred", "partly", "centred"])
@pytest.mark.parametrize("law", LAWS)
def test_unconstrain_inverts_constrain(law: str, held: Tensor) -> None:
    problem = made(law)
    u = some_point(problem)
    with problem.session(seed=0):
        joint = Joint(problem, centring={"x": held})
        assert torch.allclose(joint.flatten(joint.unconstrain(joint.constrain(u))), u, atol=1e-10)


@pytest.mark.parametrize("law", LAWS)
def test_an_infinite_precision_leaves_coordinates_as_they_are(law: str) -> None:
    problem = made(law)
    u = some_point(problem)
    with problem.session(seed=0):
        plain, joint = Joint(problem), Joint(problem, centring={"x": centred(Y)})
        assert torch.allclose(joint.constrain(u)["x"], plain.constrain(u)["x"], rtol=1e-12)
        assert float(joint.potential(u)) == pytest.approx(float(plain.potential(u)), rel=1e-12)


def test_what_data_say_makes_a_site_standard_normal_given_its_parents() -> None:
    """Of a normal likelihood with sd s, the precision 1 / s^2 and value y: the density is the parents' marginal times Normal(0, 1)."""
    spread = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)

    def model(y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(y.new_tensor(0.3), 1.0))
        b = pyro.sample("b", dist.LogNormal(y.new_tensor(-0.5), 0.7))
        x = pyro.sample("x", dist.Normal(a.expand(3), b).to_event(1))
        pyro.sample("y", dist.Normal(x, spread).to_event(1), obs=y)

    def smooth(y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(y.new_tensor(0.3), 1.0))
        b = pyro.sample("b", dist.LogNormal(y.new_tensor(-0.5), 0.7))
        x = pyro.sample("x", correlated(a, b))
        pyro.sample("y", dist.Normal(x, spread).to_event(1), obs=y)

    for law in (model, smooth):
        problem = lvm.Problem(law, Y)
        with problem.session(seed=0):
            joint = Joint(problem, centring={"x": torch.stack([spread**-2, Y / spread**2])})
            for seed in (1, 2):
                hessian = torch.as_tensor(torch.autograd.functional.hessian(joint.potential, some_point(problem, seed)))
                assert hessian[2:, :2].abs().max() < 1e-10
                assert torch.allclose(hessian[2:, 2:], torch.eye(3, dtype=torch.float64), atol=1e-10)


# --- which sites depend -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS)
def test_a_site_whose_location_or_scale_is_latent_is_dependent(law: str) -> None:
    problem = made(law)
    with problem.session(seed=0):
        assert Joint(problem).dependent() == ["x"]


def independent(y: Tensor) -> None:
    """Constants as parameters, a dependence through the shape alone, and a law without location and scale."""
    pyro.sample("a", dist.Normal(y.new_tensor(0.0), 2.0))
    b = pyro.sample("b", dist.Gamma(y.new_tensor(2.0), 3.0))
    pyro.sample("shaped", dist.Gamma(1.0 + b, y.new_tensor(1.0)))
    p = pyro.sample("p", dist.Beta(1.0 + b, y.new_tensor(2.0)))
    pyro.sample("y", dist.Normal(p, 1.0).expand([3]).to_event(1), obs=y)


def chain(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 1.0))
    b = pyro.sample("b", dist.Normal(a, 1.0))
    with pyro.plate("rows", len(y)), pyro.poutine.mask(mask=torch.tensor([True, False, True])):
        c = pyro.sample("c", dist.Normal(b, 1.0))
        pyro.sample("y", dist.Normal(c, 1.0), obs=y)


def beside(y: Tensor) -> None:
    """A discrete latent that chooses rows' likelihoods, and no latent's location or scale."""
    tau = pyro.sample("tau", dist.HalfNormal(y.new_tensor(1.0)))
    with pyro.plate("rows", len(y)):
        x = pyro.sample("x", dist.Normal(y.new_tensor(0.0), tau))
        z = pyro.sample("z", dist.Categorical(y.new_tensor([0.3, 0.7])))
        pyro.sample("y", dist.Normal(x + z, 1.0), obs=y)


def crossed(y: Tensor) -> None:
    """Plates side by side, whose sites have dimensions of size one."""
    a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 1.0))
    with pyro.plate("row", 2, dim=-2):
        r = pyro.sample("r", dist.Normal(a, 0.5))
        with pyro.plate("column", 3, dim=-1):
            c = pyro.sample("c", dist.Normal(r, 1.0 + a**2))
            pyro.sample("y", dist.Normal(c, 1.0), obs=y.expand(2, 3))


@pytest.mark.parametrize(
    ("model", "names"), [(independent, []), (chain, ["b"]), (beside, ["x"]), (crossed, ["r", "c"])]
)
def test_only_dependent_sites_are_found(model: Callable[[Tensor], None], names: list[str]) -> None:
    problem = lvm.Problem(model, Y)
    with problem.session(seed=0):
        assert Joint(problem).dependent() == names


@pytest.mark.parametrize("model", [chain, beside, crossed])
def test_all_dependent_sites_at_once(model: Callable[[Tensor], None]) -> None:
    problem = lvm.Problem(model, Y)
    u = some_point(problem)
    with problem.session(seed=0):
        plain = Joint(problem)
        shapes = {name: problem.sites[name].unconstrained_shape or () for name in plain.dependent()}
        joint = Joint(problem, centring={name: torch.full((2, *shape), 0.3).to(Y) for name, shape in shapes.items()})
        move = plainly(plain, joint)
        jacobian = torch.as_tensor(torch.autograd.functional.jacobian(move, u))
        wanted = plain.potential(move(u)) - torch.linalg.slogdet(jacobian)[1]
        assert float(joint.potential(u)) == pytest.approx(float(wanted), rel=1e-10)
        assert torch.allclose(joint.flatten(joint.unconstrain(joint.constrain(u))), u, atol=1e-10)


def by_component(y: Tensor) -> None:
    """Latent locations, of which an enumerated latent chooses one."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(2), 1.0).to_event(1))
    z = pyro.sample("z", dist.Categorical(y.new_tensor([0.3, 0.7])))
    x = pyro.sample("x", dist.Normal(3 * mu[z], 0.5))
    pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def by_row(y: Tensor) -> None:
    tau = pyro.sample("tau", dist.HalfNormal(y.new_tensor(1.0)))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(y.new_tensor([0.3, 0.7])))
        x = pyro.sample("x", dist.Normal(y.new_tensor([-2.0, 2.0])[z], tau))
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


ENUMERATED = [(by_component, Y[0]), (by_row, Y)]


@pytest.mark.parametrize(("model", "y"), ENUMERATED)
def test_a_site_with_an_enumerated_parent_is_not_dependent(model: Callable[[Tensor], None], y: Tensor) -> None:
    problem = lvm.Problem(model, y)
    with problem.session(seed=0):
        assert Joint(problem).dependent() == []


@pytest.mark.parametrize(("model", "y"), ENUMERATED)
def test_under_an_enumerated_parent_draws_are_those_that_the_density_is_of(
    model: Callable[[Tensor], None], y: Tensor
) -> None:
    """A site that the density leaves centred must be left so by constrain, whatever is asked for."""
    problem = lvm.Problem(model, y)
    u = some_point(problem)
    with problem.session(seed=0):
        plain, joint = Joint(problem), Joint(problem, centring={"x": non_centred(y)})
        move = plainly(plain, joint)
        jacobian = torch.as_tensor(torch.autograd.functional.jacobian(move, u))
        wanted = plain.potential(move(u)) - torch.linalg.slogdet(jacobian)[1]
        assert float(joint.potential(u)) == pytest.approx(float(wanted), rel=1e-10)
        assert torch.equal(joint.constrain(u)["x"], joint.constrain(u)["x"])


# --- NUTS in such coordinates -----------------------------------------------------------------------------------------


def funnel(y: Tensor) -> None:
    v = pyro.sample("v", dist.Normal(y.new_tensor(0.0), 1.5))
    with pyro.plate("rows", 3):
        pyro.sample("x", dist.Normal(y.new_tensor(0.0), (v / 2).exp()))


def test_nuts_in_the_frame_gives_draws_of_the_sites() -> None:
    """Without data they are the prior's: the sd of x is E[exp(v)]^(1/2) = exp(1.5^2 / 4)."""
    problem = lvm.Problem(funnel, Y)
    chains = lvm.nuts(problem, chains=2, warmup=300, draws=2000, seed=1, progress=False)
    v, x = (chains.data["posterior"][name].values for name in ("v", "x"))
    assert chains.divergences == 0
    assert chains.data["posterior"].attrs["sampled_in"] == "frame"
    assert abs(v.mean()) < 0.12
    assert v.std() == pytest.approx(1.5, rel=0.07)
    standard = x / np.exp(v / 2)[..., None]
    np.testing.assert_allclose(standard.reshape(-1, 3).std(0), 1.0, rtol=0.07)
    np.testing.assert_allclose(np.corrcoef(v.reshape(-1), standard.reshape(-1, 3)[:, 0])[0, 1], 0.0, atol=0.08)
