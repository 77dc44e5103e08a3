r"""Horseshoe regression: how far diabetes has gone a year later, from ten measurements of which few matter.

    tau      ~ HalfCauchy(0.1)                              how large coefficients are on the whole
    lambda_k ~ HalfCauchy(1)                                k = 1..10 predictors: which of them are let out
    beta_k   ~ Normal(0, tau lambda_k)
    sigma    ~ HalfNormal(1)
    y_n      ~ Normal(sum_k beta_k x_nk, sigma)             n = 1..442

Graph: ``tau, lambda_k -> beta_k -> y_n <- x_n, sigma`` with plates over predictors and data. Predictors and outcome are standardized.
The prior of ``beta_k`` has a pole at 0 and tails as heavy as a Cauchy's: small coefficients are pulled to 0 and large ones left alone.
The form is centred, as one would write it.

What variational inference loses: a coefficient near 0 makes a funnel with its own scale and with ``tau``, ten funnels in all,
and predictors that measure the same (the blood serum ``s1`` to ``s5``) take turns: where ``s1`` is 0 another one is not, so that
marginals are a spike at 0 with a wide shoulder. A mean-field guide keeps clear of the spikes and makes all sds too small. Guides
with a frame non-centre each ``beta_k`` as far as the data ask for; a Gaussian still cuts off the Cauchy tails of ``lambda``. Look
at ``coefficient`` and ``shrinkage``, not at ``lambda``, of which the data say little.

Data: Efron et al. (2004), table 1: 442 diabetes patients, age, sex, body mass index, blood pressure and six blood serum measurements,
as bundled with scikit-learn.

References:
    Carvalho, C. M., Polson, N. G., Scott, J. G. (2010). The horseshoe estimator for sparse signals. Biometrika 97, 465-480.
        https://doi.org/10.1093/biomet/asq017
    Piironen, J., Vehtari, A. (2017). Sparsity information and regularization in the horseshoe and other shrinkage priors.
        Electronic Journal of Statistics 11, 5018-5051. https://doi.org/10.1214/17-EJS1337SI
    Efron, B., Hastie, T., Johnstone, I., Tibshirani, R. (2004). Least angle regression. Annals of Statistics 32, 407-499.
        https://doi.org/10.1214/009053604000000067
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data

Draw = Mapping[str, Tensor]


def shrinkage(draw: Draw, n: int) -> Tensor:
    """How far each coefficient is pulled to 0, from 0 (not at all) to 1, were the predictors uncorrelated.

    Args:
        draw: ``tau``, ``lambda`` and ``sigma``.
        n: Number of data.

    Returns:
        ``1 / (1 + n tau^2 lambda_k^2 / sigma^2)``, shape ``(k,)``.
    """
    return 1 / (1 + n * (draw["tau"] * draw["lambda"] / draw["sigma"]).square())


def horseshoe(*, scale: float = 0.1, slab: float | None = None) -> lvm.Problem:
    """Diabetes progression on ten standardized predictors.

    Args:
        scale: Scale of the prior of ``tau``, positive.
        slab: Sd of a Gaussian that coefficients cannot leave, positive: the regularized horseshoe; none by default.

    Returns:
        The problem; its ``quantities`` are ``coefficient`` (``beta``), ``noise_sd`` (``sigma``) and ``shrinkage``.

    Raises:
        ArgumentError: An option is not a positive number.
        ImportError: scikit-learn is not installed.
    """
    for option, value in (("scale", scale), ("slab", slab)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf
        ):
            raise lvm.ArgumentError(f"problem 'horseshoe': {option} is {value!r}. Fix: give a positive number.")
    table = _data.load("diabetes")
    n, d = table.x.shape

    @lvm.model(
        dims={"shrinkage": ["predictor"], "coefficient": ["predictor"], "beta": ["predictor"], "lambda": ["predictor"]},
        coords={"predictor": list(table.columns)},
        quantities={
            "coefficient": lambda draw: draw["beta"],
            "noise_sd": lambda draw: draw["sigma"],
            "shrinkage": lambda draw: shrinkage(draw, n),
        },
    )
    def regression(x: Tensor, y: Tensor) -> None:
        """Normal outcomes ``y`` ``(n,)`` linear in standardized predictors ``x`` ``(n, d)``, of which few matter."""
        tau = pyro.sample("tau", dist.HalfCauchy(scale))
        local = pyro.sample("lambda", dist.HalfCauchy(1.0).expand([d]).to_event(1))
        width = tau.unsqueeze(-1) * local
        if slab is not None:
            width = slab * width / (slab**2 + width.square()).sqrt()
        beta = pyro.sample("beta", dist.Normal(0.0, width).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal((x * beta).sum(-1), sigma), obs=y)

    return lvm.Problem(regression, _data.standardize(table.x), _data.standardize(table.target.astype("float64")))
