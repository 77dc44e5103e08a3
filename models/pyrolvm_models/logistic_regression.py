r"""Logistic regression: is a breast mass benign, from 30 measurements of its cell nuclei.

    intercept ~ Normal(0, 2.5)
    beta_k    ~ Normal(0, 1)                                        k = 1..d
    y_n       ~ Bernoulli(logit = intercept + sum_k beta_k x_nk)    n = 1..569

Graph: ``intercept, beta -> y_n <- x_n`` with a plate over the data. Every predictor is standardized, so one
prior scale fits all: a change of one sd in a predictor moves the log-odds by less than 2 with 95% prior
probability.

What variational inference loses: the posterior is log-concave and close to Gaussian, but radius, perimeter and
area measure nearly the same thing, so coefficients are strongly correlated. A mean-field guide finds the means
and understates every sd, by a factor of about 2; a full-rank or Laplace guide is good, and low rank lies
between.

Data: Breast Cancer Wisconsin (Diagnostic), UCI Machine Learning Repository, CC BY 4.0, as bundled with
scikit-learn (569 rows; ``y = 1`` is benign, 357 rows; ``y = 0`` malignant, 212 rows).

References:
    Wolberg, W., Mangasarian, O., Street, N., Street, W. (1993). Breast Cancer Wisconsin (Diagnostic).
        https://doi.org/10.24432/C5DW2B
    Gelman, A., Jakulin, A., Pittau, M. G., Su, Y.-S. (2008). A weakly informative default prior distribution
        for logistic and other regression models. Annals of Applied Statistics 2, 1360-1383.
        https://doi.org/10.1214/08-AOAS191
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data


def logistic_regression(*, predictors: int | None = None) -> lvm.Problem:
    """Logistic regression of the breast cancer data on standardized predictors.

    Args:
        predictors: Use only the first so many of the 30 columns (the first 10 are the means over a cell image);
            all by default.

    Returns:
        The problem; ``beta`` has the names of the predictors as coordinates.

    Raises:
        ArgumentError: ``predictors`` is not an integer from 1 to 30.
        ImportError: scikit-learn is not installed.
    """
    table = _data.load("breast_cancer")
    d = len(table.columns)
    if predictors is not None:
        d = _data.check_count("logistic_regression", "predictors", predictors, d)

    @lvm.model(
        dims={"beta": ["predictor"], "y": ["data"]},
        coords={"predictor": list(table.columns[:d])},
    )
    def regression(x: Tensor, y: Tensor) -> None:
        """Bernoulli outcomes ``y`` ``(n,)`` with log-odds linear in the standardized predictors ``x`` ``(n, d)``."""
        intercept = pyro.sample("intercept", dist.Normal(0.0, 2.5))
        beta = pyro.sample("beta", dist.Normal(0.0, 1.0).expand([d]).to_event(1))
        with pyro.plate("data", len(x)):
            logits = intercept + (x * beta).sum(-1)
            pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)

    return lvm.Problem(regression, _data.standardize(table.x[:, :d]), table.target.astype("float64"))
