"""Calibrations of programs with any names."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm


def test_a_site_called_like_the_simulations_is_ranked_beside_labelled_ones() -> None:
    def model(y: Tensor) -> None:
        m = pyro.sample("simulation", dist.Normal(0.0, 1.0))
        with pyro.plate("a/b", 2):
            k = pyro.sample("row", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(m + k.sum(-1), 1.0), obs=y)

    named = lvm.model(coords={"a/b": ["u", "v"]})(model)
    found = lvm.calibrate(lvm.Problem(named, torch.zeros(3)), "mean_field", simulations=2, draws=20, progress=False)
    assert set(found.data["fits"]["error"].values.tolist()) == {""}
    ranked = [group for group in found.data.children.values() if "simulation_site" in group.data_vars]
    assert ranked and all(group["row"].dims[-1] == "a.b" for group in ranked)
    assert all(group["a.b"].values.tolist() == ["u", "v"] for group in ranked)
