"""What a problem knows about its model: sites, plates, shapes, supports, names."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor

import pyrolvm as lvm

Y = torch.tensor([2.8, 0.8, -0.3, 0.7])


def _summary(problem: lvm.Problem) -> dict[str, tuple[str, tuple[int, ...], int, tuple[str, ...]]]:
    return {site.name: (site.kind, site.shape, site.event_dim, site.plates) for site in problem.sites.values()}


# --- plates -----------------------------------------------------------------------------------------------------------


def nested(y: Tensor) -> None:
    with pyro.plate("column", 3, dim=-1):
        c = pyro.sample("c", dist.Normal(0.0, 1.0))
    with pyro.plate("row", 4, dim=-2):
        r = pyro.sample("r", dist.Normal(0.0, 1.0))
        with pyro.plate("cell", 3, dim=-1):
            e = pyro.sample("e", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.deterministic("declared", 2 * e, event_dim=1)
            pyro.deterministic("plain", 2 * e)
            pyro.deterministic("scalar", e.sum(-1))
            pyro.sample("y", dist.Normal(r + c + e.sum(-1), 1.0), obs=y)
    pyro.deterministic("total", c.sum())
    pyro.deterministic("vector", 2 * c)


def test_nested_plates() -> None:
    problem = lvm.Problem(nested, torch.zeros(4, 3))
    assert _summary(problem) == {
        "c": ("latent", (3,), 0, ("column",)),
        "r": ("latent", (4, 1), 0, ("row",)),
        "e": ("latent", (4, 3, 2), 1, ("row", "cell")),
        "declared": ("deterministic", (4, 3, 2), 1, ("row", "cell")),
        "plain": ("deterministic", (4, 3, 2), 1, ("row", "cell")),
        "scalar": ("deterministic", (4, 3), 0, ("row", "cell")),
        "y": ("observed", (4, 3), 0, ("row", "cell")),
        "total": ("deterministic", (), 0, ()),
        "vector": ("deterministic", (3,), 1, ()),
    }
    assert problem.dims == {
        "c": ["column"],
        "r": ["row", "r_dim_1"],
        "e": ["row", "cell", "e_dim_2"],
        "declared": ["row", "cell", "declared_dim_2"],
        "plain": ["row", "cell", "plain_dim_2"],
        "scalar": ["row", "cell"],
        "y": ["row", "cell"],
        "total": [],
        "vector": ["vector_dim_0"],
    }
    assert {name: (plate.size, plate.dim) for name, plate in problem.plates.items()} == {
        "column": (3, -1),
        "row": (4, -2),
        "cell": (3, -1),
    }
    assert problem.unconstrained_size == 3 + 4 + 24


def test_a_square_deterministic_site_has_its_plate_first() -> None:
    def model(y: Tensor) -> None:
        with pyro.plate("row", 3):
            e = pyro.sample("e", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.deterministic("declared", e, event_dim=1)
            pyro.deterministic("plain", e)

    problem = lvm.Problem(model, Y)
    assert problem.dims["declared"] == ["row", "declared_dim_1"]
    assert problem.dims["plain"] == ["row", "plain_dim_1"]


def test_sequential_plates_are_loops() -> None:
    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        for i in pyro.plate("rows", len(y)):
            z = pyro.sample(f"z_{i}", dist.Normal(mu, 1.0))
            pyro.sample(f"y_{i}", dist.Normal(z, 1.0), obs=y[i])

    problem = lvm.Problem(model, Y)
    assert problem.plates["rows"].dim is None and problem.plates["rows"].size == 4
    assert list(problem.sites) == ["mu", "z_0", "y_0", "z_1", "y_1", "z_2", "y_2", "z_3", "y_3"]
    assert problem.sites["z_2"].shape == () and problem.sites["z_2"].plates == ("rows",)
    assert problem.dims["z_2"] == []


def test_a_plate_around_no_site_is_left_out() -> None:
    def model(y: Tensor) -> None:
        with pyro.plate("empty", 3):
            pass
        pyro.sample("x", dist.Normal(0.0, 1.0))

    assert not lvm.Problem(model, Y).plates


@pytest.mark.parametrize("given", [{"subsample_size": 2}, {"subsample": torch.tensor([3, 0])}])
def test_shapes_are_those_of_all_rows(given: dict[str, Any]) -> None:
    def model(y: Tensor) -> None:
        with pyro.plate("rows", len(y), **given) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            pyro.deterministic("d", z.sum(-1))
            pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y[i])

    problem = lvm.Problem(model, Y)
    assert problem.plates["rows"].subsampled and problem.plates["rows"].size == 4
    assert {site.name: site.shape for site in problem.sites.values()} == {"z": (4, 5), "d": (4,), "y": (4,)}
    assert problem.sites["z"].unconstrained_shape == (4, 5)
    assert problem.dims == {"z": ["rows", "z_dim_1"], "d": ["rows"], "y": ["rows"]}


# --- supports ---------------------------------------------------------------------------------------------------------

SUPPORTS: dict[str, tuple[Callable[[], Any], tuple[int, ...], int | None]] = {
    "positive": (lambda: dist.Gamma(1.0, 1.0), (), 1),
    "interval": (lambda: dist.Uniform(-1.0, 2.0), (), 1),
    "simplex": (lambda: dist.Dirichlet(torch.ones(4)), (4,), 3),
    "rows of simplices": (lambda: dist.Dirichlet(torch.ones(2, 4)).to_event(1), (2, 4), 6),
    "correlation": (lambda: dist.LKJCholesky(4, 1.0), (4, 4), 6),
    "ordered": (lambda: dist.ImproperUniform(dist.constraints.ordered_vector, (), (3,)), (3,), 3),
    "ordered by transform": (
        lambda: dist.TransformedDistribution(
            dist.Normal(torch.zeros(3), 1.0).to_event(1), [dist.transforms.OrderedTransform()]
        ),
        (3,),
        3,
    ),
    "improper positive": (lambda: dist.ImproperUniform(constraints.positive, (), (2,)), (2,), 2),
    "improper real": (lambda: dist.ImproperUniform(constraints.real, (2,), ()).to_event(1), (2,), 2),
    "circle": (lambda: dist.VonMises(0.0, 1.0), (), 1),
    "categories": (lambda: dist.Categorical(torch.ones(3) / 3), (), None),
    "counts": (lambda: dist.Poisson(2.0), (), None),
}


@pytest.mark.parametrize("name", SUPPORTS)
def test_supports(name: str) -> None:
    make, shape, unknowns = SUPPORTS[name]

    def model() -> None:
        pyro.sample("x", make())

    problem = lvm.Problem(model)
    site = problem.sites["x"]
    assert site.kind == "latent" and site.shape == shape
    assert site.is_discrete is (unknowns is None)
    assert site.enumerable is (name == "categories")
    assert problem.unconstrained_size == (unknowns or 0)
    assert (problem.discrete if unknowns is None else problem.continuous) == (site,)


def test_a_support_that_depends_on_a_latent() -> None:
    def model(y: Tensor) -> None:
        a = pyro.sample("a", dist.Uniform(0.0, 1.0))
        b = pyro.sample("b", dist.Uniform(a, a + 2.0))
        pyro.sample("y", dist.Normal(b, 1.0), obs=y[0])

    problem = lvm.Problem(model, Y)
    assert float(problem.sites["a"].support.upper_bound) == 1.0
    assert [site.unconstrained_shape for site in problem.continuous] == [(), ()]


def test_a_support_without_a_transform_is_refused_by_name() -> None:
    def model() -> None:
        pyro.sample("x", dist.ImproperUniform(dist.constraints.symmetric, (), (3, 3)))

    with pytest.raises(
        lvm.ProblemError, match=r"latent site .*ImproperUniform.* has support Symmetric.* no bijection maps .*Fix:"
    ):
        lvm.Problem(model)


# --- other statements -------------------------------------------------------------------------------------------------


def test_factors_are_neither_latent_nor_observed() -> None:
    def model(y: Tensor) -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("whole", -(x**2))
        with pyro.plate("rows", len(y)):
            pyro.factor("each", -((y - x) ** 2))

    problem = lvm.Problem(model, Y)
    assert _summary(problem)["whole"] == ("factor", (), 0, ())
    assert _summary(problem)["each"] == ("factor", (4,), 0, ("rows",))
    assert [site.name for site in problem.latents] == ["x"] and not problem.observed


def test_masked_observations() -> None:
    y = Y.clone()
    y[1] = math.nan

    def placeholder(y: Tensor) -> None:
        seen = ~torch.isnan(y)
        with pyro.plate("rows", len(y)), poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(pyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0), obs=torch.where(seen, y, 0.0))

    def left_in(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)), poutine.mask(mask=~torch.isnan(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def broken_elsewhere(y: Tensor) -> None:
        placeholder(y)
        raise AttributeError("something else")

    assert lvm.Problem(placeholder, y).observed[0].shape == (4,)
    with pytest.raises(lvm.DataError, match=r"argument 'y' has 1 non-finite value.*finite placeholder"):
        lvm.Problem(left_in, y)  # a NaN under a mask still makes the gradient NaN
    with pytest.raises(lvm.ProblemError, match="something else"):
        lvm.Problem(broken_elsewhere, y)  # and is not blamed for what it did not do


def test_partly_observed_sites() -> None:
    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y, obs_mask=torch.tensor([True, False, True, True]))

    kinds = {site.name: site.kind for site in lvm.Problem(model, Y).sites.values()}
    assert kinds == {"mu": "latent", "y_observed": "observed", "y_unobserved": "latent", "y": "deterministic"}


# --- ways to write a model --------------------------------------------------------------------------------------------


def line(x: Tensor, y: Tensor, *, scale: float = 1.0) -> None:
    w = pyro.sample("w", dist.Normal(0.0, scale))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)


class Bound:
    def method(self, y: Tensor) -> None:
        line(Y, y)

    def __call__(self, y: Tensor) -> None:
        line(Y, y)


class Bayesian(PyroModule):  # type: ignore[misc]
    """A prior on a layer's weights, a learnable scale, and a network."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = PyroModule[torch.nn.Linear](2, 1)
        self.layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.layer.bias = PyroSample(lambda layer: dist.Normal(torch.zeros(1), 1.0).to_event(1))
        self.sd = PyroParam(torch.tensor(1.0), constraint=constraints.positive)
        self.net = torch.nn.Linear(2, 2)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mean = self.layer(self.net(x)).squeeze(-1)
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(mean, self.sd), obs=y)  # type: ignore[no-any-return]


def with_net(net: torch.nn.Module, x: Tensor, y: Tensor) -> None:
    pyro.module("net", net)
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(w * net(x).squeeze(-1), 1.0), obs=y)


CALLS: dict[str, tuple[Callable[[], lvm.Problem], str]] = {
    "function": (lambda: lvm.Problem(line, Y, Y), "line"),
    "by keyword": (lambda: lvm.Problem(line, y=Y, x=Y), "line"),
    "option": (lambda: lvm.Problem(line, Y, Y, scale=2.0), "line"),
    "bound method": (lambda: lvm.Problem(Bound().method, Y), "method"),
    "callable object": (lambda: lvm.Problem(Bound(), Y), "Bound"),
    "partial": (lambda: lvm.Problem(functools.partial(line, Y), Y), "line"),
    "partial by keyword": (lambda: lvm.Problem(functools.partial(line, scale=3.0), Y, Y), "line"),
    "closure": (lambda: lvm.Problem(lambda y: line(Y, y), Y), "<lambda>"),
    "handler around": (lambda: lvm.Problem(poutine.scale(line, scale=2.0), Y, Y), "line"),
    "handlers around a partial": (
        lambda: lvm.Problem(poutine.mask(poutine.scale(functools.partial(line, Y), scale=2.0), mask=True), Y),
        "line",
    ),
}


@pytest.mark.parametrize("how", CALLS)
def test_ways_to_write_and_call_a_model(how: str) -> None:
    make, name = CALLS[how]
    problem = make()
    assert problem.name == name
    assert _summary(problem) == {"w": ("latent", (), 0, ()), "y": ("observed", (4,), 0, ("rows",))}


def test_arguments_have_the_models_names() -> None:
    def model(first: Tensor, /, *rest: Tensor, last: Tensor, **more: Tensor) -> None:
        pyro.sample("x", dist.Normal((first + sum(rest) + last + more["extra"]).sum(), 1.0))

    problem = lvm.Problem(model, [1.0], [2.0], [3.0], last=[4.0], extra=[5.0])
    assert {name: value.tolist() for name, value in problem.arguments.items()} == {
        "first": [1.0],
        "rest0": [2.0],
        "rest1": [3.0],
        "last": [4.0],
        "extra": [5.0],
    }
    assert [value.tolist() for value in problem.args] == [[1.0], [2.0], [3.0]]
    assert set(problem.kwargs) == {"last", "extra"}


def test_a_pyro_module_with_priors_on_its_weights() -> None:
    problem = lvm.Problem(Bayesian(), torch.randn(4, 2), Y)
    assert problem.name == "Bayesian"
    assert {site.name: (site.shape, site.event_dim) for site in problem.latents} == {
        "layer.weight": ((1, 2), 2),
        "layer.bias": ((1,), 1),
    }
    assert {name: parameter.shape for name, parameter in problem.parameters.items()} == {
        "net$$$weight": (2, 2),
        "net$$$bias": (2,),
        "sd": (),
    }


def test_a_network_among_the_arguments() -> None:
    net = torch.nn.Linear(2, 1)
    problem = lvm.Problem(with_net, net, torch.randn(4, 2), Y)
    assert problem.args[0] is net
    assert set(problem.parameters) == {"net$$$weight", "net$$$bias"}


# --- names ------------------------------------------------------------------------------------------------------------


def _named(**options: Any) -> lvm.Problem:
    def model(y: Tensor) -> None:
        with pyro.plate("rows", 4):
            pyro.sample("e", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.deterministic("d", torch.zeros(2, 3))

    return lvm.Problem(lvm.model(**options)(model), Y)


def test_dims_by_all_dimensions_or_by_event_dimensions() -> None:
    assert _named(dims={"e": ["axis"]}).dims["e"] == ["rows", "axis"]
    assert _named(dims={"e": ["who", "axis"]}).dims["e"] == ["who", "axis"]
    assert _named(dims={"d": ["a", "b"]}).dims == {"e": ["rows", "e_dim_1"], "d": ["a", "b"]}


def test_coords_label_dimensions() -> None:
    problem = _named(dims={"e": ["axis"]}, coords={"axis": ["x", "y"], "rows": "abcd"})
    assert problem.coords == {"axis": ["x", "y"], "rows": ["a", "b", "c", "d"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": {"nobody": ["a"]}}, r"dims names 'nobody', which is no site"),
        ({"dims": {"e": ["a", "b", "c"]}}, r"dims for 'e' has 3 names, but the site has shape \(4, 2\)"),
        ({"coords": {"rows": [1, 2]}}, r"coords gives 2 labels for dimension 'rows', but site 'e' has length 4"),
    ],
)
def test_wrong_names_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(lvm.ProblemError, match=message + r".*Fix: "):
        problem = _named(**options)
        problem.dims  # noqa: B018 - names are read at the latest here


def test_a_partial_keeps_what_the_model_says_about_itself() -> None:
    @lvm.model(dims={"w": ["axis"]}, quantities={"norm": lambda draw: draw["w"].norm()})
    def model(x: Tensor, y: Tensor) -> None:
        pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    problem = lvm.Problem(functools.partial(model, Y), Y)
    assert problem.dims["w"] == ["axis"] and set(problem.quantities) == {"norm"}


def test_the_decorated_model_is_the_function_itself() -> None:
    def model() -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0))

    assert lvm.model(dims={})(model) is model


def test_a_handler_keeps_what_the_model_says_and_its_arguments_names() -> None:
    @lvm.model(dims={"w": ["axis"]})
    def model(x: Tensor, y: Tensor) -> None:
        pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    problem = lvm.Problem(poutine.scale(model, scale=2.0), Y, y=Y)
    assert problem.dims["w"] == ["axis"] and set(problem.arguments) == {"x", "y"}


# --- reading leaves no trace ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untouched_rng")
def test_reading_draws_nothing_and_is_repeatable() -> None:
    first, second = (lvm.Problem(nested, torch.zeros(4, 3)) for _ in range(2))
    assert _summary(first) == _summary(second) and first.fingerprint == second.fingerprint


def test_fingerprint_follows_the_data() -> None:
    assert lvm.Problem(line, Y, Y).fingerprint == lvm.Problem(line, Y.clone(), Y.clone()).fingerprint
    assert lvm.Problem(line, Y, Y).fingerprint != lvm.Problem(line, Y, Y + 1e-6).fingerprint
    assert lvm.Problem(line, Y, Y).fingerprint != lvm.Problem(line, Y.double(), Y.double()).fingerprint


# --- values at which a program is first run ---------------------------------------------------------------------------


def test_a_program_whose_arguments_are_none_at_the_middle_is_read_elsewhere() -> None:
    def ordinal(x: Tensor, y: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        cuts = pyro.sample("cuts", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.OrderedLogistic(slope * x, cuts.sort().values), obs=y)

    def apart(y: Tensor) -> None:
        ends = pyro.sample("ends", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(0.0, (ends[0] - ends[1]).abs()), obs=y)

    assert lvm.Problem(ordinal, Y, torch.tensor([0, 1, 2, 1])).unconstrained_size == 3
    assert lvm.Problem(apart, Y).unconstrained_size == 2


@pytest.mark.parametrize("said", ["Subtraction, the `-` operator, with a bool tensor is not supported.", ""])
def test_an_operation_that_torch_lacks_is_no_missing_density(said: str) -> None:
    class Lacking(dist.Normal):
        def log_prob(self, value: Tensor) -> Tensor:
            raise NotImplementedError(said) if said else NotImplementedError

    def model(y: Tensor) -> None:
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", Lacking(0.0, 1.0).expand(y.shape).to_event(1), obs=y)

    words = "fails in the density of site 'y'.*y.float" if said else "site 'y' has no log density"
    with pytest.raises(lvm.ProblemError, match=words):
        lvm.Problem(model, Y)
