"""Objectives: the same numbers as Pyro's ELBOs, and the right one chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.distributions import constraints

import pyrolvm as lvm
from pyrolvm._base import runtime
from pyrolvm._methods.fit.objectives import ParticleELBO

Y = torch.tensor([0.3, 1.2, -0.4], dtype=torch.float64)
KINDS = ("Trace_ELBO", "TraceMeanField_ELBO", "TraceEnum_ELBO")  # those that Pyro has


def model(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 2.0))
    scale = pyro.sample("scale", dist.LogNormal(y.new_tensor(0.0), 0.5))
    with pyro.plate("row", 6, subsample=torch.arange(3)):
        local = pyro.sample("local", dist.Normal(mean, y.new_tensor(1.0)))
        pyro.sample("y", dist.StudentT(5.0, local, scale), obs=y)
    pyro.factor("soft", -0.1 * mean**2)


def guide(y: Tensor) -> None:
    loc = pyro.param("loc", y.new_tensor(0.4))
    sd = pyro.param("sd", y.new_tensor(0.3), constraint=constraints.positive)
    pyro.sample("mean", dist.Normal(loc, sd))
    pyro.sample("scale", dist.LogNormal(y.new_tensor(-0.1), sd))
    with pyro.plate("row", 6, subsample=torch.arange(3)):
        pyro.sample("local", dist.Normal(loc * y, sd))


def mixture(y: Tensor) -> None:
    centre = pyro.sample("centre", dist.Normal(y.new_tensor(0.0), 2.0))
    with pyro.plate("row", len(y)):
        which = pyro.sample("which", dist.Categorical(y.new_tensor([0.2, 0.5, 0.3])))
        pyro.sample("y", dist.Normal(centre * which, 0.8), obs=y)


def mixture_guide(y: Tensor) -> None:
    pyro.sample("centre", dist.Normal(pyro.param("loc", y.new_tensor(0.6)), pyro.param("sd", y.new_tensor(0.3))))


def loss_and_grads(elbo: infer.ELBO, programs: tuple[Any, Any], seed: int) -> tuple[float, list[Tensor]]:
    with runtime.session(seed=seed, dtype=torch.float64):
        loss = elbo.loss_and_grads(*programs, Y)
        return float(loss), [p.grad.clone() for p in runtime.parameters().values()]


@pytest.mark.parametrize(
    ("kind", "programs"),
    [(kind, (model, guide)) for kind in KINDS[:2]] + [("TraceEnum_ELBO", (mixture, mixture_guide))],
    ids=KINDS,
)
def test_one_looped_particle_is_pyros_own_to_the_last_digits(kind: str, programs: tuple[Any, Any]) -> None:
    """The same seed gives the same draws, so loss and gradients must be the same numbers, not merely alike."""
    for seed in range(3):
        pyros = getattr(infer, kind)(num_particles=1, max_plate_nesting=1)
        if kind == "TraceEnum_ELBO":
            wanted = loss_and_grads(pyros, (infer.config_enumerate(programs[0]), programs[1]), seed)
        else:
            wanted = loss_and_grads(pyros, programs, seed)
        found = loss_and_grads(
            ParticleELBO(kind, num_particles=1, max_plate_nesting=1, vectorize=False), programs, seed
        )
        assert found[0] == pytest.approx(wanted[0], rel=1e-12)
        for mine, theirs in zip(found[1], wanted[1], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "programs"),
    [(kind, (model, guide)) for kind in KINDS[:2]] + [("TraceEnum_ELBO", (mixture, mixture_guide))],
    ids=KINDS,
)
def test_vectorised_particles_have_the_distribution_of_looped_ones(kind: str, programs: tuple[Any, Any]) -> None:
    def particles(count: int, vectorize: bool) -> Tensor:
        elbo = ParticleELBO(kind, num_particles=count, max_plate_nesting=1, vectorize=vectorize)
        with runtime.session(seed=3, dtype=torch.float64), torch.no_grad():
            programs[1](Y)  # parameters come to be in a plain run, before vmap
            return elbo.particles(*programs, Y)

    many, few = particles(20_000, True), particles(400, False)
    error = math.sqrt(float(many.var()) / len(many) + float(few.var()) / len(few))
    assert abs(float(many.mean() - few.mean())) < 4 * error
    assert float(many.std()) == pytest.approx(float(few.std()), rel=0.25)
    assert len(torch.unique(many)) == len(many)  # every lane drew for itself


def test_all_kinds_estimate_one_number() -> None:
    """A model without discrete latents has one ELBO, whatever estimates it."""
    means, errors = [], []
    for kind in (*KINDS, "StickingTheLanding_ELBO"):
        elbo = ParticleELBO(kind, num_particles=20_000, max_plate_nesting=1)
        with runtime.session(seed=1, dtype=torch.float64), torch.no_grad():
            guide(Y)
            values = elbo.particles(model, guide, Y)
        means.append(float(values.mean()))
        errors.append(float(values.std()) / len(values) ** 0.5)
    for mean, error in zip(means[1:], errors[1:], strict=True):
        assert abs(mean - means[0]) < 4 * math.hypot(error, errors[0])


def test_leaving_the_score_out_changes_the_gradient_by_noise_alone() -> None:
    grads, errors = {}, {}
    for kind in ("Trace_ELBO", "StickingTheLanding_ELBO"):
        rows = []
        with runtime.session(seed=2, dtype=torch.float64):
            guide(Y)  # parameters come to be in a plain run, before vmap
            elbo = ParticleELBO(kind, num_particles=500, max_plate_nesting=1)
            for _ in range(60):
                elbo.loss_and_grads(model, guide, Y)
                params = runtime.parameters().values()
                rows.append(torch.stack([p.grad.clone() for p in params]))
                for p in params:
                    p.grad = None
        drawn = torch.stack(rows)
        grads[kind], errors[kind] = drawn.mean(0), drawn.std(0) / len(rows) ** 0.5
    one, other = grads.values()
    error = torch.hypot(*errors.values())
    assert bool(((one - other).abs() < 4 * error).all())
    assert bool((error < 0.1 * one.abs()).all())  # or the comparison would say nothing


@pytest.mark.parametrize("family", ["full_rank", "structured"])
def test_without_the_score_the_gradient_vanishes_at_the_posterior(family: str) -> None:
    def prior(y: Tensor) -> None:
        pyro.sample("mean", dist.Normal(y.new_tensor(3.0), 2.0))

    problem = lvm.Problem(prior, Y)
    norms = {}
    with problem.session(seed=0):
        fitted = lvm.guide(family, precondition="frame").build(problem)
        fitted.prepare(problem, seed=0)
        for kind in ("Trace_ELBO", "StickingTheLanding_ELBO"):
            loss = ParticleELBO(kind, num_particles=4).differentiable_loss(problem.model, fitted, Y)
            trained = [
                p for name, p in fitted.named_parameters() if not name.startswith(getattr(fitted, "held", ()) or "-")
            ]
            found = torch.autograd.grad(loss, trained, allow_unused=True)
            norms[kind] = max(float(g.abs().max()) for g in found if g is not None)
    assert norms["StickingTheLanding_ELBO"] < 0.1 * norms["Trace_ELBO"]


def test_analytic_kl_has_no_noise() -> None:
    """Without data the mean-field objective is minus the KL divergence, the same number for every draw."""

    def prior(y: Tensor) -> None:
        pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 2.0))
        pyro.sample("scale", dist.LogNormal(y.new_tensor(0.0), 1.0))

    def factorised(y: Tensor) -> None:
        pyro.sample("mean", dist.Normal(y.new_tensor(1.0), 0.5))
        pyro.sample("scale", dist.LogNormal(y.new_tensor(0.5), 0.25))

    def kl(m: float, s: float, prior_sd: float) -> float:
        return math.log(prior_sd / s) + (s**2 + m**2) / (2 * prior_sd**2) - 0.5

    wanted = -kl(1.0, 0.5, 2.0) - kl(0.5, 0.25, 1.0)
    with runtime.session(seed=0, dtype=torch.float64):
        exact = ParticleELBO("TraceMeanField_ELBO", num_particles=50).particles(prior, factorised, Y)
        noisy = ParticleELBO("Trace_ELBO", num_particles=50).particles(prior, factorised, Y)
    assert exact.tolist() == pytest.approx([wanted] * 50, rel=1e-12)
    assert float(noisy.std()) > 0.1


def test_particles_lower_the_noise_as_they_should() -> None:
    def spread(count: int) -> float:
        elbo = ParticleELBO("Trace_ELBO", num_particles=count)
        with runtime.session(seed=2, dtype=torch.float64):
            guide(Y)
            losses = torch.tensor([elbo.loss(model, guide, Y) for _ in range(200)])
        return float(losses.std())

    assert spread(1) / spread(25) == pytest.approx(5.0, rel=0.25)


# --- choosing ---------------------------------------------------------------------------------------------------------


def chosen(fit: lvm.Fit) -> str:
    return str(fit.data["posterior"].attrs["objective"])


def test_auto_takes_the_analytic_kl_for_a_factorised_guide(
    normal_problem: lvm.Problem, short: Callable[..., lvm.Fit]
) -> None:
    assert chosen(short(normal_problem, "mean_field")).startswith("TraceMeanField_ELBO")


@pytest.mark.parametrize(
    ("family", "kind"),
    [("full_rank", "StickingTheLanding"), ("low_rank", "StickingTheLanding"), ("flow", "Trace"), (AutoNormal, "Trace")],
)
def test_auto_leaves_the_score_out_where_that_is_cheap(
    normal_problem: lvm.Problem, short: Callable[..., lvm.Fit], family: Any, kind: str
) -> None:
    assert chosen(short(normal_problem, family)).startswith(f"{kind}_ELBO")


def test_auto_sees_that_a_guide_does_not_factorise(normal_problem: lvm.Problem, short: Callable[..., lvm.Fit]) -> None:
    """KL terms site by site would leave out that q(scale | mean) depends on the draw of the mean."""

    def structured(y: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        mean = pyro.sample("mean", dist.Normal(loc, 0.5))
        pyro.sample("scale", dist.LogNormal(0.1 * mean, 0.3))

    assert chosen(short(normal_problem, structured)).startswith("Trace_ELBO")


def test_auto_sums_discrete_latents_out(mixture_problem: lvm.Problem, short: Callable[..., lvm.Fit]) -> None:
    fit = short(mixture_problem)
    assert chosen(fit).startswith("TraceEnum_ELBO")
    assert set(fit.data["posterior"].data_vars) == {"centre", "on"}
    assert set(float(v) for v in fit.data["posterior"]["on"].values.reshape(-1)) <= {0.0, 1.0}


def test_discrete_site_of_the_guide_gets_a_score_function(mixture_problem: lvm.Problem) -> None:
    """The probabilities that a guide learns for a discrete site are the exact ones, within the noise of such gradients."""
    y = mixture_problem.args[0]

    def with_discrete(y: Tensor) -> None:
        logits = pyro.param("logits", lambda: torch.zeros(len(y)), event_dim=0)
        pyro.sample("centre", dist.Normal(1.5, 0.05))
        with pyro.plate("row", len(y)):
            pyro.sample("on", dist.Bernoulli(logits=logits), infer={"enumerate": None})

    fit = lvm.fit(
        mixture_problem,
        with_discrete,
        max_steps=150,
        num_particles=4,
        learning_rate=0.1,
        tolerance=0,
        draws=1000,
        progress=False,
    )
    assert "cannot be reparameterised" in chosen(fit)
    on = dist.Normal(1.5, 0.7).log_prob(y) + math.log(0.4)
    off = dist.Normal(0.0, 0.7).log_prob(y) + math.log(0.6)
    exact = torch.sigmoid(on - off)
    found = torch.as_tensor(fit.data["posterior"]["on"].values[0]).float().mean(0)
    assert float((found - exact).abs().max()) < 0.2


def test_a_model_that_reads_values_runs_one_by_one(make_data: Any, short: Callable[..., lvm.Fit]) -> None:
    def reads(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
        width = 2.0 if float(mean.detach()) > 100 else 1.0
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, width), obs=y)

    fit = short(lvm.Problem(reads, make_data()))
    assert "one by one" in chosen(fit)
    assert fit.engine == "pyro"
    assert fit.data["optimization"].attrs["num_particles"] == 1


def test_num_particles_is_used_and_reported(normal_problem: lvm.Problem, short: Callable[..., lvm.Fit]) -> None:
    assert short(normal_problem).data["optimization"].attrs["num_particles"] == 16
    fit = short(normal_problem, num_particles=3)
    assert fit.data["optimization"].attrs["num_particles"] == 3
    assert "elbo_mcse" in fit.data["optimization"]
    assert "elbo_mcse" not in short(normal_problem, num_particles=1).data["optimization"]


@pytest.mark.parametrize("name", KINDS[:2])
def test_a_named_objective_is_used(normal_problem: lvm.Problem, short: Callable[..., lvm.Fit], name: str) -> None:
    assert chosen(short(normal_problem, "mean_field", objective=name)) == f"{name}: given by the caller"


def test_pyros_class_of_a_known_kind_is_run_vectorised(
    normal_problem: lvm.Problem, short: Callable[..., lvm.Fit]
) -> None:
    by_class = short(normal_problem, objective=infer.Trace_ELBO, seed=4)
    by_name = short(normal_problem, objective="Trace_ELBO", seed=4)
    assert by_class.losses.tolist() == by_name.losses.tolist()


def test_an_elbo_instance_is_used_as_it_is(normal_problem: lvm.Problem, short: Callable[..., lvm.Fit]) -> None:
    class Counting(infer.Trace_ELBO):
        calls = 0

        def loss_and_grads(self, *args: Any, **kwargs: Any) -> float:
            Counting.calls += 1
            return super().loss_and_grads(*args, **kwargs)

    fit = short(normal_problem, objective=Counting(num_particles=2), max_steps=7)
    assert Counting.calls == 7
    assert chosen(fit) == "given by the caller"
    assert fit.data["optimization"].attrs["num_particles"] == 2


def test_another_elbo_class_is_made_with_the_particles_asked_for(
    normal_problem: lvm.Problem, short: Callable[..., lvm.Fit]
) -> None:
    fit = short(normal_problem, objective=infer.RenyiELBO, num_particles=3, max_steps=5)
    assert fit.data["optimization"].attrs["num_particles"] == 3
    assert len(fit.losses) == 5


def test_wrong_objectives_are_refused(
    normal_problem: lvm.Problem, mixture_problem: lvm.Problem, short: Callable[..., lvm.Fit]
) -> None:
    with pytest.raises(lvm.UnknownNameError, match="Trace_ELBO"):
        short(normal_problem, objective="Trace_ELBOW")
    with pytest.raises(lvm.ArgumentError, match="objective"):
        short(normal_problem, objective=3)
    with pytest.raises(lvm.GuideError, match="does not sum out"):
        short(mixture_problem, objective="Trace_ELBO")


def test_stock_autoguide_objective_matches_its_own_svi(normal_problem: lvm.Problem) -> None:
    """A hundred steps of stock Pyro and of ``fit`` with the same ELBO and optimiser reach the same ELBO."""
    options = {"max_steps": 300, "tolerance": 0, "progress": False, "draws": 2000}
    mine = lvm.fit(
        normal_problem, AutoNormal, objective=infer.Trace_ELBO(), optimizer=pyro.optim.Adam({"lr": 0.02}), **options
    )
    with runtime.session(seed=1):
        stock_guide = AutoNormal(normal_problem.model)
        svi = infer.SVI(normal_problem.model, stock_guide, pyro.optim.Adam({"lr": 0.02}), infer.Trace_ELBO())
        losses = [svi.step(*normal_problem.args) for _ in range(300)]
    late = torch.tensor(losses[200:])
    error = float(late.std()) / 10
    assert float(mine.losses[200:].mean()) == pytest.approx(float(late.mean()), abs=5 * error)
