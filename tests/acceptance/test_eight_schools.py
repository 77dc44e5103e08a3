"""NUTS on eight schools against the reference posterior of posteriordb.

The figures below are summary statistics of posteriordb's reference draws (10 chains of Stan, 10,000 draws kept) for
``eight_schools-eight_schools_noncentered``: mean and mean square of each quantity with their Monte Carlo standard errors.
Source: https://github.com/stan-dev/posteriordb, licence BSD-3-Clause.
"""

from __future__ import annotations

import numpy as np
import pytest

import pyrolvm as lvm

NAMES = [*(f"theta[{i}]" for i in range(1, 9)), "mu", "tau"]
MEAN = [
    6.15050229,
    4.93958114,
    3.90590609,
    4.79601675,
    3.61443632,
    4.05114758,
    6.31716976,
    4.88399694,
    4.41051834,
    3.60205952,
]
MEAN_MCSE = [
    0.05573753, 0.04622938, 0.05423137, 0.04749358, 0.04614506, 0.04851954, 0.04987668, 0.05425116, 0.03303747, 0.03186151,
]  # fmt: skip
SQUARE = [69.36345, 45.9787, 43.13923, 45.76135, 34.35767, 39.4135, 64.93269, 52.12845, 30.40302, 23.20407]
SQUARE_MCSE = [
    1.1692102, 0.6346494, 0.6539418, 0.6193689, 0.4550489, 0.5390213, 0.9216132, 0.9024748, 0.3351356, 0.4848872,
]  # fmt: skip


def mcse_mean(values: np.ndarray) -> float:
    """Batch means of chains: shape (chain, draw)."""
    from arviz_base import dict_to_dataset
    from arviz_stats import mcse

    return float(mcse(dict_to_dataset({"x": values}))["x"])


def worst_z(result: lvm.Posterior) -> dict[str, float]:
    posterior = result.data["posterior"]
    columns = [*(posterior["theta"].values[..., i] for i in range(8)), posterior["mu"].values, posterior["tau"].values]
    worst = {}
    for power, reference, error in ((1, MEAN, MEAN_MCSE), (2, SQUARE, SQUARE_MCSE)):
        for name, values, wanted, mcse_ref in zip(NAMES, columns, reference, error, strict=True):
            moment = np.asarray(values, dtype=float) ** power
            worst[f"{name}^{power}"] = (moment.mean() - wanted) / np.hypot(mcse_mean(moment), mcse_ref)
    return worst


def test_eight_schools_by_nuts_in_short() -> None:
    """A run short enough for every day: it would still notice a wrong model or a dropped Jacobian."""
    chains = lvm.nuts(lvm.problem("eight_schools"), chains=2, warmup=100, draws=100, seed=1, progress=False)
    z = worst_z(chains)
    assert max(abs(value) for value in z.values()) < 5, z


@pytest.mark.slow
def test_eight_schools_by_nuts_matches_posteriordb() -> None:
    chains = lvm.nuts(
        lvm.problem("eight_schools"), chains=4, warmup=500, draws=1000, target_accept=0.9, seed=0, progress=False
    )
    z = worst_z(chains)
    assert max(abs(value) for value in z.values()) < 5, z
    assert chains.divergences <= 4
    # The errors of such a run are small enough for the comparison to mean something.
    assert mcse_mean(chains.data["posterior"]["mu"].values.astype(float)) < 0.15
