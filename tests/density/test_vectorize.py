"""Many draws at once: what ``vmap`` gives is what a loop gives, and a loop is taken where ``vmap`` cannot go."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base import runtime
from pyrolvm._base.progress import shown
from pyrolvm._capture.vmap import VmapFriendly, vmapped
from pyrolvm._program.density import Evaluator, Joint, constrained, flattened, map_draws, repeat, vectorize, watched
from tests import zoo

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


CONTINUOUS = zoo.names(lambda kind: kind.continuous)
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


def _observed(loc: Any, scale: Any) -> None:
    pyro.sample("y", dist.Normal(loc, scale).expand([3]).to_event(1), obs=Y)


def takes_an_item() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    _observed(0.0, 1.0 + tau.item())


def branches() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    _observed(0.0, tau if tau > 1 else 10 * tau)


def counts() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    _observed(float(int(tau.clamp(max=3).long())), 1.0)


def checks_its_scale() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    if not bool((tau > 0).all()) or torch.isnan(tau):
        raise ValueError("a scale must be positive")
    scale = torch.empty(3)
    for i in range(3):
        scale[i] = tau * (i + 1)
    _observed(0.0, scale)


def fills_in_place() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    scale = torch.empty(3)
    for i in range(3):
        scale[i] = tau * (i + 1)
    _observed(0.0, scale)


def fills_all_but_the_ends() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    scale = torch.ones(5)
    scale[1:-1] = tau
    _observed(0.0, scale[:-2] + scale[2:])


def writes_into_data() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    scale = torch.ones(3)
    scale.data[:] = tau
    _observed(0.0, scale)


def picks_by_mask() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    pyro.deterministic("large", torch.as_tensor(float(len(Y[Y > tau]))))
    _observed(0.0, tau)


class _Squared(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient * context.saved_tensors[0]


def has_a_gradient_of_its_own() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    _observed(0.0, _Squared.apply(tau))


def orders() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", 4):
        cuts = torch.stack([-tau, tau])
        pyro.sample("y", dist.OrderedLogistic(tau * torch.arange(4.0), cuts), obs=torch.tensor([0, 1, 2, 2]))


def misses_values() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    y = torch.tensor([[1.0, float("nan"), 2.0], [0.0, 1.0, 2.0]])
    scale = tau.expand(2)[:, None, None] * torch.eye(3)
    with pyro.plate("rows", 2):
        pyro.sample("y", dist.NanMaskedMultivariateNormal(torch.zeros(2, 3), scale_tril=scale), obs=y)


def leaves_torch() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    _observed(0.0, torch.as_tensor(np.sqrt(tau.detach().numpy())))


def draws_by_numpy() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    pyro.deterministic("noise", torch.as_tensor(np.random.rand()))
    _observed(0.0, tau)


REFUSED = {
    takes_an_item: "vmap", branches: "paths", counts: "paths", checks_its_scale: "paths", fills_in_place: "vmap",
    fills_all_but_the_ends: "vmap", writes_into_data: "vmap", picks_by_mask: "paths", has_a_gradient_of_its_own: "graph",
    orders: "vmap", misses_values: "vmap", leaves_torch: "loop", draws_by_numpy: "loop",
}  # fmt: skip
"""Models that plain ``vmap`` refuses or gets wrong, and what runs them."""

FEW = {"tau": torch.tensor([0.5, 1.5, 2.0, 0.9]).repeat(20)}


@pytest.mark.parametrize("model", REFUSED)
def test_what_vmap_refuses_is_run_otherwise_and_right(model: Any) -> None:
    problem = lvm.Problem(model)
    with _session(problem), torch.no_grad(), watched() as seen:
        joint = Joint(problem)
        found = map_draws(joint.terms, FEW, what="terms")
        new = map_draws(joint.predictive, FEW, what="predictive")["y"]
        for i in (0, 1, 2, 3, 79):
            single = joint.terms({"tau": FEW["tau"][i]})
            for name, value in single.items():
                if name != "deterministic/noise":
                    torch.testing.assert_close(found[name][i], value, msg=lambda m, n=name: f"{n}: {m}")
    assert seen[0].way == REFUSED[model]
    assert seen[1].way in (REFUSED[model], "vmap")
    assert [one.looped for one in seen] == [80 if REFUSED[model] == "loop" else 0] * 2
    if model is not orders:
        assert len(new.reshape(80, -1).unique(dim=0)) == 80  # every draw has numbers of its own
    if model is picks_by_mask:
        assert found["deterministic/large"].tolist() == [2.0, 1.0, 1.0, 1.0] * 20
    if model is draws_by_numpy:
        assert len(found["deterministic/noise"].unique()) == 80


@pytest.mark.parametrize("model", [fills_in_place, fills_all_but_the_ends, orders, misses_values])
def test_what_draws_write_into_tensors_of_their_own_has_the_gradient_of_single_runs(model: Any) -> None:
    problem = lvm.Problem(model)
    with _session(problem):
        joint = Joint(problem)

        def slope(draw: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"slope": torch.func.grad(lambda tau: joint.log_p({"tau": tau}))(draw["tau"])}

        every = Evaluator(slope, {"tau": FEW["tau"][:4]})
        found = every({"tau": FEW["tau"][:4]})["slope"]
        assert every.way == "vmap"
        torch.testing.assert_close(found, torch.stack([slope({"tau": tau})["slope"] for tau in FEW["tau"][:4]]))


@pytest.mark.parametrize("model", [takes_an_item, branches, fills_in_place, orders, leaves_torch])
def test_a_fit_of_what_vmap_refuses(model: Any) -> None:
    problem = lvm.Problem(model)
    fit = lvm.fit(problem, "mean_field", max_steps=3, draws=5, progress=False)
    tau = torch.as_tensor(fit.data["posterior"]["tau"].values[0])
    with _session(problem), torch.no_grad():
        expected = torch.stack([Joint(problem).log_p({"tau": t}) for t in tau])
    torch.testing.assert_close(torch.as_tensor(fit.log_p[0]), expected.double(), rtol=1e-5, atol=1e-5)


def test_a_way_that_random_numbers_decide_on_is_not_recorded() -> None:
    """Draws that took another way would be drawn again, and those that stay would be chosen by what they drew."""

    def model() -> None:
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        pyro.sample("y", dist.Normal(5.0 if torch.rand(()) < 0.9 else -5.0, tau), obs=torch.tensor(0.0))

    problem = lvm.Problem(model)
    with _session(problem), torch.no_grad(), watched() as seen:
        y = map_draws(Joint(problem).predictive, {"tau": torch.full((1000,), 0.1)})["y"]
    assert seen[0].way == "loop"
    assert abs(float((y > 0).double().mean()) - 0.9) < 0.04


def test_draws_with_rare_ways_are_run_by_themselves() -> None:
    def function(draw: dict[str, Tensor]) -> dict[str, Tensor]:
        k = int(draw["k"])
        return {"x": draw["k"].double() * 2 if k < 5 else torch.tensor(float(np.sqrt(k)), dtype=torch.float64)}

    k = torch.zeros(200, dtype=torch.long)
    k[150:] = torch.arange(50)
    with runtime.session(seed=0), watched() as seen:
        found = map_draws(function, {"k": k})["x"]
    assert seen[0].way == "paths" and 0 < seen[0].looped < 60
    assert found.tolist() == [2.0 * i if i < 5 else float(np.sqrt(i)) for i in k.tolist()]


def test_a_result_that_several_draws_at_once_change_is_not_taken() -> None:
    def function(draw: dict[str, Tensor]) -> dict[str, Tensor]:
        number = draw["x"].item()
        return {"y": draw["x"] + (1.0 if isinstance(number, float) else 0.0)}

    with runtime.session(seed=0), watched() as seen:
        found = map_draws(function, {"x": torch.arange(3.0)})
    assert found["y"].tolist() == [1.0, 2.0, 3.0]
    assert seen[0].way == "loop" and "give another y" in seen[0].reason


def test_a_loop_shows_how_far_it_is_and_why() -> None:
    seen: list[tuple[int, int, str]] = []
    with runtime.session(seed=0), shown(lambda *line: seen.append(line)):
        map_draws(lambda draw: {"y": torch.tensor(float(draw["x"]))}, {"x": torch.arange(3.0)}, what="numbers")
    assert seen[-1][:2] == (3, 3) and "ms each: " in seen[-1][2]


# --- coordinates without the likelihood --------------------------------------------------------------------------------


def _reads_before_its_latents() -> None:
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    pyro.deterministic("root", torch.tensor(float(tau)))
    pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
    pyro.sample("steps", dist.Uniform(-1.0, torch.tensor([1.0, 2.0])).to_event(1))


def _support_of_another() -> None:
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    pyro.deterministic("root", torch.tensor(float(tau)))
    pyro.sample("u", dist.Uniform(0.0, tau))


def _likelihood_that_reads() -> None:
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    pyro.sample("u", dist.Uniform(0.0, tau))
    _observed(0.0, 1.0 + float(tau))


@pytest.mark.parametrize(
    ("model", "way"),
    [(_reads_before_its_latents, "supports"), (_support_of_another, "loop"), (_likelihood_that_reads, "vmap")],
)
def test_coordinates_need_supports_and_not_the_likelihood(model: Any, way: str) -> None:
    problem = lvm.Problem(model)
    with problem.session(seed=0), torch.no_grad(), watched() as seen:
        joint = Joint(problem)
        flat = torch.randn(70, problem.unconstrained_size)
        draws = constrained(joint, flat)
        torch.testing.assert_close(flattened(joint, draws), flat, rtol=1e-3, atol=1e-4)
        for i in (0, 40, 69):
            for name, value in joint.constrain(flat[i]).items():
                torch.testing.assert_close(draws[name][i], value)
    assert [one.way for one in seen] == [way, way]


def test_sites_without_unknowns_are_flat_too() -> None:
    def model() -> None:
        pyro.sample("share", dist.Dirichlet(torch.ones(1)))  # one part alone is the whole
        pyro.sample("x", dist.Normal(0.0, 1.0))

    problem = lvm.Problem(model)
    with _session(problem):
        joint, flat = Joint(problem), torch.randn(5, 1)
        torch.testing.assert_close(flattened(joint, constrained(joint, flat)), flat)


def test_a_run_for_coordinates_ends_at_the_last_latent() -> None:
    reached = 0

    def model() -> None:
        nonlocal reached
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        try:
            pyro.sample("x", dist.Normal(0.0, tau))
            reached += 1
            _observed(0.0, tau)
        except Exception:  # whatever a model catches is not what ends it
            reached += 100

    problem = lvm.Problem(model)
    reached = 0
    with problem.session(seed=0), torch.no_grad():
        joint = Joint(problem)
        there = joint.unconstrain(joint.constrain(torch.tensor([0.3, -0.2])))
    assert reached == 0
    torch.testing.assert_close(joint.flatten(there), torch.tensor([0.3, -0.2]))


def test_operations_that_vmap_runs_lane_by_lane_are_quiet_inside_a_session(capfd: Any) -> None:
    index = torch.tensor([0, 2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with runtime.session(seed=0):
            vmapped(lambda x: torch.take(x, index))(torch.zeros(2, 3))
            vmapped(torch.func.grad(lambda x: torch.renorm(x[None], 2, 0, 1.0).sum()))(torch.ones(2, 3))
            vmapped(lambda x: torch.histc(x, 4))(torch.ones(2, 3))
    assert not [one for one in caught if "performance drop" in str(one.message)]
    assert "performance drop" not in capfd.readouterr().err


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


def test_draws_that_are_as_much_as_a_chunk_each_are_not_recorded(monkeypatch) -> None:
    """A recording keeps all that is computed on the way: of a network on many images more than a machine has."""

    def model(y: Tensor) -> None:
        pyro.sample("y", dist.Normal(pyro.sample("mean", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    recorded: list[int] = []

    def capture(function: object, *example: Tensor) -> None:
        recorded.append(len(example[0]))
        raise lvm.CaptureError("none")

    monkeypatch.setattr(vectorize, "capture", capture)
    problem, draws = lvm.Problem(model, torch.ones(())), {"mean": torch.randn(8)}
    with problem.session(seed=0):
        terms = Joint(problem).terms
        large = map_draws(terms, draws, inside=vectorize.AT_ONCE)
        assert not recorded
        small = map_draws(terms, draws, chunk=1)
        assert recorded == [1]
    for name, value in large.items():
        torch.testing.assert_close(small[name], value)


PLACE, BASE = torch.tensor([0, 2]), torch.zeros(3, 4, dtype=torch.float64)
WRITES = {
    "select_scatter": lambda x: torch.select_scatter(BASE, x.expand(3), 1, 0),
    "select_scatter of the last": lambda x: BASE.select_scatter(x.expand(4), dim=0, index=-1),
    "index_fill": lambda x: torch.index_fill(BASE, 1, PLACE, x),
    "index_fill of rows": lambda x: BASE.index_fill(-2, PLACE, x),
    "index_fill_": lambda x: (x * torch.ones_like(BASE)).index_fill_(1, PLACE, x * x),
    "index_fill of a number": lambda x: (x * torch.ones_like(BASE)).index_fill(1, PLACE, 2.0),
}


@pytest.mark.parametrize("write", WRITES)
def test_gradients_through_vmap_are_each_lanes_own(write):
    def weighed(x):
        return (WRITES[write](x) * torch.arange(12.0, dtype=torch.float64).reshape(3, 4).square()).sum()

    rows = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    values = vmapped(weighed)(rows)
    (found,) = torch.autograd.grad(values.sum(), rows)
    for row, value, slope in zip(rows.detach(), values, found, strict=True):
        alone = row.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(weighed(alone), alone)
        assert float(value.detach()) == pytest.approx(float(weighed(row)))
        assert float(slope) == pytest.approx(float(wanted))
