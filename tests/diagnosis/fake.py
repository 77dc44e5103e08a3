"""Small made-up posteriors with the groups that real ones have."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace

import arviz_base
import numpy as np
import xarray as xr

import pyrolvm as lvm
from pyrolvm.family.protocol import Traits

SCHOOLS = ["Choate", "Deerfield", "Phillips Andover", "Exeter"]


@dataclass
class Fake:
    """Stands in for a Fit or Chains: only what diagnose and compare read."""

    data: xr.DataTree
    name: str = "fake"
    seconds: dict = field(default_factory=dict)
    engine: str = "torch"
    evidence: SimpleNamespace | None = None


def draw_tree(sites, stats=None, dims=None, coords=None, **groups):
    everything = {"posterior": sites, **groups}
    if stats:
        everything["sample_stats"] = stats
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found chain dimension to be longer")  # short chains on purpose
        return arviz_base.from_dict(everything, dims=dims or {}, coords=coords or {})


def chains(rng, sites, *, dims=None, coords=None, diverging=None, stats=None, **groups):
    """Draws of shape (chain, draw, ...) with sampler statistics."""
    shape = np.shape(next(iter(sites.values())))[:2]
    everything = {"diverging": np.zeros(shape, bool) if diverging is None else diverging, "lp": rng.normal(size=shape)}
    everything["energy"] = rng.normal(size=shape)
    return draw_tree(sites, everything | (stats or {}), dims, coords, **groups)


def fit(
    rng, sites, *, log_weight=None, converged=None, loss=None, guide="mean_field", dims=None, coords=None, **groups
):
    """Independent draws of shape (1, draw, ...) with importance weights, all equal unless given."""
    shape = np.shape(next(iter(sites.values())))[:2]
    log_q = rng.normal(size=shape)
    weights = np.full(shape, -3.0) if log_weight is None else np.reshape(log_weight, shape)
    stats = {"lp": log_q + weights, "log_q": log_q, "log_weight": weights}
    data = draw_tree(sites, stats, dims, coords, **groups)
    data["posterior"].attrs |= {
        "pyrolvm_guide": guide,
        **(lvm.guide(guide).traits if guide in lvm.guides() else Traits()).attrs(),
    }
    if converged is not None:
        trace = 50 * np.exp(-np.arange(300) / 40) + 3 if loss is None else loss
        group = xr.Dataset({"loss": ("step", np.asarray(trace, float))})
        group.attrs.update(converged=int(converged), stop_reason="step budget spent" if not converged else "flat")
        data["optimization"] = xr.DataTree(group)
    return data


def ar1(rng, rho, shape):
    """Stationary AR(1) chains with unit variance, (chain, draw)."""
    noise = rng.normal(size=shape)
    out = np.empty(shape)
    out[:, 0] = noise[:, 0]
    for t in range(1, shape[1]):
        out[:, t] = rho * out[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return out
