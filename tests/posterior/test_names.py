"""Names of sites, plates, coordinates and dimensions that meet: nothing vanishes from a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyrolvm as lvm

Y = torch.tensor([0.5, 1.0, 0.2])
QUICK: dict[str, Any] = {"progress": False, "draws": 12}


def _model(latent: str, plate: str) -> Any:
    def model(y: Tensor) -> None:
        mu = pyro.sample(latent, dist.Normal(0.0, 1.0))
        with pyro.plate(plate, 3):
            theta = pyro.sample("theta", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    return model


@pytest.mark.parametrize("name", ["draw", "chain", "sample", "posterior", "theta_dim_0"])
def test_a_site_of_any_name_is_in_the_result_and_comes_back(name: str, tmp_path: Path) -> None:
    problem = lvm.Problem(_model(name, "rows"), Y)
    fit = lvm.fit(problem, AutoNormal, max_steps=2, engine="pyro", **QUICK)
    chains = lvm.nuts(problem, chains=2, warmup=2, engine="pyro", **QUICK)
    shown = f"{name}_site" if name in ("draw", "chain", "sample") else name
    for result, chain in ((fit, 1), (chains, 2)):
        group = result.data["posterior"]
        assert shown in group.data_vars
        assert group[shown].shape == (chain, 12)
        assert group["theta"].dims == ("chain", "draw", "rows")
        result.save(tmp_path / str(chain))
        again = lvm.load(tmp_path / str(chain), problem=problem)
        assert np.array_equal(again.data["posterior"][shown], group[shown])
        assert again.verdict.reasons
    lvm.nuts(problem, init=fit, chains=1, warmup=2, precondition="none", engine="pyro", **QUICK)


@pytest.mark.parametrize("plate", ["draw", "chain", "sample"])
def test_a_plate_of_any_name_is_a_dimension_of_its_own(plate: str) -> None:
    fit = lvm.fit(lvm.Problem(_model("mu", plate), Y), AutoNormal, max_steps=2, engine="pyro", **QUICK)
    assert fit.data["posterior"]["theta"].dims == ("chain", "draw", f"{plate}_plate")
    assert fit.data["posterior"]["mu"].shape == (1, 12)


def test_a_dimension_that_is_called_like_a_site_keeps_its_labels() -> None:
    named = lvm.model(dims={"theta": ["mu"]}, coords={"mu": ["a", "b", "c"]})(_model("mu", "rows"))
    group = lvm.fit(lvm.Problem(named, Y), AutoNormal, max_steps=2, engine="pyro", **QUICK).data["posterior"]
    assert group["theta"].dims == ("chain", "draw", "mu_plate")
    assert group["mu_plate"].values.tolist() == ["a", "b", "c"]
