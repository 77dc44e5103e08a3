"""The ELBO of a minibatch, averaged over a partition of the rows, is the ELBO of all rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base import runtime
from pyrolvm._methods.fit.objectives import ParticleELBO
from pyrolvm._program.density import Joint

ROWS, BATCH = 12, 4
Draw = Mapping[str, Tensor]


def pooled(x: Tensor, y: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(x.new_tensor(0.0), 2.0))
    scale = pyro.sample("scale", dist.HalfNormal(x.new_tensor(1.0)))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(slope * x, scale), obs=y)


def factors(x: Tensor, y: Tensor) -> None:
    loading = pyro.sample("loading", dist.Normal(x.new_tensor(0.0), 1.0))
    with pyro.plate("row", len(y)):
        factor = pyro.sample("factor", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        width = pyro.sample("width", dist.Gamma(x.new_tensor(2.0), 2.0))
        pyro.sample("y", dist.Normal(loading * factor.sum(-1) + x, width), obs=y)


def own_subsample(x: Tensor, y: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(x.new_tensor(0.0), 2.0))
    with pyro.plate("row", len(y), subsample_size=BATCH) as rows:
        local = pyro.sample("local", dist.Normal(x.new_tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(slope * x[rows] + local, 1.0), obs=y[rows])


def mixture(x: Tensor, y: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(x.new_ones(3)))
    with pyro.plate("component", 3):
        centre = pyro.sample("centre", dist.Normal(x.new_tensor(0.0), 2.0))
    with pyro.plate("row", len(y)):
        which = pyro.sample("which", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(centre[which], 0.7), obs=y)


class Given(Messenger):
    """Sets latent sites to a draw of all rows, of which those in the plate take their own rows."""

    def __init__(self, draw: Draw, local: set[str], rows: Tensor) -> None:
        super().__init__()
        self.draw, self.local, self.rows = draw, local, rows

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.draw and not msg["is_observed"]:
            value = self.draw[msg["name"]]
            msg["value"] = value[self.rows] if msg["name"] in self.local else value
            msg["done"] = True


@pytest.fixture
def problem_of() -> Callable[[Any], lvm.Problem]:
    def build(model: Any) -> lvm.Problem:
        generator = torch.Generator().manual_seed(1)
        x, y = torch.randn(2, ROWS, generator=generator, dtype=torch.float64)
        return lvm.Problem(model, x, y)

    return build


PARTITION = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3)).split(BATCH)


def locals_of(problem: lvm.Problem) -> set[str]:
    return {site.name for site in problem.latents if "row" in site.plates}


def elbo_at(problem: lvm.Problem, guide: Any, batch: Any, draw: Draw, rows: Tensor) -> Tensor:
    local = locals_of(problem)
    total = []
    for program, sign in ((problem.model, 1.0), (guide, -1.0)):
        with batch.active(), poutine.trace() as tracer, Given(draw, local, rows):
            program(*batch.args, **batch.kwargs)
        total.append(sign * tracer.trace.log_prob_sum())
    return total[0] + total[1]


@pytest.mark.parametrize(
    ("model", "guide_name"),
    [(pooled, "mean_field"), (factors, "mean_field"), (factors, "amortized")],
)
def test_elbo_of_a_partition_is_the_elbo_of_all_rows(problem_of: Any, model: Any, guide_name: str) -> None:
    problem = problem_of(model)
    with runtime.session(seed=0, dtype=problem.dtype), torch.no_grad():
        guide = lvm.guide(guide_name).build(problem)
        with problem.whole.active():
            trace = poutine.trace(guide).get_trace(*problem.args)
        draw = {site.name: trace.nodes[site.name]["value"] for site in problem.latents}
        full = elbo_at(problem, guide, problem.whole, draw, torch.arange(ROWS))
        parts = [elbo_at(problem, guide, problem.batch(rows), draw, rows) for rows in PARTITION]
    assert float(torch.stack(parts).mean()) == pytest.approx(float(full), rel=1e-10)
    assert float(torch.stack(parts).std()) > 1e-3  # the batches do differ


@pytest.mark.parametrize("model", [pooled, factors, mixture, own_subsample])
def test_log_joint_of_a_partition_is_that_of_all_rows(problem_of: Any, model: Any) -> None:
    problem = problem_of(model)
    local = locals_of(problem)
    with runtime.session(seed=0, dtype=problem.dtype), torch.no_grad():
        draw = {n: v for n, v in Joint(problem).predictive({}).items() if n in {s.name for s in problem.continuous}}
        full = Joint(problem).log_p(draw)
        parts = []
        for rows in PARTITION:
            mine = {name: value[rows] if name in local else value for name, value in draw.items()}
            parts.append(Joint(problem, problem.batch(rows)).log_p(mine))
    assert float(torch.stack(parts).mean()) == pytest.approx(float(full), rel=1e-10)


def test_discrete_latents_are_summed_out_at_the_scale_of_the_batch(problem_of: Any) -> None:
    """Against log sum_k w_k Normal(y_n; m_k, s), written out."""
    problem = problem_of(mixture)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    centre = torch.tensor([-1.0, 0.0, 1.5], dtype=torch.float64)
    zero, two, width = torch.tensor([0.0, 2.0, 0.7], dtype=torch.float64)
    prior = dist.Dirichlet(torch.ones_like(weights)).log_prob(weights) + dist.Normal(zero, two).log_prob(centre).sum()
    rows = PARTITION[0]
    terms = dist.Normal(centre, width).log_prob(problem.args[1][rows, None]) + weights.log()
    wanted = float(prior + terms.logsumexp(-1).sum() * ROWS / BATCH)

    def points(x: Tensor, y: Tensor) -> None:
        pyro.sample("weights", dist.Delta(weights, event_dim=1))
        with pyro.plate("component", 3):
            pyro.sample("centre", dist.Delta(centre))

    batch = problem.batch(rows)
    with runtime.session(seed=0, dtype=problem.dtype):
        assert float(Joint(problem, batch).log_p({"weights": weights, "centre": centre})) == pytest.approx(
            wanted, rel=1e-10
        )
        for vectorize in (True, False):
            elbo = ParticleELBO("TraceEnum_ELBO", num_particles=2, max_plate_nesting=1, vectorize=vectorize)
            with batch.active():
                values = elbo.particles(problem.model, points, *batch.args, **batch.kwargs)
            assert values.tolist() == pytest.approx([wanted, wanted], rel=1e-10)


@pytest.mark.parametrize("guide_name", ["mean_field", "amortized"])
def test_analytic_kl_of_a_partition_is_that_of_all_rows(problem_of: Any, guide_name: str) -> None:
    """The KL terms of local latents are scaled with their rows: only the noise of the draws is left."""
    problem = problem_of(factors)
    count = 4000
    with runtime.session(seed=0, dtype=problem.dtype), torch.no_grad():
        guide = lvm.guide(guide_name).build(problem)
        elbo = ParticleELBO("TraceMeanField_ELBO", num_particles=count, max_plate_nesting=1)

        def values(batch: Any) -> Tensor:
            with batch.active():
                return elbo.particles(problem.model, guide, *batch.args, **batch.kwargs)

        values(problem.whole)
        full = values(problem.whole)
        parts = torch.stack([values(problem.batch(rows)) for rows in PARTITION])
    error = float(full.var() / count + parts.var(dim=1).mean() / count / len(PARTITION)) ** 0.5
    difference = float(parts.mean() - full.mean())
    assert abs(difference) < 4 * error
    assert error < 0.01 * abs(float(full.mean()))


def test_minibatch_fit_finds_the_posterior_of_all_rows() -> None:
    """A conjugate normal mean, fitted by batches of a tenth: mean and sd are those of all the data."""
    generator = torch.Generator().manual_seed(4)
    y = 1.0 + torch.randn(100, generator=generator, dtype=torch.float64)

    def normal_mean(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 10.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    precision = 100 + 1 / 100
    fit = lvm.fit(
        lvm.Problem(normal_mean, y), "mean_field", batch_size=10, max_steps=800, tolerance=0, seed=0, progress=False
    )
    draws = fit.sample(20_000)["mean"].values
    assert draws.mean() == pytest.approx(float(y.sum()) / precision, abs=0.02)
    assert draws.std() == pytest.approx(precision**-0.5, rel=0.1)  # without the scale it would be three times this
