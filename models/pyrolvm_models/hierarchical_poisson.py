r"""Hierarchical Poisson regression: lip cancer in 56 counties of Scotland, and work in the open air.

    intercept  ~ Normal(0, 1)
    slope      ~ Normal(0, 1)                               for 10 percentage points of outdoor workers
    tau        ~ HalfNormal(1)
    log_risk_i ~ Normal(intercept + slope x_i, tau)         i = 1..56 counties (local)
    y_i        ~ Poisson(expected_i exp(log_risk_i))

Graph: ``intercept, slope, tau -> log_risk_i -> y_i <- expected_i`` with a plate over the counties. ``x_i`` is the
share of workers in agriculture, fishing and forestry, who are in the sun; ``expected_i`` the cases that the age of
the population alone would lead one to expect. ``tau`` is what the counties differ by beyond that. The form is
centred, as one would write it.

What variational inference loses: little here, which makes it a good first check. The counts say enough that
``tau`` is far from 0 and there is hardly a funnel. A mean-field guide finds every mean and understates the sds of
``intercept`` and ``slope``, which are correlated; counties with a count of 0 or 1 have skewed risks, which
Gaussians miss a little. Full-rank and ``student`` are as good as NUTS.

Data: cases of 1975-1980, from Clayton and Kaldor (1987), table 1: facts from a publication.

References:
    Clayton, D., Kaldor, J. (1987). Empirical Bayes estimates of age-standardized relative risks for use in disease
        mapping. Biometrics 43, 671-681. https://doi.org/10.2307/2532003
    Breslow, N. E., Clayton, D. G. (1993). Approximate inference in generalized linear mixed models. Journal of
        the American Statistical Association 88, 9-25. https://doi.org/10.1080/01621459.1993.10594284
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

import pyrolvm as lvm

CASES = [
    9, 39, 11, 9, 15, 8, 26, 7, 6, 20, 13, 5, 3, 8, 17, 9, 2, 7, 9, 7, 16, 31, 11, 7, 19, 15, 7, 10, 16, 11, 5, 3, 7, 8, 11, 9, 11, 8,
    6, 4, 10, 8, 2, 6, 19, 3, 2, 3, 28, 6, 1, 1, 1, 1, 0, 0,
]  # fmt: skip
"""Cases of lip cancer in each county."""

EXPECTED = [
    1.4, 8.7, 3.0, 2.5, 4.3, 2.4, 8.1, 2.3, 2.0, 6.6, 4.4, 1.8, 1.1, 3.3, 7.8, 4.6, 1.1, 4.2, 5.5, 4.4, 10.5, 22.7, 8.8, 5.6, 15.5,
    12.5, 6.0, 9.0, 14.4, 10.2, 4.8, 2.9, 7.0, 8.5, 12.3, 10.1, 12.7, 9.4, 7.2, 5.3, 18.8, 15.8, 4.3, 14.6, 50.7, 8.2, 5.6, 9.3, 88.7,
    19.6, 3.4, 3.6, 5.7, 7.0, 4.2, 1.8,
]  # fmt: skip
"""Cases that are expected from the age and sex of the population."""

OUTDOORS = [
    16, 16, 10, 24, 10, 24, 10, 7, 7, 16, 7, 16, 10, 24, 7, 16, 10, 7, 7, 10, 7, 16, 10, 7, 1, 1, 7, 7, 10, 10, 7, 24, 10, 7, 7, 0, 10,
    1, 16, 0, 1, 16, 16, 0, 1, 7, 1, 1, 0, 1, 1, 0, 1, 1, 16, 10,
]  # fmt: skip
"""Percentage of workers in agriculture, fishing and forestry."""


@lvm.model(dims={"y": ["county"]})
def lip_cancer(x: Tensor, expected: Tensor, y: Tensor) -> None:
    """Counts of cases whose relative risk differs from county to county.

    Args:
        x: Share of outdoor workers, in tenths, shape ``(counties,)``.
        expected: Expected cases, positive, shape ``(counties,)``.
        y: Cases, shape ``(counties,)``.
    """
    intercept = pyro.sample("intercept", dist.Normal(0.0, 1.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("county", len(y)):
        log_risk = pyro.sample("log_risk", dist.Normal(intercept + slope * x, tau))
        pyro.sample("y", dist.Poisson(expected * log_risk.exp()), obs=y)


def hierarchical_poisson() -> lvm.Problem:
    """Lip cancer in the counties of Scotland."""
    return lvm.Problem(lip_cancer, [share / 10 for share in OUTDOORS], EXPECTED, [float(count) for count in CASES])
