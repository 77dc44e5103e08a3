r"""Eight schools: the effect of coaching on test scores in eight schools, partially pooled.

Each school ``j`` reports an estimated effect ``y_j`` with a known standard error ``sigma_j``. The true effects
share one normal population, whose mean and spread are unknown:

    mu      ~ Normal(0, 5)
    tau     ~ HalfCauchy(5)
    theta_j ~ Normal(mu, tau)              j = A..H      (centred), or
    theta_j = mu + tau * theta_trans_j,    theta_trans_j ~ Normal(0, 1)   (non-centred)
    y_j     ~ Normal(theta_j, sigma_j)

Graph: ``mu, tau -> theta_j -> y_j <- sigma_j`` with a plate over the schools. Both forms give the same
posterior of ``(mu, tau, theta)``; they differ in the geometry that an algorithm sees.

What variational inference loses: the centred form has a funnel (as ``tau -> 0`` all ``theta_j`` are squeezed
onto ``mu``), which no Gaussian guide follows: mean-field and full-rank guides cut off small ``tau`` and shrink
the spread of ``theta``. NUTS diverges there too. In the non-centred form a full-rank guide is close and a flow
is closer; the heavy right tail of ``tau`` is what remains hard.

Data: the table of Rubin (1981), with the priors of posteriordb's ``eight_schools-eight_schools_noncentered``
(BSD-3), so that its reference draws apply. These are facts from a publication, free to use.

References:
    Rubin, D. B. (1981). Estimation in parallel randomized experiments. Journal of Educational Statistics 6,
        377-401. https://doi.org/10.3102/10769986006004377
    Gelman, A. et al. (2013). Bayesian Data Analysis, third edition, section 5.5.
    Papaspiliopoulos, O., Roberts, G. O., Skold, M. (2007). A general framework for the parametrization of
        hierarchical models. Statistical Science 22, 59-73. https://doi.org/10.1214/088342307000000014
    Magnusson, M. et al. (2025). posteriordb: testing, benchmarking and developing Bayesian inference
        algorithms. https://github.com/stan-dev/posteriordb
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

import pyrolvm as lvm

EFFECTS = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
"""Estimated effects, points of the test score, schools A..H."""

STANDARD_ERRORS = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
"""Their known standard errors, same units and order."""

SCHOOLS = list("ABCDEFGH")


@lvm.model(dims={"theta": ["school"], "y": ["school"]}, coords={"school": SCHOOLS})
def centered(sigma: Tensor, y: Tensor) -> None:
    """Eight schools with the effects drawn around their mean: a funnel in ``(tau, theta)``.

    Args:
        sigma: Known standard errors, shape ``(n,)``, positive.
        y: Estimated effects, shape ``(n,)``, same units.
    """
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


@lvm.model(
    dims={"theta_trans": ["school"], "theta": ["school"], "y": ["school"]},
    coords={"school": SCHOOLS},
)
def noncentered(sigma: Tensor, y: Tensor) -> None:
    """Eight schools with standardized effects: the same posterior of ``theta`` without the funnel.

    Args:
        sigma: Known standard errors, shape ``(n,)``, positive.
        y: Estimated effects, shape ``(n,)``, same units.
    """
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta_trans = pyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * theta_trans)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools(*, centered: bool = False) -> lvm.Problem:
    """Eight schools in either form.

    Args:
        centered: Sample ``theta`` around ``mu`` (a funnel) instead of ``theta_trans`` around 0.

    Returns:
        The problem, with the eight schools as its data.
    """
    return eight_schools_centered() if centered else eight_schools_noncentered()


def eight_schools_centered() -> lvm.Problem:
    """Eight schools, centred: a funnel, hard for every Gaussian guide and for NUTS."""
    return lvm.Problem(centered, STANDARD_ERRORS, EFFECTS)


def eight_schools_noncentered() -> lvm.Problem:
    """Eight schools, non-centred: the same posterior of ``theta`` in an easy form."""
    return lvm.Problem(noncentered, STANDARD_ERRORS, EFFECTS)
