from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import AutoReparam, LocScaleReparam, StudentTReparam, TransformReparam

import pyrolvm as lvm

GROUP = torch.arange(8) % 4
Y = torch.linspace(-1.0, 1.0, 8)


def hierarchy(inside: Any = None, around: Any = None, law: Any = dist.Normal) -> Any:
    """Groups whose site is reparameterised by a handler inside their plate, or around it."""

    def nothing() -> AbstractContextManager[Any]:
        return poutine.reparam(config={})

    def model(group, y):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        with (around or nothing)(), pyro.plate("groups", 4), (inside or nothing)():
            theta = pyro.sample("theta", law(mu, tau))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(theta[group], 1.0), obs=y)

    return model


def by(config: Any) -> Any:
    return lambda: poutine.reparam(config=config)


CASES = {
    "learnt centring": (hierarchy(by({"theta": LocScaleReparam()})), "theta_decentered"),
    "fixed centring": (hierarchy(by({"theta": LocScaleReparam(0.0)})), "theta_decentered"),
    "around the plate": (hierarchy(around=by({"theta": LocScaleReparam()})), "theta_decentered"),
    "a strategy": (hierarchy(by(AutoReparam())), "theta_decentered"),
    "a function": (
        hierarchy(by(lambda site: LocScaleReparam(0.5) if site["name"] == "theta" else None)),
        "theta_decentered",
    ),
    "a transform": (hierarchy(by({"theta": TransformReparam()}), law=dist.LogNormal), "theta_base"),
    "an auxiliary site": (
        hierarchy(by({"theta": StudentTReparam()}), law=lambda m, s: dist.StudentT(5.0, m, s)),
        "theta_gamma",
    ),
    "nested": (
        hierarchy(by({"theta_decentered": LocScaleReparam(0.5)}), around=by({"theta": LocScaleReparam(0.0)})),
        "theta_decentered",
    ),
    "the whole model": (AutoReparam()(hierarchy()), "theta_decentered"),
    "a decorator": (poutine.reparam(config={"theta": LocScaleReparam()})(hierarchy()), "theta_decentered"),
}


@pytest.mark.parametrize(("model", "latent"), list(CASES.values()), ids=list(CASES))
def test_a_reparameterised_site_follows_from_a_latent_of_its_shape(model, latent):
    problem = lvm.Problem(model, GROUP, Y)
    assert problem.name == "model"
    assert problem.sites[latent].shape == (4,)
    assert problem.sites["theta"].kind == ("latent" if latent == "theta_gamma" else "deterministic")
    assert [site.name for site in problem.observed] == ["y"]


@pytest.mark.parametrize("name", ["learnt centring", "a transform", "a decorator"])
def test_its_draws_have_the_density_of_pyro(name):
    model, _ = CASES[name]
    problem = lvm.Problem(model, GROUP, Y)
    fit = lvm.fit(problem, "mean_field", max_steps=20, draws=3, progress=False)
    drawn = {site.name: torch.as_tensor(fit.data["posterior"][site.name].values[0, 2]) for site in problem.latents}
    with pyro.get_param_store().scope():
        for key, value in fit.params.items():
            if key.endswith("_centered"):
                pyro.param(key, torch.sigmoid(value), constraint=dist.constraints.unit_interval)
        trace = poutine.trace(poutine.condition(model, drawn)).get_trace(GROUP, Y)
    assert trace.log_prob_sum().item() == pytest.approx(float(fit.log_p[0, 2]), abs=1e-3)
    assert torch.allclose(trace.nodes["theta"]["value"], torch.as_tensor(fit.data["posterior"]["theta"].values[0, 2]))


def test_a_centring_to_be_learnt_is_no_parameter_that_needs_a_prior():
    problem = lvm.Problem(CASES["learnt centring"][0], GROUP, Y)
    assert not problem.parameters
    assert lvm.nuts(problem, chains=2, warmup=20, draws=20, progress=False).num_draws == 40
