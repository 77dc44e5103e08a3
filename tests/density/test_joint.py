"""The joint density of a problem: as Pyro's own, as brute force, and as closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base import runtime
from pyrolvm._program.density import Joint, map_draws
from pyrolvm._program.starting import centre
from tests import zoo

Y = torch.tensor([2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2])


def _like(values: list[float]) -> Tensor:
    """Constants of a model in the dtype that it runs in."""
    return torch.tensor(values, dtype=torch.get_default_dtype())


# --- models -----------------------------------------------------------------------------------------------------------


def schools(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 1.5), obs=y)


def supports(y: Tensor) -> None:
    """Supports of every shape: positive, interval, simplex, Cholesky factor, ordered, improper."""
    a = pyro.sample("a", dist.Gamma(2.0, 3.0))
    b = pyro.sample("b", dist.Uniform(-1.0, 3.0))
    p = pyro.sample("p", dist.Dirichlet(_like([1.0, 2.0, 3.0])))
    chol = pyro.sample("chol", dist.LKJCholesky(3, torch.tensor(2.0, dtype=y.dtype)))
    cuts = pyro.sample("cuts", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
    free = pyro.sample("free", dist.ImproperUniform(dist.constraints.positive, (), (2,)))
    pyro.factor("taper", -(cuts**2).sum() - free.sum())
    mean = a + b + p[0] + chol[2, 0] + cuts[1]
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.StudentT(5.0, mean, 1.0 + a), obs=y)


def grid(y: Tensor) -> None:
    with pyro.plate("column", 2, dim=-1):
        c = pyro.sample("c", dist.Normal(0.0, 1.0))
    with pyro.plate("row", 4, dim=-2):
        r = pyro.sample("r", dist.LogNormal(0.0, 1.0))
        with pyro.plate("cell", 2, dim=-1):
            e = pyro.sample("e", dist.Normal(torch.zeros(3, dtype=y.dtype), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(c + r + e.sum(-1), 1.0), obs=y.reshape(4, 2))


def weighted(y: Tensor) -> None:
    """Masks and scales of the model's own."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)), poutine.mask(mask=torch.arange(len(y)) % 2 == 0), poutine.scale(scale=2.5):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def by_loop(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    for i in pyro.plate("rows", 3):
        z = pyro.sample(f"z_{i}", dist.Normal(mu, 1.0))
        pyro.sample(f"y_{i}", dist.Normal(z, 0.5), obs=y[i])


def mixture(y: Tensor) -> None:
    w = pyro.sample("w", dist.Dirichlet(_like([2.0, 3.0, 1.0])))
    with pyro.plate("component", 3):
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("y", dist.Normal(loc[z], 0.7), obs=y)


def hmm(y: Tensor) -> None:
    move = pyro.sample("move", dist.Dirichlet(_like([[2.0, 1.0], [1.0, 2.0]])).to_event(1))
    loc = pyro.sample("loc", dist.Normal(_like([-1.0, 1.0]), 2.0).to_event(1))
    x: Any = 0
    for t in pyro.markov(range(5)):
        x = pyro.sample(f"x_{t}", dist.Categorical(move[x]))
        pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[t])


def global_choice(y: Tensor) -> None:
    """One discrete latent over all rows."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(0.3))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu + 2 * z, 1.0), obs=y)


PLAIN = [schools, supports, grid, weighted, by_loop]
ENUMERATED = [mixture, hmm, global_choice]


def problem_of(model: Callable[..., Any], dtype: torch.dtype = torch.float32) -> lvm.Problem:
    return lvm.Problem(model, Y).to(dtype=dtype)


def session_of(problem: lvm.Problem, seed: int = 0) -> Any:
    return runtime.session(seed=seed, dtype=problem.dtype, device=problem.device)


def point(problem: lvm.Problem) -> Tensor:
    return 0.7 * torch.randn(problem.unconstrained_size)


# --- against stock Pyro -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", PLAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_p_is_the_trace_log_prob(model: Callable[..., Any], dtype: torch.dtype) -> None:
    problem = problem_of(model, dtype)
    with session_of(problem):
        joint = Joint(problem)
        draw = joint.constrain(point(problem))
        trace = poutine.trace(poutine.condition(model, data=draw)).get_trace(*problem.args)
        torch.testing.assert_close(joint.log_p(draw), trace.log_prob_sum(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", zoo.names(lambda kind: kind.continuous))
def test_log_p_of_the_zoo_is_the_trace_log_prob(name: str) -> None:
    problem = lvm.problem(name)
    with session_of(problem):
        joint = Joint(problem)
        draw = dict(joint.constrain(0.3 * point(problem)))
        with torch.no_grad():
            draw |= joint.discrete(draw) if problem.discrete else {}
            trace = poutine.trace(poutine.condition(problem.model, data=draw)).get_trace(
                *problem.args, **problem.kwargs
            )
            torch.testing.assert_close(joint.log_p(draw), trace.log_prob_sum(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("model", PLAIN + ENUMERATED)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_potential_is_pyros_own(model: Callable[..., Any], dtype: torch.dtype, tolerance: float) -> None:
    problem = problem_of(model, dtype)
    with session_of(problem):
        joint = Joint(problem)
        nesting = max((-plate.dim for plate in problem.plates.values() if plate.dim is not None), default=0)
        # Pyro draws from the prior to start, which improper ones refuse.
        started = InitMessenger(centre)(model) if model is supports else model
        _, potential, _, _ = initialize_model(started, problem.args, max_plate_nesting=nesting)
        for _ in range(3):
            z = point(problem)
            torch.testing.assert_close(
                joint.potential(z), potential(joint.split(z)), rtol=tolerance, atol=10 * tolerance
            )


@pytest.mark.parametrize("model", PLAIN + ENUMERATED)
def test_potential_has_the_gradient_of_its_value(model: Callable[..., Any]) -> None:
    problem = problem_of(model, torch.float64)
    with session_of(problem):
        joint = Joint(problem)
        z, direction = point(problem).requires_grad_(True), point(problem)
        (gradient,) = torch.autograd.grad(joint.potential(z), z)
        step = 1e-6
        difference = (joint.potential(z + step * direction) - joint.potential(z - step * direction)) / (2 * step)
        torch.testing.assert_close(gradient @ direction, difference, rtol=1e-6, atol=1e-6)


# --- coordinates ------------------------------------------------------------------------------------------------------


def nested_bounds(y: Tensor) -> None:
    """Each support depends on the latent before."""
    a = pyro.sample("a", dist.Uniform(0.0, 1.0))
    b = pyro.sample("b", dist.Uniform(a, a + 2.0))
    pyro.sample(
        "c", dist.TruncatedNormal(0.0, 1.0, low=b) if hasattr(dist, "TruncatedNormal") else dist.Uniform(b, 9.0)
    )
    pyro.sample("y", dist.Normal(a + b, 1.0), obs=y[0])


@pytest.mark.parametrize("model", [*PLAIN, *ENUMERATED, nested_bounds])
def test_constrain_and_unconstrain_are_inverse(model: Callable[..., Any]) -> None:
    problem = problem_of(model, torch.float64)
    with session_of(problem):
        joint = Joint(problem)
        z = point(problem)
        draw = joint.constrain(z)
        for site in problem.continuous:
            assert tuple(draw[site.name].shape) == site.shape
        torch.testing.assert_close(joint.flatten(joint.unconstrain(draw)), z, rtol=1e-9, atol=1e-9)


def test_bounds_that_depend_on_latents_hold_and_have_their_jacobian() -> None:
    problem = problem_of(nested_bounds, torch.float64)
    with session_of(problem):
        joint = Joint(problem)
        for _ in range(20):
            z = 2 * point(problem)
            draw = joint.constrain(z)
            assert 0 < draw["a"] < 1 and draw["a"] < draw["b"] < draw["a"] + 2 and draw["c"] > draw["b"]
            jacobian = torch.autograd.functional.jacobian(lambda u: joint.flatten(joint.constrain(u)), z)
            expected = -(joint.log_p(draw) + torch.linalg.slogdet(jacobian).logabsdet)
            torch.testing.assert_close(joint.potential(z), expected, rtol=1e-9, atol=1e-9)


# --- pointwise terms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [schools, supports, grid, by_loop, mixture])
def test_pointwise_terms_sum_to_the_joint(model: Callable[..., Any]) -> None:
    problem = problem_of(model, torch.float64)
    with session_of(problem):
        joint = Joint(problem)
        draw = joint.constrain(point(problem))
        terms = joint.terms(draw)
        log_p = terms.pop("log_p")
        factor = -(draw["cuts"] ** 2).sum() - draw["free"].sum() if model is supports else 0.0
        summed = sum(value.sum() for name, value in terms.items() if name.startswith(("log_prior/", "log_likelihood/")))
        torch.testing.assert_close(summed + factor, log_p, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(log_p, joint.log_p(draw), rtol=1e-12, atol=1e-12)
        for site in problem.observed:
            assert tuple(terms[f"log_likelihood/{site.name}"].shape) == site.shape[: len(site.shape) - site.event_dim]


def test_pointwise_terms_are_masked_but_not_scaled() -> None:
    problem = problem_of(weighted, torch.float64)
    with session_of(problem):
        terms = Joint(problem).terms({"mu": torch.tensor(0.5)})
    rows = dist.Normal(0.5, 1.0).log_prob(problem.args[0])
    rows[1::2] = 0.0
    torch.testing.assert_close(terms["log_likelihood/y"], rows, rtol=1e-12, atol=0)
    prior = dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.5, dtype=torch.float64))
    torch.testing.assert_close(terms["log_p"], prior + 2.5 * rows.sum(), rtol=1e-12, atol=0)


def test_marginal_likelihood_of_a_mixtures_rows_is_the_mixture_distribution() -> None:
    problem = problem_of(mixture, torch.float64)
    with session_of(problem):
        joint = Joint(problem)
        draw = joint.constrain(point(problem))
        found = joint.terms(draw)["log_likelihood/y"]
        marginal = dist.MixtureSameFamily(dist.Categorical(draw["w"]), dist.Normal(draw["loc"], 0.7))
        torch.testing.assert_close(found, marginal.log_prob(problem.args[0]), rtol=1e-12, atol=1e-12)


def test_hmm_is_the_sum_over_all_paths() -> None:
    problem = problem_of(hmm, torch.float64)
    with session_of(problem):
        joint = Joint(problem)
        draw = joint.constrain(point(problem))
        paths = []
        for path in itertools.product(range(2), repeat=5):
            values = {f"x_{t}": torch.tensor(x) for t, x in enumerate(path)}
            trace = poutine.trace(poutine.condition(hmm, data={**draw, **values})).get_trace(*problem.args)
            paths.append(trace.log_prob_sum())
        torch.testing.assert_close(joint.log_p(draw), torch.logsumexp(torch.stack(paths), 0), rtol=1e-12, atol=0)


def spike_and_slab(y: Tensor) -> None:
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        theta = pyro.sample("theta", dist.Normal(3 * z, 0.5 + z))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def test_a_continuous_latent_may_depend_on_a_discrete_one() -> None:
    problem = problem_of(spike_and_slab, torch.float64)
    theta = torch.linspace(-1.0, 4.0, 8, dtype=torch.float64)
    off = math.log(0.7) + dist.Normal(0.0, 0.5).log_prob(theta)
    on = math.log(0.3) + dist.Normal(3.0, 1.5).log_prob(theta)
    prior, likelihood = torch.logaddexp(off, on), dist.Normal(theta, 1.0).log_prob(problem.args[0])
    with session_of(problem):
        joint = Joint(problem)
        terms = joint.terms({"theta": theta})
        torch.testing.assert_close(joint.log_p({"theta": theta}), (prior + likelihood).sum(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(terms["log_prior/theta"], prior, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(terms["log_likelihood/y"], likelihood, rtol=1e-6, atol=1e-6)
        many = map_draws(joint.discrete, {"theta": theta.expand(2000, 8)})["z"].double().mean(0)
    exact = torch.sigmoid(on - off)
    assert ((many - exact).abs() < 5 * (exact * (1 - exact) / 2000).sqrt() + 1e-3).all()


def test_an_infinite_discrete_latent_is_taken_as_given_and_refused_otherwise() -> None:
    def model(y: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        n = pyro.sample("n", dist.Poisson(rate))
        pyro.sample("y", dist.Normal(n, 1.0), obs=y[0])

    problem = problem_of(model)
    draw = {"rate": torch.tensor(1.5), "n": torch.tensor(2.0)}
    expected = (
        dist.Gamma(2.0, 1.0).log_prob(draw["rate"])
        + dist.Poisson(1.5).log_prob(draw["n"])
        + dist.Normal(2.0, 1.0).log_prob(Y[0])
    )
    with session_of(problem):
        joint = Joint(problem)
        torch.testing.assert_close(joint.log_p(draw), expected)
        with pytest.raises(lvm.ProblemError, match=r"site 'n' is Poisson.*infinitely many.*Fix:"):
            joint.potential(torch.zeros(1))


# --- minibatches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [mixture, schools, weighted])
def test_batches_average_to_the_whole(model: Callable[..., Any]) -> None:
    """Also where discrete latents are summed out: N/B belongs outside that sum."""
    problem = problem_of(model, torch.float64)
    with session_of(problem):
        draw = Joint(problem).constrain(point(problem))
        whole = Joint(problem).log_p(draw)
        parts = []
        for rows in torch.arange(8).reshape(4, 2):
            plate = "school" if model is schools else "rows"
            given = {**draw, "theta": draw["theta"][rows]} if model is schools else draw
            parts.append(Joint(problem, problem.batch(rows, plate=plate)).log_p(given))
    if model is weighted:  # its mask counts positions, not rows: every batch of two sees the first
        y = problem.args[0].reshape(4, 2)
        prior = dist.Normal(0.0, 1.0).log_prob(draw["mu"])
        rows_seen = dist.Normal(draw["mu"], 1.0).log_prob(y[:, 0])
        torch.testing.assert_close(torch.stack(parts), prior + 4 * 2.5 * rows_seen, rtol=1e-12, atol=0)
    else:
        torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-10, atol=0)


# --- discrete draws ---------------------------------------------------------------------------------------------------


def _paths(draws: Tensor, states: int) -> Tensor:
    """Codes each row of discrete values as one number, and counts."""
    weights = states ** torch.arange(draws.shape[-1])
    return torch.bincount((draws.long() * weights).sum(-1), minlength=states ** draws.shape[-1])


def _exact(problem: lvm.Problem, draw: dict[str, Tensor], names: list[str], states: int) -> Tensor:
    codes = range(states ** len(names))
    scores = []
    for code in codes:
        values = {name: torch.tensor(code // states**i % states) for i, name in enumerate(names)}
        trace = poutine.trace(poutine.condition(problem.model, data={**draw, **values})).get_trace(*problem.args)
        scores.append(trace.log_prob_sum())
    return torch.softmax(torch.stack(scores), 0)


@pytest.mark.parametrize("batched", [False, True])
def test_discrete_draws_of_an_hmm_have_the_exact_joint_conditional(batched: bool) -> None:
    count = 4000 if batched else 300
    problem = problem_of(hmm, torch.float64)
    names = [f"x_{t}" for t in range(5)]
    with session_of(problem, seed=4):
        joint = Joint(problem)
        draw = {"move": _like([[0.6, 0.4], [0.3, 0.7]]), "loc": _like([-0.5, 1.0])}
        if batched:
            found = map_draws(joint.discrete, {n: v.expand(count, *v.shape) for n, v in draw.items()})
        else:
            each = [joint.discrete(draw) for _ in range(count)]
            found = {name: torch.stack([one[name] for one in each]) for name in names}
        exact = _exact(problem, draw, names, 2)
        counts = _paths(torch.stack([found[name] for name in names], -1), 2)
    kept = exact * count > 5  # the chi-square approximation needs a few in each cell
    observed = torch.cat([counts[kept], counts[~kept].sum()[None]]).double()
    expected = count * torch.cat([exact[kept], exact[~kept].sum()[None]])
    assert scipy.stats.chisquare(observed.numpy(), expected.numpy()).pvalue > 1e-3


def test_discrete_draws_differ_between_lanes_and_follow_each_lanes_values() -> None:
    problem = problem_of(mixture, torch.float64)
    with session_of(problem):
        joint = Joint(problem)
        w = torch.tensor([[0.98, 0.01, 0.01], [0.01, 0.98, 0.01]], dtype=torch.float64).repeat(500, 1)
        z = map_draws(joint.discrete, {"w": w, "loc": torch.zeros(1000, 3)})["z"]
    assert z.shape == (1000, 8)
    # Equal locations: the conditional is the weights themselves.
    for lane, component in ((0, 0), (1, 1)):
        share = (z[lane::2] == component).double().mean()
        assert abs(share - 0.98) < 5 * math.sqrt(0.98 * 0.02 / 4000)
    assert len(torch.unique(z[::2], dim=0)) > 10


# --- predictions ------------------------------------------------------------------------------------------------------


def test_predictive_replaces_observations_alone() -> None:
    problem = problem_of(schools)
    with session_of(problem):
        joint = Joint(problem)
        draw = {"mu": torch.tensor(1.0), "tau": torch.tensor(1.0), "theta": torch.full((8,), 50.0)}
        found = map_draws(joint.predictive, {n: v.expand(500, *v.shape) for n, v in draw.items()})
        assert found.keys() == {"y"}
        assert abs(found["y"].mean() - 50.0) < 5 * 1.5 / math.sqrt(4000)
        assert abs(found["y"].std() - 1.5) < 0.1
        prior = joint.predictive({})
        assert prior.keys() == {"mu", "tau", "theta", "y"}
        torch.testing.assert_close(joint.observations()["y"], problem.args[0])


@pytest.mark.parametrize("seen", [[True, True, True], [True, False, False], [False, False, False]])
def test_masked_latents_that_are_summed_out_keep_their_probabilities(seen):
    def model(y, seen):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)), poutine.mask(mask=seen):
            kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("y", dist.Normal(level + kind, 1.0), obs=y)

    y, seen = torch.tensor([0.1, 0.2, 0.3]), torch.tensor(seen)
    problem = lvm.Problem(model, y, seen)
    with problem.session(seed=0):
        ours = Joint(problem).log_p({"level": torch.tensor(0.5)})
    rows = torch.stack(
        [dist.Normal(0.5 + k, 1.0).log_prob(y) + p for k, p in enumerate(torch.tensor([0.3, 0.7]).log())]
    )
    expected = dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.5)) + (rows.logsumexp(0) * seen).sum()
    assert ours.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("shape", [(3, 2), (2, 4)])
def test_one_hot_latents_are_drawn_from_their_posterior(shape):
    rows, kinds = shape

    def model(y):
        with pyro.plate("rows", rows):
            kind = pyro.sample("kind", dist.OneHotCategorical(torch.ones(kinds) / kinds))
            pyro.sample("y", dist.Normal(kind @ torch.arange(float(kinds)), 0.01), obs=y)

    y = torch.arange(float(rows)) % kinds
    problem = lvm.Problem(model, y)
    with problem.session(seed=0):
        drawn = Joint(problem).discrete({})["kind"]
    assert torch.equal(drawn.argmax(-1), y.long())
