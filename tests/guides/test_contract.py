"""What every registered guide promises, on small problems of every kind of support and structure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

import pyrolvm as lvm
from pyrolvm._capture.vmap import vmapped
from pyrolvm._program.density import Joint


def real_scalar() -> None:
    pyro.sample("x", dist.Normal(1.0, 2.0))


def positive(y: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Exponential(rate), obs=y)


def unit_interval(y: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(2.0, 3.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


def simplex(y: Tensor) -> None:
    p = pyro.sample("p", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0]).to(torch.get_default_dtype())))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Categorical(p), obs=y)


def vector(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ w, 0.1 + s), obs=y)


def local(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        v = pyro.sample("v", dist.LogNormal(torch.zeros(2), 0.5).to_event(1))
        pyro.sample("y", dist.Normal(z, v.sum(-1)), obs=y)


def grid(y: Tensor) -> None:
    with pyro.plate("columns", y.shape[1], dim=-1):
        c = pyro.sample("c", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", y.shape[0], dim=-2):
        r = pyro.sample("r", dist.Normal(0.0, 1.0))
        with pyro.plate("cells", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(r + c, 0.5), obs=y)


def correlation_matrix() -> None:
    pyro.sample("L", dist.LKJCholesky(3, 2.0))


def _data(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _once(make: Callable[[], lvm.Problem]) -> Callable[[], lvm.Problem]:
    """A problem is made once for each default type, so that its frame is sought once for all tests and families."""
    made: dict[torch.dtype, lvm.Problem] = {}

    def of() -> lvm.Problem:
        dtype = torch.get_default_dtype()
        if dtype not in made:
            made[dtype] = make()
        return made[dtype]

    return of


_MADE: dict[str, Callable[[], lvm.Problem]] = {
    "real_scalar": lambda: lvm.Problem(real_scalar),
    "positive": lambda: lvm.Problem(positive, _data(4).abs()),
    "unit_interval": lambda: lvm.Problem(unit_interval, torch.tensor([0.0, 1.0, 1.0])),
    "simplex": lambda: lvm.Problem(simplex, torch.tensor([0, 1, 2, 2])),
    "vector": lambda: lvm.Problem(vector, _data(5, 2), _data(5)),
    "local": lambda: lvm.Problem(local, _data(6)),
    "grid": lambda: lvm.Problem(grid, _data(3, 2)),
    "correlation_matrix": lambda: lvm.Problem(correlation_matrix),
}
PROBLEMS = {name: _once(make) for name, make in _MADE.items()}

# What a family says it cannot take; the test that it says so is below.
REFUSES = {("amortized", name) for name in PROBLEMS if name not in ("local", "grid")} | {
    ("semi_amortized", name)
    for name in PROBLEMS  # some have no rows, the others latents outside them
}

SOME = ("mean_field", "full_rank", "autoregressive", "flow", "mixture")
"""Families that stand for the others on a support of fewer dimensions than coordinates, among the quick tests."""


def _marked(family: str, name: str) -> Any:
    # All families turn supports alike, so that of most problems one is quick enough; rows of their own are each one's affair.
    slow = name != "local" and family != "mean_field" and not (name == "simplex" and family in SOME)
    return pytest.param(family, name, marks=[pytest.mark.slow] if slow else [])


CASES = [_marked(family, name) for family in lvm.guides() for name in PROBLEMS if (family, name) not in REFUSES]
SMALL = [case for case in CASES if case.values[1] in ("real_scalar", "positive", "unit_interval", "simplex")]

every = pytest.mark.parametrize(("family", "name"), CASES)


def build(family: str, problem: lvm.Problem, seed: int = 0, **options: Any) -> Any:
    """A fresh guide whose parameters are the only ones in the store; what it trains into, where that differs."""
    pyro.clear_param_store()
    torch.manual_seed(seed)
    guide = lvm.guide(family, **options).build(problem)
    with pyro.validation_enabled(False):
        for step in ("prepare", "solve"):
            if hasattr(guide, step):
                getattr(guide, step)(problem, seed=0)
    return guide.finalize(*problem.args, **problem.kwargs) if hasattr(guide, "finalize") else guide


def trained(guide: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that an optimisation moves."""
    held = tuple(getattr(guide, "held", ()))
    return [value for name, value in guide.named_parameters() if not name.startswith(held or ("-",))]


def shake(guide: torch.nn.Module, amount: float = 0.3) -> torch.nn.Module:
    """Moves parameters away from their special starting values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained(guide):
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator).to(parameter))
    return guide


def trace_of(guide: Any, problem: lvm.Problem) -> Any:
    return poutine.trace(guide).get_trace(*problem.args, **problem.kwargs)


class Given(Messenger):
    """Sets sites of a guide to values."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def random_sites(guide: Any, trace: Any) -> dict[str, Tensor]:
    """The values that determine a draw: the joint vector where there is one, and sites sampled directly."""
    return {
        name: node["value"]
        for name, node in trace.nodes.items()
        if node["type"] == "sample"
        and not isinstance(node["fn"], dist.Delta)
        and "Subsample" not in type(node["fn"]).__name__
    }


def log_q_at(guide: Any, problem: lvm.Problem, values: dict[str, Tensor]) -> Tensor:
    with Given(values):
        return trace_of(guide, problem).log_prob_sum()


def free(name: str, x: Tensor) -> Tensor:
    """The coordinates of a value that its density is stated in."""
    if name == "simplex":
        return x[..., :-1].reshape(-1)
    if name == "correlation_matrix":
        return x[1:, :2].reshape(-1)[[0, 2, 3]]
    return x.reshape(-1)


@every
def test_sites_match_the_models(family: str, name: str) -> None:
    problem = PROBLEMS[name]()
    guide = build(family, problem)
    trace = trace_of(guide, problem)
    sampled = [n for n, node in trace.nodes.items() if node["type"] == "sample" and n not in problem.plates]
    sites = [n for n in sampled if not trace.nodes[n]["infer"].get("is_auxiliary")]
    assert sites == [site.name for site in problem.continuous]
    draw = guide(*problem.args, **problem.kwargs)
    assert list(draw) == sites


@every
def test_draws_have_the_sites_shape_and_lie_in_its_support(family: str, name: str) -> None:
    problem = PROBLEMS[name]()
    guide = shake(build(family, problem), 0.2)
    for _ in range(5):
        draw = guide(*problem.args, **problem.kwargs)
        for site in problem.continuous:
            assert draw[site.name].shape == site.shape
            assert bool(site.support.check(draw[site.name]).all())


@pytest.mark.parametrize("finalized", [False, True])
@every
def test_every_parameter_has_a_gradient(family: str, name: str, finalized: bool) -> None:
    problem = PROBLEMS[name]()
    guide = build(family, problem) if finalized else lvm.guide(family).build(problem)
    elbo = Trace_ELBO(num_particles=3)
    elbo.differentiable_loss(problem.model, guide, *problem.args, **problem.kwargs).backward()
    moved = trained(guide)
    assert moved or hasattr(guide, "solve")
    for parameter in moved:
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())
        assert bool((parameter.grad != 0).any())


@every
def test_parameters_are_the_stores_and_of_the_problems_dtype(family: str, name: str) -> None:
    problem = PROBLEMS[name]()
    guide = build(family, problem)
    guide(*problem.args, **problem.kwargs)
    stored = {id(value) for _, value in pyro.get_param_store().named_parameters()}
    assert stored == {id(parameter) for parameter in guide.parameters()}
    assert {parameter.dtype for parameter in guide.parameters()} == {problem.dtype}


@every
def test_log_q_is_the_density_of_the_draw(family: str, name: str) -> None:
    """Against the density of the unconstrained draw and the Jacobian of its image, both found another way."""
    problem = PROBLEMS[name]()
    guide = shake(build(family, problem))
    trace = trace_of(guide, problem)
    log_q = trace.log_prob_sum()
    # A fresh distribution does not know the draw, so flows must invert.
    expected = torch.zeros(())
    u = {}
    auxiliary = {
        n: node["value"].detach() for n, node in trace.nodes.items() if node.get("infer", {}).get("is_auxiliary")
    }
    with Given(auxiliary):
        again = trace_of(guide, problem)
    again.compute_log_prob()
    for site in problem.continuous:
        value = trace.nodes[site.name]["value"].detach()
        transform = biject_to(site.support)
        u[site.name] = transform.inv(value)
        jacobian = torch.autograd.functional.jacobian(lambda v, t=transform: free(name, t(v)), u[site.name])
        expected = expected - torch.linalg.slogdet(jacobian.reshape(u[site.name].numel(), -1))[1]
    for key, node in trace.nodes.items():
        if node["type"] == "sample" and node["infer"].get("is_auxiliary"):
            density = guide_density(guide)
            expected = expected + (
                again.nodes[key]["log_prob_sum"] if density is None else density.log_prob(auxiliary[key])
            )
        elif key in u and not isinstance(node["fn"], dist.Delta):
            normal = underlying_normal(node["fn"])
            expected = expected + normal.log_prob(u[key]).sum()
    held = guide.centring() if hasattr(guide, "centring") else {}
    if held:  # the coordinates of dependent sites move with their parents
        draw = {site.name: trace.nodes[site.name]["value"].detach() for site in problem.continuous}
        with problem.session(seed=0):
            plain, joint = Joint(problem), Joint(problem, centring=held)
            z = joint.flatten(joint.unconstrain(draw))
            slopes = torch.autograd.functional.jacobian(
                lambda z: plain.flatten(plain.unconstrain(joint.constrain(z))), z
            )
        expected = expected - torch.linalg.slogdet(torch.as_tensor(slopes))[1]
    torch.testing.assert_close(log_q, expected, atol=2e-3, rtol=1e-4)


def guide_density(guide: Any) -> Any:
    """The density of a guide's joint vector; ``None`` where it has several parts, each given the last."""
    part = guide if hasattr(guide, "posterior") else getattr(guide, "rest", None)
    if part is None:
        return None
    return part.law() if hasattr(part, "law") else part.posterior()


def underlying_normal(fn: Any) -> Any:
    while not isinstance(fn, dist.Normal):
        fn = fn.base_dist
    return fn


@pytest.mark.parametrize(("family", "name"), SMALL)
def test_density_integrates_to_one(family: str, name: str) -> None:
    """On a grid of unconstrained space, with the Jacobian from autograd."""
    problem = PROBLEMS[name]()
    options = {} if family in ("laplace", "pathfinder", "student") else {"init_scale": 0.5}
    guide = shake(build(family, problem, **options))
    (site,) = problem.continuous
    transform = biject_to(site.support)
    size, inner = problem.unconstrained_size, transform.inverse_shape(site.shape)
    nodes = trace_of(guide, problem).nodes.items()
    aux = [n for n, node in nodes if node["type"] == "sample" and node["infer"].get("is_auxiliary")]

    def log_density(u: Tensor) -> Tensor:
        return log_q_at(guide, problem, {aux[0]: u} if aux else {site.name: transform(u.reshape(inner))})

    with torch.no_grad(), pyro.validation_enabled(False):
        draws = vmapped(lambda _: guide(*problem.args)[site.name])(torch.zeros(200))
        u = transform.inv(draws).reshape(200, size)
        centre, reach = u.median(0).values, 12 * u.std(0) + 0.5
        steps = 2001 if size == 1 else 161
        axes = [torch.linspace(-1, 1, steps) * reach[i] + centre[i] for i in range(size)]
        points = torch.cartesian_prod(*axes).reshape(-1, size)
        log_q = vmapped(log_density)(points)
    points.requires_grad_(True)
    images = transform(points.reshape(-1, *inner)).reshape(len(points), -1)[:, :size]
    rows = [torch.autograd.grad(images[:, i].sum(), points, retain_graph=True)[0] for i in range(size)]
    log_q = log_q + torch.linalg.slogdet(torch.stack(rows, 1))[1]
    total = log_q.double().exp().sum() * float(torch.prod(2 * reach / (steps - 1)))
    assert abs(float(total) - 1) < 0.02


@every
def test_state_dict_brings_back_the_same_draws(family: str, name: str) -> None:
    problem = PROBLEMS[name]()
    guide = shake(build(family, problem))
    torch.manual_seed(3)
    before = guide(*problem.args, **problem.kwargs)
    state = {key: value.clone() for key, value in guide.state_dict().items()}
    other = build(family, problem, seed=5)
    other.load_state_dict(state)
    torch.manual_seed(3)
    after = other(*problem.args, **problem.kwargs)
    assert all(torch.equal(before[key], after[key]) for key in before)


@every
def test_the_same_seed_gives_the_same_fit(family: str, name: str) -> None:
    problem = PROBLEMS[name]()
    results = []
    for _ in range(2):
        pyro.clear_param_store()
        torch.manual_seed(7)
        guide = lvm.guide(family).build(problem)
        svi = pyro.infer.SVI(problem.model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        losses = [svi.step(*problem.args, **problem.kwargs) for _ in range(3)]
        results.append((losses, [p.detach().clone() for p in guide.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


@every
def test_vmap_gives_what_a_loop_gives(family: str, name: str) -> None:
    problem = PROBLEMS[name]()
    guide = shake(build(family, problem))

    def one(_: Tensor) -> dict[str, Tensor]:
        trace = trace_of(guide, problem)
        values = {f"site/{key}": value for key, value in random_sites(guide, trace).items()}
        return {"log_q": trace.log_prob_sum(), **values}

    with torch.no_grad(), pyro.validation_enabled(False):
        lanes = vmapped(one)(torch.zeros(4))
    assert len({round(float(value), 5) for value in lanes["log_q"]}) == 4
    for i in range(4):
        values = {key.removeprefix("site/"): value[i] for key, value in lanes.items() if key != "log_q"}
        torch.testing.assert_close(log_q_at(guide, problem, values), lanes["log_q"][i], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("family", [family for family in lvm.guides() if (family, "local") not in REFUSES])
def test_double_precision(family: str) -> None:
    problem = PROBLEMS["local"]().to(dtype=torch.float64)
    guide = build(family, problem)
    assert {parameter.dtype for parameter in guide.parameters()} == {torch.float64}
    draw = guide(*problem.args, **problem.kwargs)
    assert {value.dtype for value in draw.values()} == {torch.float64}


@pytest.mark.parametrize("family", [family for family in lvm.guides() if (family, "local") not in REFUSES])
def test_stock_pyro_vectorised_particles(family: str) -> None:
    problem = PROBLEMS["local"]()
    guide = build(family, problem)
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    loss = elbo.loss(problem.model, guide, *problem.args, **problem.kwargs)
    assert abs(loss) < 1e4


@pytest.mark.parametrize(("family", "name"), sorted(REFUSES))
def test_what_a_family_cannot_take_it_refuses(family: str, name: str) -> None:
    with pytest.raises(lvm.GuideError, match="Fix:"):
        lvm.guide(family).build(PROBLEMS[name]())


@pytest.mark.parametrize("family", lvm.guides())
def test_a_guide_says_what_it_cannot_represent(family: str) -> None:
    assert "cannot represent" in lvm.guide(family).doc
    assert "References" in lvm.guide(family).doc
