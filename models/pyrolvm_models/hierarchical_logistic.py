r"""Hierarchical logistic regression: seeds that germinate on 21 plates, which differ more than chance allows.

    intercept ~ Normal(0, 2)
    beta_k    ~ Normal(0, 2)                                     k: seed, extract, their interaction
    tau       ~ HalfNormal(1)
    logit_i   ~ Normal(intercept + sum_k beta_k x_ik, tau)       i = 1..21 plates (local)
    r_i       ~ Binomial(n_i, logit_i)

Graph: ``intercept, beta, tau -> logit_i -> r_i <- n_i`` with a plate over the plates of seeds. ``tau`` is what the
plates differ by beyond seed and extract (overdispersion). The form is centred, as one would write it.

What variational inference loses: ``tau`` and the 21 ``logit_i`` make a funnel: the data hardly tell ``tau = 0.1``
from 0, and there all ``logit_i`` lie on their mean. A mean-field guide stays away from small ``tau`` and loses the
correlation of the coefficients: means are off by up to 0.7 sd, sds by more than half. Guides with a frame non-centre ``logit_i`` by
themselves, each as far as its data ask for; ``student`` is as good as NUTS.

Data: germination of Orobanche aegyptiaca 75 (seed 0) and 73 (seed 1) on extracts of bean (0) and cucumber (1)
roots, from Crowder (1978), table 3: facts from a publication.

References:
    Crowder, M. J. (1978). Beta-binomial anova for proportions. Applied Statistics 27, 34-37.
        https://doi.org/10.2307/2346223
    Breslow, N. E., Clayton, D. G. (1993). Approximate inference in generalized linear mixed models. Journal of
        the American Statistical Association 88, 9-25. https://doi.org/10.1080/01621459.1993.10594284
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

import pyrolvm as lvm

GERMINATED = [10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3]
"""Seeds that germinated, by plate."""

SEEDS = [39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7]
"""Seeds on each plate."""

SEED = [0.0] * 11 + [1.0] * 10
"""The kind of seed."""

EXTRACT = [0.0] * 5 + [1.0] * 6 + [0.0] * 5 + [1.0] * 5
"""The kind of extract."""


@lvm.model(
    dims={"beta": ["predictor"]},
    coords={"predictor": ["seed", "extract", "seed:extract"]},
)
def germination(x: Tensor, n: Tensor, r: Tensor) -> None:
    """Germinated seeds whose log-odds differ from plate to plate.

    Args:
        x: Predictors, shape ``(plates, 3)``.
        n: Seeds, shape ``(plates,)``.
        r: Of which germinated, shape ``(plates,)``.
    """
    intercept = pyro.sample("intercept", dist.Normal(0.0, 2.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("plate", len(r)):
        logit = pyro.sample("logit", dist.Normal(intercept + (x * beta).sum(-1), tau))
        pyro.sample("r", dist.Binomial(n, logits=logit), obs=r)


def hierarchical_logistic() -> lvm.Problem:
    """Germination of seeds on 21 plates."""
    x = [[seed, extract, seed * extract] for seed, extract in zip(SEED, EXTRACT, strict=True)]
    return lvm.Problem(germination, x, [float(n) for n in SEEDS], [float(r) for r in GERMINATED])
