"""Where a model runs draw by draw a result has fewer draws, of which every group says how many, and what evaluated it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._methods.infer import correction
from pyrolvm._program.density import Joint, watched

Y = torch.tensor([0.4, -0.3, 1.1])


def leaves_torch(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.deterministic("double", torch.as_tensor(2 * mu.detach().numpy()))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0 + float(abs(mu.detach()))), obs=y)


def counts_by_hand(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    scale = y.new_tensor(1.0) + sum(float(part) for part in (mu * y).detach()) ** 2
    pyro.sample("y", dist.Normal(mu, scale).expand([3]).to_event(1), obs=y)


def draws_by_numpy(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.deterministic("noise", torch.as_tensor(np.random.rand()))
    pyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)


def ordinal(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3):
        cuts = torch.stack([mu - 1, mu + 1])
        pyro.sample("y", dist.OrderedLogistic(2 * y, cuts), obs=torch.tensor([1, 0, 2]))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrolvm._results.build.PRIOR_LOOPED", 10)
    monkeypatch.setattr("pyrolvm._results.evaluating.LOOPED", 20)
    monkeypatch.setattr("pyrolvm._results.evaluating.LOOPED_GROUP", 10)
    monkeypatch.setattr(correction, "LOOPED", 40)


def _fit(model: Any, **options: Any) -> lvm.Fit:
    return lvm.fit(lvm.Problem(model, Y), "mean_field", max_steps=3, progress=False, **options)


@pytest.mark.parametrize("model", [leaves_torch, counts_by_hand, draws_by_numpy])
def test_a_result_has_few_draws_where_the_model_runs_one_by_one_and_says_why(model: Any) -> None:
    with watched() as seen:
        fit = _fit(model)
    data = fit.data
    assert data["posterior"].sizes["draw"] == data["sample_stats"].sizes["draw"] == 20
    assert "one draw at a time" in data["posterior"].attrs["fewer_draws"]
    for group in ("log_likelihood", "log_prior", "posterior_predictive"):
        assert data[group].sizes["draw"] == 10 and data[group].attrs["thinned_by"] == 2
        assert data[group].attrs["evaluated_by"].startswith("loop: it ")
        assert data[group].coords["draw"].values.tolist() == list(range(0, 20, 2))
    assert sum(one.looped for one in seen) <= 100
    mu = torch.as_tensor(data["posterior"]["mu"].values[0, :3])
    with fit.attached.session(seed=0), torch.no_grad():
        singles = [float(Joint(fit.attached).log_p({"mu": one})) for one in mu]
    np.testing.assert_allclose(fit.log_p[0, :3], singles, rtol=1e-5)


def test_draws_that_are_asked_for_are_drawn_however_they_are_evaluated() -> None:
    fit = _fit(leaves_torch, draws=30)
    assert fit.data["posterior"].sizes["draw"] == 30 and np.isfinite(fit.log_p).all()
    assert fit.data["log_likelihood"].sizes["draw"] == 10
    np.testing.assert_allclose(fit.data["posterior"]["double"], 2 * fit.data["posterior"]["mu"], rtol=1e-6)


def test_corrected_draws_are_few_as_well() -> None:
    corrected = correction.correct(_fit(leaves_torch))
    assert corrected.data["proposal_stats"].sizes["draw"] == 40
    assert corrected.data["posterior"].sizes["draw"] == 20
    assert corrected.data["log_likelihood"].attrs["evaluated_by"].startswith("loop: ")


def test_a_model_that_is_only_refused_by_vmap_keeps_all_its_draws() -> None:
    with watched() as seen:
        fit = _fit(ordinal)
    assert fit.data["posterior"].sizes["draw"] == 4000
    assert fit.data["log_likelihood"].attrs["evaluated_by"] == "vmap"
    assert "thinned_by" not in fit.data["log_likelihood"].attrs
    assert sum(one.looped for one in seen) == 0


def test_quantities_that_read_values_are_of_fewer_draws() -> None:
    problem = lvm.Problem(
        lvm.model(quantities={"larger": lambda draw: torch.tensor(max(float(draw["mu"]), 0.0))})(ordinal), Y
    )
    data = lvm.fit(problem, "mean_field", max_steps=3, progress=False).data
    assert data["posterior"].sizes["draw"] == 4000
    assert data["quantities"].sizes["draw"] <= 10 and data["quantities"].attrs["evaluated_by"].startswith("loop: ")
    kept = data["posterior"]["mu"].sel(draw=data["quantities"].draw)
    np.testing.assert_allclose(data["quantities"]["larger"], np.maximum(kept, 0.0))


def test_chains_keep_every_draw_and_thin_their_groups() -> None:
    chains = lvm.nuts(lvm.Problem(leaves_torch, Y), chains=2, warmup=15, draws=40, seed=1, progress=False)
    data = chains.data
    assert data["posterior"].sizes["draw"] == 40 and data["log_likelihood"].sizes["draw"] == 5
    np.testing.assert_allclose(data["posterior"]["double"], 2 * data["posterior"]["mu"], rtol=1e-6)
    thinned = data["log_likelihood"]["y"].sel(chain=1).isel(draw=3)
    mu = torch.as_tensor(data["posterior"]["mu"].sel(chain=1, draw=int(thinned.draw)).values)
    np.testing.assert_allclose(thinned, dist.Normal(mu, 1 + mu.abs()).log_prob(Y), rtol=1e-5)


def test_a_fit_whose_draws_are_a_chunk_each_has_as_many_as_its_own_seconds_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def level(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    monkeypatch.setattr("pyrolvm._program.density.vectorize.AT_ONCE", 1_000)
    monkeypatch.setattr("pyrolvm._methods.fit.inference.SHARE", 0.0)
    monkeypatch.setattr("pyrolvm._methods.fit.inference.LEAST_SECONDS", 0.001)
    few = lvm.fit(lvm.Problem(level, Y), "mean_field", max_steps=20, draws=None, engine="pyro", progress=False)
    assert few.data["posterior"].sizes["draw"] == 50
    assert few.data["log_likelihood"].attrs["evaluated_by"] == "vmap"
    assert "draws of the guide" in few.data["posterior"].attrs["fewer_draws"]
    asked = lvm.fit(lvm.Problem(level, Y), "mean_field", max_steps=20, draws=80, engine="pyro", progress=False)
    assert asked.data["posterior"].sizes["draw"] == 80
    assert "fewer_draws" not in asked.data["posterior"].attrs
