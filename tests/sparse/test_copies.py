"""Hierarchies whose signs or labels are free: ends that are copies are one mode, and draws and evidence are of all copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

QUIET: dict[str, Any] = {"progress": False}


def factors(y: Tensor, first: Any) -> None:
    """One factor for each row; the first loading has a sign of its own, or none."""
    w0 = pyro.sample("w0", first)
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([y.shape[1] - 1]).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(1.0).expand([y.shape[1]]).to_event(1))
    loadings = torch.cat([w0.reshape(1), w])
    with pyro.plate("rows", len(y)):
        f = pyro.sample("f", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(f[:, None] * loadings, s).to_event(1), obs=y)


def slope(x: Tensor, y: Tensor, first: Any) -> None:
    """A slope that is known but for its sign, of many rows."""
    a = pyro.sample("a", first)
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a * a * x, s), obs=y)


def answers() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    f = torch.randn(40, generator=generator)
    return f[:, None] * torch.tensor([0.9, 0.7, -0.8, 0.5]) + 0.6 * torch.randn(40, 4, generator=generator)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_factor_whose_sign_is_free_is_trusted_and_its_evidence_is_of_both(seed: int) -> None:
    y = answers()
    free = lvm.sparse(lvm.Problem(factors, y, dist.Normal(0.0, 1.0)), seed=seed, **QUIET)
    signed = lvm.sparse(lvm.Problem(factors, y, dist.HalfNormal(1.0)), seed=seed, **QUIET)
    assert free.verdict.status == "trusted", str(free.verdict)
    assert free.evidence.value == pytest.approx(signed.evidence.value, abs=0.12)
    draws = free.data["posterior"]
    w0, f = draws["w0"].values[0], draws["f"].values[0]
    assert (w0 > 0).mean() == pytest.approx(0.5, abs=0.01)
    known = signed.data["posterior"]["f"].values[0]
    turned = np.sign(w0)[:, None] * f
    assert np.abs(turned.mean(0) - known.mean(0)).max() < 0.2 * known.std(0).min()
    assert "all of which the draws cover equally" in str(free.verdict)


def test_a_slope_of_many_rows_whose_sign_is_free() -> None:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(20_000, generator=generator)
    y = 1.44 * x + 0.8 * torch.randn(20_000, generator=generator)
    free = lvm.sparse(lvm.Problem(slope, x, y, dist.Normal(0.0, 1.0)), seed=0, **QUIET)
    signed = lvm.sparse(lvm.Problem(slope, x, y, dist.HalfNormal(1.0)), seed=0, **QUIET)
    assert free.verdict.status == "trusted", str(free.verdict)
    assert free.evidence.value == pytest.approx(signed.evidence.value, abs=0.1)
    a = free.data["posterior"]["a"].values
    assert (a > 0).mean() == pytest.approx(0.5, abs=0.01)
    assert np.abs(a).mean() == pytest.approx(1.2, abs=0.01)
