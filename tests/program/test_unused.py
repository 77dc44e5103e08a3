"""Entries of masked latents that nothing depends on, as ``obs_mask=`` makes them."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyrolvm as lvm

Y = torch.tensor([0.3, -1.2, 0.8, 2.1, -0.4, 1.0, 0.2, -0.9])
SEEN = torch.tensor([True, True, False, True, False, True, True, False])
positive = dist.constraints.positive


def response(y: Tensor, seen: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 0.5), obs=y, obs_mask=seen)


def vectors(y: Tensor, seen: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pair = torch.stack([y, -y], -1)
        pyro.sample("y", dist.MultivariateNormal(mean, torch.eye(2)), obs=pair, obs_mask=seen)


def covariate(y: Tensor, seen: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        x = pyro.sample("x", dist.Gamma(2.0, 2.0), obs=y.abs(), obs_mask=seen)
        pyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)


def one_after_the_other(y: Tensor, seen: Tensor) -> None:
    slope, last = pyro.sample("slope", dist.Normal(0.0, 0.5)), y.new_zeros(())
    for t in range(len(y)):
        last = pyro.sample(f"y_{t}", dist.Normal(slope * last, 1.0), obs=y[t], obs_mask=seen[t])


def padded(y: Tensor, seen: Tensor) -> None:
    with pyro.plate("rows", len(y)), poutine.mask(mask=seen):
        level = pyro.sample("level", dist.LogNormal(0.0, 1.0).mask(seen))
        pyro.sample("y", dist.Normal(level, 1.0), obs=y)


def masked_prior(y: Tensor, seen: Tensor) -> None:
    with pyro.plate("rows", len(y)):
        level = pyro.sample("level", dist.Normal(0.0, 1.0).mask(seen))
        pyro.sample("y", dist.Normal(level, 1.0), obs=y)


def masking_guide(y: Tensor, seen: Tensor) -> None:
    at = pyro.param("at", torch.tensor(0.0))
    mean = pyro.sample("mean", dist.Normal(at, pyro.param("sd", torch.tensor(0.3), constraint=positive)))
    with pyro.plate("rows", len(y)), poutine.mask(mask=~seen):
        pyro.sample("y_unobserved", dist.Normal(mean, 0.5))


PROGRAMS = {
    response: {"y_unobserved": SEEN},
    vectors: {"y_unobserved": SEEN},
    covariate: {"x_unobserved": SEEN},
    one_after_the_other: {f"y_{t}_unobserved": SEEN[t] for t in range(8) if SEEN[t]},
    padded: {"level": ~SEEN},
    masked_prior: {},
}


def stock(model: object, result: lvm.Posterior, draw: int) -> float:
    posterior = result.data["posterior"]
    values = {s.name: torch.as_tensor(np.array(posterior[s.name].values[0, draw])) for s in result.problem.latents}
    return float(poutine.trace(poutine.condition(model, values)).get_trace(Y, SEEN).log_prob_sum())


@pytest.mark.parametrize("model", PROGRAMS, ids=lambda model: model.__name__)
def test_the_entries_are_found_where_nothing_depends_on_them(model):
    unused = lvm.Problem(model, Y, SEEN).unused
    assert unused.keys() == PROGRAMS[model].keys()
    assert all(torch.equal(unused[name], mask) for name, mask in PROGRAMS[model].items())


@pytest.mark.parametrize("model", [covariate, padded], ids=lambda model: model.__name__)
def test_stored_densities_are_those_of_the_program(model):
    problem = lvm.Problem(model, Y, SEEN)
    guide = lvm.guide("mean_field", precondition="none")
    chains = lvm.nuts(problem, chains=1, warmup=100, draws=10, precondition="none", progress=False)
    for result in (chains, lvm.fit(problem, guide, max_steps=3, draws=4, engine="pyro", progress=False)):
        assert float(result.log_p[0, 3]) == pytest.approx(stock(model, result, 3), abs=1e-3)
        assert "fitted state" not in str(result.verdict)


def test_the_posterior_is_that_of_what_is_seen():
    problem = lvm.Problem(response, Y, SEEN)
    precision = 1.0 + 4.0 * float(SEEN.sum())
    wanted, sd = 4.0 * float(Y[SEEN].sum()) / precision, precision**-0.5
    evidence = float(dist.MultivariateNormal(torch.zeros(5), torch.eye(5) * 0.25 + 1.0).log_prob(Y[SEEN]))
    results = [lvm.fit(problem, progress=False), lvm.fit(problem, masking_guide, progress=False), lvm.exact(problem)]
    for result in results:
        mean = result.data["posterior"]["mean"].values
        assert mean.mean() == pytest.approx(wanted, abs=0.1 * sd)
        assert mean.std() == pytest.approx(sd, rel=0.1)
        assert result.evidence.value == pytest.approx(evidence, abs=0.05)
        assert result.verdict.status == "trusted"
        assert float(result.log_p[0, 0]) == pytest.approx(stock(response, result, 0), abs=1e-3)


def test_an_autoguide_has_a_density_for_them_too():
    fit = lvm.fit(lvm.Problem(response, Y, SEEN), AutoNormal, max_steps=300, draws=200, progress=False)
    assert np.isfinite(fit.data["sample_stats"]["log_weight"].values).all()
    drawn = fit.data["posterior"]["y_unobserved"].values[0][:, SEEN.numpy()]
    assert 0.2 < drawn.std() < 3.0


def test_models_with_parameters_keep_their_masks():
    def model(y: Tensor, seen: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(1.0), constraint=positive)
        with pyro.plate("rows", len(y)), poutine.mask(mask=seen):
            level = pyro.sample("level", dist.Normal(0.0, scale))
            pyro.sample("y", dist.Normal(level, 1.0), obs=y)

    assert not lvm.Problem(model, Y, SEEN).unused
