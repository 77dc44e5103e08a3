"""What single families promise beyond the contract: accuracy, minibatches, refusals, options."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base import runtime
from pyrolvm._capture.vmap import vmapped

JOINT = ("autoregressive", "flow", "full_rank", "laplace", "low_rank", "mixture")
RHO = 0.9


def correlated() -> None:
    covariance = torch.tensor([[1.0, RHO * 0.5], [RHO * 0.5, 0.25]])
    pyro.sample("x", dist.MultivariateNormal(torch.tensor([1.0, -2.0]), covariance))


def banana() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x * x, 0.5))


def local(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def subsampled(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(y), subsample_size=3) as rows:
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y[rows])


def global_only(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 0.5), obs=y)


def make(family: str, problem: lvm.Problem, **options: Any) -> Any:
    pyro.clear_param_store()
    guide = lvm.guide(family, **options).build(problem)
    if hasattr(guide, "prepare"):
        with pyro.validation_enabled(False):
            guide.prepare(problem, seed=0)
    return guide


def rows(problem: lvm.Problem, guide: Any) -> Callable[[Tensor], dict[str, Tensor]]:
    """log p - log q of one draw, the score function of what is not reparametrised, and the draw."""

    def one(_: Tensor) -> dict[str, Tensor]:
        guide_trace = poutine.trace(guide).get_trace(*problem.args, **problem.kwargs)
        model_trace = poutine.trace(poutine.replay(problem.model, trace=guide_trace)).get_trace(
            *problem.args, **problem.kwargs
        )
        guide_trace.compute_score_parts()
        terms = [n["score_parts"].score_function for n in guide_trace.nodes.values() if n["type"] == "sample"]
        score = sum((t.sum() for t in terms if isinstance(t, Tensor)), torch.zeros(()))
        draw = {site.name: guide_trace.nodes[site.name]["value"] for site in problem.continuous}
        return {"gap": model_trace.log_prob_sum() - guide_trace.log_prob_sum(), "score": score + 0.0, **draw}

    return one


def train(problem: lvm.Problem, guide: Any, steps: int, *, rate: float = 0.02, particles: int = 16) -> None:
    """Adam, constant for half of the steps, then a cosine down to a hundredth."""
    optimiser = torch.optim.Adam(guide.parameters(), lr=rate)
    run = vmapped(rows(problem, guide))
    with pyro.validation_enabled(False):
        for step in range(steps):
            late = max(0.0, 2 * step / steps - 1)
            optimiser.param_groups[0]["lr"] = rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * late)))
            out = run(torch.zeros(particles))
            others = (out["gap"].sum() - out["gap"]) / (particles - 1)
            loss = -(out["gap"] + out["score"] * (out["gap"] - others).detach()).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def draws(problem: lvm.Problem, guide: Any, count: int) -> dict[str, Tensor]:
    with torch.no_grad(), pyro.validation_enabled(False):
        return vmapped(rows(problem, guide))(torch.zeros(count))


# --- accuracy against closed forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "steps"),
    [
        ("full_rank", 400),
        pytest.param("low_rank", 500, marks=pytest.mark.slow),
        pytest.param("autoregressive", 700, marks=pytest.mark.slow),
        pytest.param("flow", 500, marks=pytest.mark.slow),
    ],
)
def test_the_bound_is_the_evidence_of_a_gaussian_posterior(family: str, steps: int) -> None:
    problem = lvm.Problem(correlated)
    guide = make(family, problem)
    train(problem, guide, steps, rate=0.02 if family == "autoregressive" else 0.03)
    out = draws(problem, guide, 4000)
    assert abs(float(out["gap"].mean())) < 0.02  # the evidence of a density that is normalised is log 1
    assert float(out["gap"].std()) < 0.3
    torch.testing.assert_close(out["x"].mean(0), torch.tensor([1.0, -2.0]), atol=0.08, rtol=0)
    torch.testing.assert_close(out["x"].std(0), torch.tensor([1.0, 0.5]), atol=0.0, rtol=0.06)


def test_mean_field_is_too_narrow_by_what_the_theory_says() -> None:
    problem = lvm.Problem(correlated)
    guide = make("mean_field", problem)
    train(problem, guide, 500, rate=0.03, particles=32)
    (scale,) = [p.exp() for name, p in guide.named_parameters() if "scale" in name]
    expected = torch.tensor([1.0, 0.5]) * math.sqrt(1 - RHO**2)
    torch.testing.assert_close(scale, expected, rtol=0.02, atol=0.0)


def test_laplace_is_exact_for_a_gaussian_even_without_training() -> None:
    problem = lvm.Problem(correlated)
    guide = make("laplace", problem).finalize()
    out = draws(problem, guide, 100)
    assert float(out["gap"].abs().max()) < 1e-2


@pytest.mark.slow
def test_flow_bends_where_a_gaussian_cannot() -> None:
    problem = lvm.Problem(banana)
    gaussian = make("full_rank", problem)
    train(problem, gaussian, 500)
    gaussian_gap = float(draws(problem, gaussian, 2000)["gap"].mean())
    flow = make("flow", problem)
    train(problem, flow, 1200)
    flow_gap = float(draws(problem, flow, 2000)["gap"].mean())
    assert gaussian_gap < -0.5
    assert flow_gap > -0.2


@pytest.mark.slow
def test_flow_of_one_unknown_learns_a_skewed_density() -> None:
    def skewed() -> None:
        pyro.sample("x", dist.Gamma(1.0, 1.0))

    problem = lvm.Problem(skewed)
    guide = make("flow", problem)
    train(problem, guide, 500, rate=0.03)
    assert float(draws(problem, guide, 4000)["gap"].mean()) > -0.02


@pytest.mark.slow
def test_flow_of_student_noise_bounds_the_weights_of_heavy_tails() -> None:
    def heavy() -> None:
        pyro.sample("x", dist.MultivariateStudentT(4.0, torch.ones(2), torch.eye(2)))

    problem = lvm.Problem(heavy)
    options = {"precondition": "none", "transforms": 1, "hidden": (8,), "init_scale": 1.0}
    khat = {
        tails: lvm.fit(
            problem, lvm.guide("flow", tails=tails, **options), max_steps=1_500, tolerance=0, progress=False
        ).khat
        for tails in (None, 4)
    }
    assert khat[4] < 0.4
    assert khat[None] > khat[4] + 0.15


@pytest.mark.slow
def test_mixture_weights_learn() -> None:
    def bimodal() -> None:
        x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        parts = dist.Normal(torch.tensor([-3.0, 3.0]), torch.tensor([0.5, 1.0])).log_prob(x)
        pyro.factor("density", (parts + torch.tensor([0.2, 0.8]).log()).logsumexp(-1))

    problem = lvm.Problem(bimodal)
    torch.manual_seed(1)
    guide = make("mixture", problem, components=2, init_scale=1.0)
    with torch.no_grad():
        guide.loc_unconstrained.copy_(torch.tensor([[-2.0], [2.0]]))
    train(problem, guide, 1000, particles=32)
    out = draws(problem, guide, 8000)
    assert abs(float((out["x"] < 0).float().mean()) - 0.2) < 0.03
    assert float(out["gap"].mean()) > -0.02


# --- analytic divergence ----------------------------------------------------------------------------------------------


def test_mean_field_has_the_analytic_divergence_from_normal_and_lognormal_priors() -> None:
    def prior() -> None:
        pyro.sample("a", dist.Normal(1.0, 2.0))
        pyro.sample("b", dist.LogNormal(0.0, 1.0))
        with pyro.plate("rows", 3):
            pyro.sample("c", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("d", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))

    guide = make("mean_field", lvm.Problem(prior), precondition="none")
    losses = {TraceMeanField_ELBO().loss(prior, guide) for _ in range(5)}
    assert max(losses) - min(losses) < 1e-5
    sampled = [Trace_ELBO().loss(prior, guide) for _ in range(5)]
    assert max(sampled) - min(sampled) > 1e-2
    mean = Trace_ELBO(num_particles=2000, vectorize_particles=True, max_plate_nesting=1).loss(prior, guide)
    assert abs(mean - losses.pop()) < 0.2


def test_amortized_has_the_analytic_divergence_too() -> None:
    def prior(y: Tensor) -> None:
        with pyro.plate("rows", len(y)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    y = torch.randn(5)
    guide = make("amortized", lvm.Problem(prior, y))
    losses = {TraceMeanField_ELBO().loss(prior, guide, y) for _ in range(5)}
    assert max(losses) - min(losses) < 1e-4


# --- minibatches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", ["mean_field", *(pytest.param(name, marks=pytest.mark.slow) for name in ("amortized", "structured"))]
)
def test_local_sites_follow_the_models_own_subsample(family: str) -> None:
    y = torch.tensor([-20.0, -10.0, 0.0, 10.0, 20.0, 30.0])
    guide = make(family, lvm.Problem(subsampled, y))
    svi = SVI(subsampled, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(600):
        svi.step(y)
    if family == "mean_field":
        assert guide.loc_1_z_unconstrained.shape == (6,)
        torch.testing.assert_close(
            guide.loc_1_z_unconstrained.detach(), 0.8 * y + 0.2 * float(guide.loc_0_mu.detach()), atol=2.0, rtol=0
        )
    trace = poutine.trace(guide).get_trace(y)
    picked = trace.nodes["rows"]["value"]
    assert picked.shape == (3,)
    expected = 0.8 * y[picked]
    torch.testing.assert_close(trace.nodes["z"]["value"].detach(), expected, atol=4.0, rtol=0)


@pytest.mark.parametrize("family", ["mean_field", "amortized", "structured"])
def test_local_sites_follow_a_slice_with_indices(family: str) -> None:
    y = torch.arange(6.0)
    problem = lvm.Problem(local, y)
    guide = make(family, problem)
    indices = torch.tensor([4, 1])
    with runtime.plates({"rows": runtime.Subsample(6, indices)}):
        trace = poutine.trace(guide).get_trace(y[indices])
    trace.compute_log_prob()
    node = trace.nodes["z"]
    assert node["value"].shape == (2,)
    assert node["scale"] == 3.0
    if family == "mean_field":
        assert torch.equal(node["fn"].loc, guide.loc_1_z_unconstrained[indices])


@pytest.mark.parametrize("family", ["mean_field", "structured"])
def test_a_slice_without_indices_is_refused(family: str) -> None:
    guide = make(family, lvm.Problem(local, torch.zeros(6)))
    with pytest.raises(lvm.GuideError, match=r"'z'.*\(6,\).*'0'.*3 rows, expected 6.*Fix:"):
        guide(torch.zeros(3))


def test_amortized_reads_a_rare_pixel_as_it_reads_a_common_one() -> None:
    """By its standard deviation a pixel that is on in one row of a thousand would be far from all others."""
    images = torch.zeros(1000, 2)
    images[:500, 0], images[0, 1] = 1.0, 1.0
    weights = torch.linspace(1.0, 100.0, 1000)

    def model(images: Tensor, weights: Tensor) -> None:
        with pyro.plate("rows", len(images)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z[:, None].expand(-1, 2)).to_event(1), obs=images)
            pyro.sample("y", dist.Normal(z, 1.0), obs=weights)

    problem = lvm.Problem(model, images, weights)
    with problem.session(seed=0):
        guide = lvm.guide("amortized").build(problem)
        guide.prepare(problem, seed=0)
        read: list[Tensor] = []
        layer = next(part for part in guide.modules() if type(part).__name__ == "Dense")
        layer.register_forward_pre_hook(lambda _, given: read.append(given[0]))
        guide(images, weights)
    rare, real = read[0][:, 1], read[0][:, 2]
    torch.testing.assert_close(read[0][:, 0], 2 * images[:, 0] - 1)
    torch.testing.assert_close(rare, 2 * (images[:, 1] - 0.001))
    torch.testing.assert_close(real.std(correction=0), torch.ones(()))


def test_amortized_encodes_rows_it_has_never_seen() -> None:
    guide = make("amortized", lvm.Problem(local, torch.randn(6)))
    assert guide(torch.randn(9))["z"].shape == (9,)


@pytest.mark.parametrize("family", JOINT)
def test_joint_families_refuse_the_models_own_subsample(family: str) -> None:
    with pytest.raises(lvm.GuideError, match=r"'z'.*'rows' shows 3 of its 6 rows.*Fix: guide=\"mean_field\""):
        make(family, lvm.Problem(subsampled, torch.zeros(6)))


@pytest.mark.parametrize("family", JOINT)
def test_joint_families_refuse_other_data_sizes(family: str) -> None:
    guide = make(family, lvm.Problem(local, torch.zeros(6)))
    with pytest.raises(lvm.GuideError, match=r"'z'.*shape \(6,\).*'0' has shape \(3,\), expected 6 rows.*Fix:"):
        guide(torch.zeros(3))


@pytest.mark.parametrize("family", JOINT)
def test_joint_families_refuse_indices_of_a_slice(family: str) -> None:
    guide = make(family, lvm.Problem(local, torch.zeros(6)))
    policy = {"rows": runtime.Subsample(6, torch.tensor([0, 1]))}
    with runtime.plates(policy), pytest.raises(lvm.GuideError, match=r"'rows' now shows 2 of its 6 rows.*Fix:"):
        guide(torch.zeros(2))


@pytest.mark.parametrize("family", [*JOINT, "mean_field", "structured"])
def test_global_sites_take_minibatches_in_every_family(family: str) -> None:
    guide = make(family, lvm.Problem(global_only, torch.zeros(6)))
    assert guide(torch.zeros(3))["mu"].shape == ()


# --- discrete sites, and none -----------------------------------------------------------------------------------------


def discrete(y: Tensor) -> None:
    m = pyro.sample("m", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(m[k.long()], 0.3), obs=y)


@pytest.mark.parametrize("family", [*JOINT, "mean_field", "structured"])
def test_discrete_sites_are_left_out(family: str) -> None:
    y = torch.tensor([-1.1, 0.9, 1.2])
    problem = lvm.Problem(discrete, y)
    guide = make(family, problem)
    assert set(guide(y)) == {"m"}
    assert math.isfinite(TraceEnum_ELBO(max_plate_nesting=1).loss(discrete, guide, y))


def test_laplace_sums_discrete_sites_out() -> None:
    y = torch.tensor([-1.1, 0.9, 1.2])
    guide = make("laplace", lvm.Problem(discrete, y)).finalize(y)
    mode = guide(y)["m"].detach()
    assert abs(float(mode[0]) + 1.1) < 1.0
    assert abs(float(mode[1]) - 1.0) < 1.0


@pytest.mark.parametrize("family", [*JOINT, "mean_field", "structured", "amortized"])
def test_a_model_without_continuous_sites_gets_an_empty_guide(family: str) -> None:
    def only_data(y: Tensor) -> None:
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    guide = make(family, lvm.Problem(only_data, torch.zeros(3)))
    assert guide(torch.zeros(3)) == {}
    assert list(guide.parameters()) == []


# --- where a guide starts ---------------------------------------------------------------------------------------------


def test_the_start_is_near_the_prior_median_and_vague_priors_do_not_send_it_away() -> None:
    def model() -> None:
        pyro.sample("far", dist.Normal(1000.0, 10.0))
        pyro.sample("vague", dist.Normal(0.0, 1e6))
        pyro.sample("scale", dist.HalfCauchy(5.0))
        pyro.sample("flat", dist.ImproperUniform(dist.constraints.positive, (), ()))

    draw = make("mean_field", lvm.Problem(model), init_scale=1e-4, precondition="none")()
    draw = {name: value.detach() for name, value in draw.items()}
    assert abs(float(draw["far"]) - 1000) < 5
    assert abs(float(draw["vague"])) < 6
    assert 2 < float(draw["scale"]) < 12
    assert 0.5 < float(draw["flat"]) < 2


@pytest.mark.parametrize(
    "family", ["flow", "full_rank", "mean_field", "structured", "mixture", "autoregressive", "low_rank"]
)
def test_init_sets_the_start_in_constrained_units(family: str) -> None:
    options = {"init_spread": 1e-6} if family == "mixture" else {}
    problem = lvm.Problem(local, torch.zeros(4))
    guide = make(family, problem, init_scale=1e-3, init={"z": torch.tensor([1.0, 2.0, 3.0, 4.0])}, **options)
    torch.testing.assert_close(guide(torch.zeros(4))["z"], torch.tensor([1.0, 2.0, 3.0, 4.0]), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"nope": torch.tensor(0.0)}, "'nope', which is no continuous latent site"),
        ({"z": torch.zeros(3)}, r"'z' has shape \(3,\), expected \(4,\)"),
    ],
)
def test_a_wrong_init_is_refused(init: dict[str, Tensor], message: str) -> None:
    with pytest.raises(lvm.GuideError, match=f"{message}.*Fix:"):
        make("mean_field", lvm.Problem(local, torch.zeros(4)), init=init)


def test_an_init_outside_the_support_is_refused() -> None:
    def model() -> None:
        pyro.sample("s", dist.HalfNormal(1.0))

    with pytest.raises(lvm.GuideError, match=r"'s' lies outside its support.*Fix:"):
        make("mean_field", lvm.Problem(model), init={"s": torch.tensor(-1.0)})


def test_a_support_that_depends_on_another_site_is_refused() -> None:
    def model() -> None:
        top = pyro.sample("top", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Uniform(0.0, top))

    with pytest.raises(lvm.GuideError, match=r"support of site 'x' changes.*Fix:"):
        make("full_rank", lvm.Problem(model))


def test_building_a_guide_leaves_the_models_parameters_alone() -> None:
    def model() -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("x", dist.Normal(loc, 1.0))

    make("mean_field", lvm.Problem(model))
    assert "loc" not in pyro.get_param_store()
