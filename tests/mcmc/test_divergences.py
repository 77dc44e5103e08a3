"""Where divergences gather: the pair of unknowns in the verdict, and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import pyrolvm as lvm
from pyrolvm._results.gathering import gathered


def _tree(diverging: np.ndarray[Any, Any], **draws: np.ndarray[Any, Any]) -> xr.DataTree:
    sites = {name: (("chain", "draw", *[f"row of {name}"] * (value.ndim - 2)), value) for name, value in draws.items()}
    return xr.DataTree.from_dict(
        {
            "unconstrained_posterior": xr.Dataset(sites),
            "sample_stats": xr.Dataset({"diverging": (("chain", "draw"), diverging)}),
        }
    )


def _funnel(count: int = 1_000) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    scale = random.normal(size=(2, count))
    return scale, np.exp(scale)[..., None] * random.normal(size=(2, count, 3))


def test_the_narrow_end_of_a_funnel_is_found() -> None:
    scale, x = _funnel()
    other = np.random.default_rng(1).normal(size=(2, 1_000, 4))
    found = gathered(_tree((scale < -1.2) & (np.arange(1_000) % 3 == 0), other=other, x=x, scale=scale))
    assert found is not None
    assert found.names[0] == "scale" and found.names[1].startswith("x[")
    assert found.where == ("low", "in its middle")
    assert found.draws[0].shape == (2, 1_000)


def test_divergences_that_are_anywhere_or_few_have_no_place() -> None:
    scale, x = _funnel()
    anywhere = np.random.default_rng(2).random((2, 1_000)) < 0.03
    assert gathered(_tree(anywhere, x=x, scale=scale)) is None
    assert (
        gathered(_tree((scale < -2.9) & (np.cumsum(scale < -2.9).reshape(scale.shape) < 4), x=x, scale=scale)) is None
    )
    assert gathered(_tree(scale < -1.2, scale=scale)) is None


def neal(y: torch.Tensor) -> None:
    scale = pyro.sample("scale", dist.Normal(y.new_tensor(0.0), 3.0))
    with pyro.plate("row", 5):
        pyro.sample("x", dist.Normal(0.0, (scale / 2).exp()))
    pyro.sample("y", dist.Normal(scale, 10.0), obs=y)


def test_the_verdict_names_the_pair_and_the_picture_shows_it(tmp_path: Path) -> None:
    chains = lvm.nuts(
        lvm.Problem(neal, torch.tensor(0.0)), precondition="none", warmup=200, draws=400, seed=0, progress=False
    )
    assert chains.divergences >= 5
    assert "They gather where `scale` is low and `x[" in str(chains.verdict)
    chains.plot("divergences", path=tmp_path / "pair.png")
    assert (tmp_path / "pair.png").stat().st_size > 1_000


def test_without_divergences_the_picture_is_refused() -> None:
    chains = lvm.nuts(lvm.Problem(neal, torch.tensor(0.0)), warmup=100, draws=50, chains=2, seed=0, progress=False)
    with pytest.raises(lvm.ArgumentError, match=r"no pair of unknowns.*Fix:"):
        chains.plot("divergences")
