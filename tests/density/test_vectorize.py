"""Many draws at once: what ``vmap`` gives is what a loop gives, and a loop is taken where ``vmap`` cannot go."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm import runtime
from pyrolvm.capture.vmap import VmapFriendly, vmapped
from pyrolvm.density import Joint, map_draws
from pyrolvm.density.vectorize import repeat

COUNT = 3


def _session(problem: lvm.Problem) -> Any:
    return runtime.session(seed=0, dtype=problem.dtype, device=problem.device)


def _loop(function: Any, draws: dict[str, Tensor]) -> dict[str, Tensor]:
    count = len(next(iter(draws.values())))
    rows = [function({name: value[i] for name, value in draws.items()}) for i in range(count)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _draws(problem: lvm.Problem, joint: Joint) -> dict[str, Tensor]:
    flat = 0.3 * torch.randn(COUNT, problem.unconstrained_size)
    return _loop(lambda one: joint.constrain(one["z"]), {"z": flat})


CONTINUOUS = [name for name in lvm.problems() if lvm.problem(name).continuous]
"""Problems that have unknowns once discrete ones are summed out."""


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_zoo_is_the_same_at_once_and_one_by_one(name: str) -> None:
    problem = lvm.problem(name)
    with _session(problem), torch.no_grad():
        joint = Joint(problem)
        draws = _draws(problem, joint)
        at_once = vmapped(joint.terms)(draws)  # directly, so that a silent loop cannot pass
        one_by_one = _loop(joint.terms, draws)
        assert at_once.keys() == one_by_one.keys()
        for term, value in one_by_one.items():
            torch.testing.assert_close(at_once[term], value, rtol=1e-5, atol=1e-4, msg=lambda m, t=term: f"{t}: {m}")
        for function in (joint.unconstrain, joint.deterministic):
            batched, looped = map_draws(function, draws), _loop(function, draws)
            assert batched.keys() == looped.keys()
            for site, value in looped.items():
                torch.testing.assert_close(batched[site], value, rtol=1e-4, atol=1e-4)
        potentials = vmapped(joint.potential)(
            torch.stack([joint.flatten(joint.unconstrain({k: v[i] for k, v in draws.items()})) for i in range(COUNT)])
        )
        assert potentials.shape == (COUNT,) and bool(torch.isfinite(potentials).all())


@pytest.mark.parametrize("name", CONTINUOUS)
def test_random_functions_of_the_zoo_differ_between_draws(name: str) -> None:
    problem = lvm.problem(name)
    with _session(problem), torch.no_grad():
        joint = Joint(problem)
        draws = _draws(problem, joint)
        same = {k: v[:1].expand(4, *v.shape[1:]) for k, v in draws.items()}
        for site, value in map_draws(joint.predictive, same).items():
            assert len(torch.unique(value.reshape(4, -1), dim=0)) > 1, site


# --- models that vmap cannot run --------------------------------------------------------------------------------------

Y = torch.tensor([2.8, 0.8, -0.3])


def reads_by_item(y: Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    pyro.sample("y", dist.Normal(0.0, 1.0 + tau.item()).expand([3]).to_event(1), obs=y)


def branches(y: Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    scale = tau if tau > 1 else 10 * tau
    pyro.sample("y", dist.Normal(0.0, scale).expand([3]).to_event(1), obs=y)


def fills_in_place(y: Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    scale = torch.empty(3)
    for i in range(3):
        scale[i] = tau * (i + 1)
    pyro.sample("y", dist.Normal(0.0, scale).to_event(1), obs=y)


def fills_at_random(y: Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    noise = torch.empty(3)
    noise.normal_()
    pyro.deterministic("noise", noise)
    pyro.sample("y", dist.Normal(0.0, tau).expand([3]).to_event(1), obs=y)


def picks_by_mask(y: Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    large = y[y > tau]
    pyro.deterministic("large", torch.as_tensor(float(len(large))))
    pyro.sample("y", dist.Normal(0.0, tau).expand([3]).to_event(1), obs=y)


TAU = torch.tensor([0.5, 1.5, 2.0, 0.9])
EXPECTED = {
    reads_by_item: lambda tau: dist.Normal(0.0, 1 + tau).log_prob(Y).sum(),
    branches: lambda tau: dist.Normal(0.0, tau if tau > 1 else 10 * tau).log_prob(Y).sum(),
    fills_in_place: lambda tau: dist.Normal(0.0, tau * torch.tensor([1.0, 2.0, 3.0])).log_prob(Y).sum(),
    fills_at_random: lambda tau: dist.Normal(0.0, tau).log_prob(Y).sum(),
    picks_by_mask: lambda tau: dist.Normal(0.0, tau).log_prob(Y).sum(),
}


@pytest.mark.parametrize("model", EXPECTED)
def test_what_vmap_refuses_is_looped_over_and_right(model: Any) -> None:
    problem = lvm.Problem(model, Y)
    with _session(problem), torch.no_grad():
        joint = Joint(problem)
        with pytest.raises(RuntimeError):
            vmapped(joint.terms)({"tau": TAU})
        found = map_draws(joint.terms, {"tau": TAU})
        prior = dist.Gamma(2.0, 1.0).log_prob(TAU)
        likelihood = torch.stack([EXPECTED[model](tau) for tau in TAU])
        torch.testing.assert_close(found["log_likelihood/y"], likelihood)
        torch.testing.assert_close(found["log_p"], prior + likelihood)
        if model is fills_at_random:
            noise = map_draws(joint.deterministic, {"tau": TAU})["noise"]
            assert len(torch.unique(noise)) == noise.numel()
        if model is picks_by_mask:
            assert map_draws(joint.deterministic, {"tau": TAU})["large"].tolist() == [2.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("model", EXPECTED)
def test_a_fit_of_what_vmap_refuses(model: Any) -> None:
    fit = lvm.fit(lvm.Problem(model, Y), "mean_field", max_steps=3, draws=5, progress=False)
    tau = torch.as_tensor(fit.data["posterior"]["tau"].values[0])
    expected = torch.stack([EXPECTED[model](t) for t in tau]) + dist.Gamma(2.0, 1.0).log_prob(tau)
    torch.testing.assert_close(torch.as_tensor(fit.log_p[0]), expected.double(), rtol=1e-5, atol=1e-5)


# --- map_draws itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 5, 100, None])
def test_chunks_do_not_show(chunk: int | None) -> None:
    x = torch.arange(10.0).reshape(5, 2)
    found = map_draws(lambda draw: {"sum": draw["x"].sum(), "double": 2 * draw["x"]}, {"x": x}, chunk=chunk)
    torch.testing.assert_close(found["sum"], x.sum(1))
    torch.testing.assert_close(found["double"], 2 * x)


def test_an_error_of_the_function_itself_is_raised() -> None:
    def wrong(draw: dict[str, Tensor]) -> dict[str, Tensor]:
        raise KeyError("no such site")

    with pytest.raises(KeyError, match="no such site"):
        map_draws(wrong, {"x": torch.zeros(3)})


@pytest.mark.parametrize(
    "distribution",
    [
        dist.Normal(1.0, 2.0), dist.Uniform(-1.0, 3.0), dist.Exponential(2.0), dist.Cauchy(0.0, 1.0), dist.Gamma(2.0, 1.0),
        dist.Beta(2.0, 3.0), dist.LogNormal(0.0, 1.0), dist.HalfCauchy(1.0), dist.StudentT(4.0), dist.Poisson(3.0),
        dist.Bernoulli(0.3), dist.Categorical(torch.tensor([0.2, 0.3, 0.5])), dist.Gumbel(0.0, 1.0), dist.Laplace(0.0, 1.0),
        dist.Weibull(1.0, 2.0),
    ],
    ids=lambda d: type(d).__name__,
)  # fmt: skip
def test_lanes_draw_independently_from_the_right_distribution(distribution: Any) -> None:
    """The replaced samplers have the distribution of the stock ones, by a two-sample test."""
    from scipy.stats import ks_2samp, rankdata

    count = 2000
    with runtime.session(seed=11):
        lanes = repeat(lambda: {"x": distribution.sample((2,))}, count, like=torch.zeros(()))["x"].double()
        stock = distribution.sample((count,)).double()
    assert lanes.shape == (count, 2)
    assert not torch.equal(lanes[:, 0], lanes[:, 1])
    assert ks_2samp(lanes[:, 0], stock).pvalue > 1e-3
    # Neighbouring lanes share nothing: the correlation of ranks is noise.
    ranks = torch.as_tensor(rankdata(lanes[:, 0]))
    assert abs(float(torch.corrcoef(torch.stack([ranks[1:], ranks[:-1]]))[0, 1])) < 5 / count**0.5


def test_the_replaced_samplers_are_for_libraries_alone() -> None:
    """A program's own in-place draw fills the tensor that it holds."""
    with VmapFriendly():
        mine = torch.zeros(1000)
        mine.normal_()
        assert mine.abs().min() > 0


def test_many_chunks_run_the_program_once_for_all() -> None:
    runs = 0

    def model(y: Tensor) -> None:
        nonlocal runs
        runs += 1
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mean, 1.0).expand([3]).to_event(1), obs=y)

    problem = lvm.Problem(model, torch.arange(3.0))
    with problem.session(seed=0):
        joint, draws = Joint(problem), {"mean": torch.randn(95)}
        whole = map_draws(joint.terms, draws)
        before = runs
        parts = map_draws(joint.terms, draws, chunk=10)
        assert runs - before < 6
        new = map_draws(joint.predictive, {"mean": torch.zeros(95)}, chunk=10)["y"]
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value)
    assert len(new.unique()) == new.numel()  # every chunk draws numbers of its own
