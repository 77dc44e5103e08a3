"""Potentials of models of many kinds, and objectives of every guide, are the same to stock Pyro, to a graph and to JAX."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._capture.capturing import capture
from pyrolvm._capture.graph import with_noise
from pyrolvm._capture.jax import precision
from pyrolvm._capture.native import compile_gradient
from pyrolvm._methods.fit.engines import Work
from pyrolvm._methods.fit.objectives import choose_objective
from pyrolvm._methods.fit.optimizer import Stepper
from pyrolvm._program.density import Joint
from pyrolvm._results.draws import registered
from pyrolvm.family.choice import resolve
from tests import zoo
from tests.capture.agreement import TOLERANCE, Given, close, flat, gradients, on_jax, rounding

X = torch.linspace(-1, 1, 6)
Y = torch.tensor([0.3, -0.2, 0.6, 0.1, -0.7, 0.4])


def gaussian_process(x: Tensor, y: Tensor) -> None:
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    length = pyro.sample("length", dist.InverseGamma(3.0, 1.0))
    noise = pyro.sample("noise", dist.HalfCauchy(1.0))
    square = (x[:, None] - x) ** 2
    cov = scale * torch.exp(-0.5 * square / length**2) + (noise + 1e-2) * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), cov), obs=y)


def correlated(x: Tensor, y: Tensor) -> None:
    tril = pyro.sample("tril", dist.LKJCholesky(3, 1.5))
    scale = pyro.sample("scale", dist.HalfNormal(torch.ones(3)).to_event(1))
    with pyro.plate("rows", 2):
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(3), scale_tril=scale[:, None] * tril), obs=y.view(2, 3))


def low_rank(x: Tensor, y: Tensor) -> None:
    factor = pyro.sample("factor", dist.Normal(0.0, 1.0).expand([6, 2]).to_event(2))
    diagonal = pyro.sample("diagonal", dist.Gamma(2.0, 1.0).expand([6]).to_event(1))
    pyro.sample("y", dist.LowRankMultivariateNormal(torch.zeros(6), factor, diagonal + 0.1), obs=y)


def ordinal(x: Tensor, y: Tensor) -> None:
    cuts = pyro.sample(
        "cuts",
        dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), dist.transforms.OrderedTransform()),
    )
    slope = pyro.sample("slope", dist.Laplace(0.0, 1.0))
    with pyro.plate("rows", 6):
        pyro.sample("y", dist.OrderedLogistic(slope * x, cuts), obs=torch.tensor([0, 1, 2, 1, 0, 2]))


def topics(x: Tensor, y: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([0.5, 1.0, 2.0])))
    rates = pyro.sample("rates", dist.Beta(2.0, 3.0).expand([3]).to_event(1))
    pyro.sample("n", dist.Multinomial(10, weights), obs=torch.tensor([2.0, 5.0, 3.0]))
    pyro.sample("k", dist.Binomial(10, rates).to_event(1), obs=torch.tensor([3.0, 1.0, 7.0]))


def hidden_markov(x: Tensor, y: Tensor) -> None:
    rows = pyro.sample("rows", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    means = pyro.sample("means", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    state: Any = 0
    for t in pyro.markov(range(4)):
        state = pyro.sample(f"state_{t}", dist.Categorical(rows[state]), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{t}", dist.Normal(means[state], 0.5), obs=y[t])


def stochastic_volatility(x: Tensor, y: Tensor) -> None:
    step = pyro.sample("step", dist.Exponential(10.0))
    df = pyro.sample("df", dist.Gamma(2.0, 0.1))
    moves = pyro.sample("moves", dist.Normal(0.0, 1.0).expand([6]).to_event(1))
    pyro.sample("y", dist.StudentT(df, 0.0, torch.exp(step * moves.cumsum(-1))).to_event(1), obs=y)


def random_walk(x: Tensor, y: Tensor) -> None:
    drift = pyro.sample("drift", dist.Normal(0.0, 1.0))
    level = drift
    for t in range(4):
        level = pyro.sample(f"level_{t}", dist.Normal(0.9 * level + drift, 0.3))
        pyro.sample(f"y_{t}", dist.Cauchy(level, 0.2), obs=y[t])


def skewed(x: Tensor, y: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.Uniform(0.1, 3.0))
    turned = dist.TransformedDistribution(
        dist.Normal(loc, scale), [dist.transforms.AffineTransform(0.5, 2.0), dist.transforms.SigmoidTransform()]
    )
    with pyro.plate("rows", 6):
        pyro.sample("y", turned, obs=torch.sigmoid(y))


def mixed(x: Tensor, y: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    locs = pyro.sample("locs", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    with pyro.plate("rows", 6):
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(locs, 0.4)), obs=y)


def inflated(x: Tensor, y: Tensor) -> None:
    gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", 4):
        pyro.sample("a", dist.ZeroInflatedPoisson(rate, gate=gate), obs=torch.tensor([0.0, 0.0, 2.0, 5.0]))
        pyro.sample("b", dist.NegativeBinomial(rate, gate), obs=torch.tensor([0.0, 1.0, 2.0, 5.0]))


def horseshoe(x: Tensor, y: Tensor) -> None:
    overall = pyro.sample("overall", dist.HalfCauchy(1.0))
    with pyro.plate("columns", 3):
        local = pyro.sample("local", dist.HalfCauchy(1.0))
        beta = pyro.sample("beta", dist.Normal(0.0, 1.0)) * local * overall
    rows = torch.stack([x, x**2, x**3], -1)
    with pyro.plate("rows", 6):
        pyro.sample("y", dist.Bernoulli(logits=rows @ beta), obs=(y > 0).to(rows))


def matrices(x: Tensor, y: Tensor) -> None:
    precision = torch.diag(pyro.sample("rates", dist.Gamma(torch.full((3,), 5.0), 2.0).to_event(1))) + 0.1
    loc = pyro.sample("loc", dist.MultivariateNormal(torch.zeros(3), torch.eye(3)))
    with pyro.plate("rows", 2):
        pyro.sample("y", dist.MultivariateNormal(loc, precision_matrix=precision), obs=y.view(2, 3))


def network(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([4, 1]).to_event(2))
    v = pyro.sample("v", dist.Normal(0.0, 1.0).expand([1, 4]).to_event(2))
    hidden = torch.nn.functional.layer_norm(torch.nn.functional.linear(x[:, None], w), (4,))
    mean = torch.nn.functional.linear(torch.nn.functional.gelu(hidden), v)[:, 0]
    with pyro.plate("rows", 6):
        pyro.sample("y", dist.SoftLaplace(mean, 0.3), obs=y)


def constrained(x: Tensor, y: Tensor) -> None:
    slope = pyro.sample("slope", dist.ImproperUniform(constraints.interval(-2.0, 2.0), (), ()))
    filled = torch.zeros(6)
    filled[:3] = slope * x[:3]
    filled[3:] = slope**2
    pyro.factor("penalty", -0.1 * slope.abs())
    pyro.sample("y", dist.AsymmetricLaplace(filled, 0.5, 1.3).to_event(1), obs=y)


MODELS: list[Callable[[Tensor, Tensor], None]] = [
    gaussian_process,
    correlated,
    low_rank,
    ordinal,
    topics,
    hidden_markov,
    stochastic_volatility,
    random_walk,
    skewed,
    mixed,
    inflated,
    horseshoe,
    matrices,
    network,
    constrained,
]


def _quick(all: Sequence[Any], few: Collection[Any]) -> list[Any]:
    """All as parameters, of which those that are not among a few are slow."""
    return [pytest.param(one, marks=[] if one in few else [pytest.mark.slow]) for one in all]


def _check(function: Callable[..., Any], xs: list[Tensor], dtype: torch.dtype) -> None:
    """As :func:`agree`, in the session that is open, of which the inputs may be parts."""
    with precision(dtype):
        captured = capture(function, *xs)
        torch.manual_seed(3)
        stock = flat(function(*xs))
        torch.manual_seed(3)
        slack = TOLERANCE[dtype]
        free = with_noise(captured)
        noise = [n.draw() for n in free.noise]
        given = Given(free.module, {})
        recorded = flat(given.run(*xs, *noise, *free.constants))
        size = given.largest if dtype == torch.float32 else 1.0
        rounded, more = rounding(free, xs, noise, {}, gradient=True) if dtype == torch.float32 else (None, None)
        close("torch's graph: value", stock, recorded, slack, size, rounded)
        values, draws, slopes = on_jax(free, xs, noise, stock)
        assert not draws
        close("JAX: value", stock, values, slack, size, rounded)
        expected = gradients(stock, xs)
        close("torch's graph: gradient", expected, gradients(recorded, xs), slack, size, more)
        close("JAX: gradient", expected, slopes, slack, size, more)


def _potential(problem: lvm.Problem, dtype: torch.dtype) -> None:
    with problem.session(seed=0):
        z = (0.3 * torch.randn(problem.unconstrained_size, dtype=torch.float64)).to(dtype).requires_grad_()
        _check(Joint(problem).potential, [z], dtype)


IN_SINGLE = (correlated, hidden_markov, inflated, network)
"""Compared in float32 among the quick tests too; the others among the slow ones."""


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_potentials_agree(model: Callable[..., Any]) -> None:
    _potential(lvm.Problem(model, X.double(), Y.double()), torch.float64)


@pytest.mark.parametrize("model", _quick(MODELS, IN_SINGLE), ids=lambda model: model.__name__)
def test_potentials_agree_in_single_precision(model: Callable[..., Any]) -> None:
    _potential(lvm.Problem(model, X, Y), torch.float32)


ZOO = zoo.names(lambda kind: kind.latents and not kind.parameters)
"""Those whose density is fixed; models with networks have their fits compared, below."""


@functools.cache
def _problem(name: str, dtype: torch.dtype) -> lvm.Problem:
    return lvm.problem(name).to(dtype=dtype)


@pytest.mark.parametrize("name", _quick(ZOO, ZOO[::2]))
def test_potentials_of_the_zoo_agree(name: str) -> None:
    _potential(_problem(name, torch.float64), torch.float64)


@pytest.mark.parametrize("name", _quick(ZOO, ("eight_schools_noncentered", "lda", "pmf")))
def test_potentials_of_the_zoo_agree_in_single_precision(name: str) -> None:
    _potential(_problem(name, torch.float32), torch.float32)


@pytest.mark.parametrize("model", _quick(MODELS, MODELS[::2]), ids=lambda model: model.__name__)
def test_potentials_in_c_agree(model: Callable[..., Any]) -> None:
    _native(lvm.Problem(model, X.double(), Y.double()))


@pytest.mark.parametrize("name", _quick(ZOO, ZOO[1::2]))
def test_potentials_of_the_zoo_in_c_agree(name: str) -> None:
    _native(_problem(name, torch.float64))


def _native(problem: lvm.Problem) -> None:
    with problem.session(seed=0):
        joint = Joint(problem)
        z = 0.3 * torch.randn(problem.unconstrained_size)
        value, gradient = compile_gradient(capture(joint.potential, z))(z.numpy())
        z.requires_grad_()
        stock = joint.potential(z)
        close("C: value", [stock], [torch.tensor(-value)], TOLERANCE[torch.float64], 1.0)
        close(
            "C: gradient", torch.autograd.grad(stock, [z]), [torch.from_numpy(-gradient)], TOLERANCE[torch.float64], 1.0
        )


def _objective(problem: lvm.Problem, guide_name: str, dtype: torch.dtype) -> None:
    with problem.session(seed=0):
        guide = registered(resolve(guide_name, problem).build(problem), guide_name)
        batch = problem.whole
        guide(*problem.args, **problem.kwargs)
        elbo = choose_objective("auto", problem, guide, batch, 4).elbo
        parameters = Work(problem, guide, elbo, Stepper(None, None, None), None, 0).parameters()
        _check(lambda *_: elbo.particles(problem.model, guide, *batch.args, **batch.kwargs), parameters, dtype)


TRAINED = [
    guide for guide in lvm.guides() if guide not in ("pathfinder", "student")
]  # these have algorithms of their own
GUIDES = {
    "eight_schools_centered": [guide for guide in TRAINED if guide != "semi_amortized"],  # rows share latents
    "logistic_regression": [guide for guide in TRAINED if "amortized" not in guide],  # no latent rows to encode
}
"""The guides of some problems. Of the others one is enough: guide and model are recorded side by side."""
QUICK = ("eight_schools_centered", "gaussian_mixture", "vae")
"""The problems whose objectives are compared among the quick tests: every guide, discrete latents, parameters, and networks."""
NETWORKS = ("discrete_vae", "vae")
"""Of the problems with networks, these are captured here; their own tests fit the others."""
PAIRS = [
    (problem, guide)
    for problem in lvm.problems(ready=True)
    if problem in ZOO or problem in NETWORKS
    for guide in GUIDES.get(problem, ["mean_field"] if problem in ZOO else ["auto"])
]


@pytest.mark.parametrize(
    ("name", "guide"),
    [
        pytest.param(name, guide, id=f"{name}-{guide}", marks=[] if name in QUICK else [pytest.mark.slow])
        for name, guide in PAIRS
    ],
)
def test_objectives_of_every_guide_agree(name: str, guide: str) -> None:
    _objective(_problem(name, torch.float64), guide, torch.float64)
