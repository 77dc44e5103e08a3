"""What draws are held against."""

from __future__ import annotations

import numpy as np

import pyrolvm as lvm

__all__ = ["draws_are_those_of"]


def draws_are_those_of(found: lvm.Posterior, chains: lvm.Chains, *, furthest: float) -> None:
    """Means and sds of all sites are within a tenth of an sd of those of chains, rms, and no mean further away than that."""
    for name in chains.data["posterior"].data_vars:
        wanted = chains.data["posterior"][name].stack(sample=("chain", "draw"))
        drawn = found.data["posterior"][name].stack(sample=("chain", "draw"))
        mean, sd = wanted.mean("sample").values, wanted.std("sample").values
        off = np.abs(drawn.mean("sample").values - mean) / sd
        assert np.sqrt(np.mean(off**2)) < 0.1
        assert np.max(off) < furthest
        assert np.sqrt(np.mean((drawn.std("sample").values / sd - 1) ** 2)) < 0.1
