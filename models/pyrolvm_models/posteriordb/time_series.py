"""Time series: autoregression, ARMA and GARCH.

ARMA errors and GARCH variances follow a linear recursion with a constant coefficient. It is solved for all times at once, in
as many steps as the length has binary digits.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models.posteriordb._data import Data, Draw, Maker, ToSites, fields, tensor


def linear_recursion(coefficient: Tensor, inputs: Tensor) -> Tensor:
    r"""The solution of :math:`x_1 = a_1`, :math:`x_t = c\,x_{t-1} + a_t`.

    With :math:`S` the shift by one, :math:`x = (I - cS)^{-1} a = \prod_j (I + c^{2^j} S^{2^j})\, a`, a product that ends
    where :math:`2^j` reaches the length, because :math:`S` is nilpotent.

    Args:
        coefficient: c, shape ``()``.
        inputs: a, shape ``(t,)``.

    Returns:
        x, shape ``(t,)``.
    """
    x, power, lag = inputs, coefficient, 1
    while lag < len(inputs):
        x = torch.cat([x[:lag], x[lag:] + power * x[:-lag]])
        power, lag = power * power, 2 * lag
    return x


def autoregression(lags: Tensor, y: Tensor) -> None:
    """The posterior ``arK-arK``: an autoregression of order five, given its first five values.

    Args:
        lags: column k holds the series k + 1 steps before, shape ``(n, 5)``.
        y: shape ``(n,)``.
    """
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand([lags.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y)


def arma(y: Tensor) -> None:
    """The posterior ``arma-arma11``: the errors of an ARMA(1, 1) series are independent normal.

    The first prediction takes ``mu`` for the value before the series, and no error.
    """
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    phi = pyro.sample("phi", dist.Normal(0.0, 2.0))
    theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    before = torch.cat([mu.reshape(1), y[:-1]])
    errors = linear_recursion(-theta, y - mu - phi * before)
    pyro.factor("y", dist.Normal(0.0, sigma).log_prob(errors).sum())


def garch(y: Tensor, sigma1: Tensor) -> None:
    """The posterior ``garch-garch11``: variances follow the squared deviation and the variance before.

    ``(alpha1, beta1)`` is uniform on the triangle where they are positive and their sum is below one: two entries of a flat
    Dirichlet vector of three.
    """
    mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    alpha0 = pyro.sample("alpha0", dist.ImproperUniform(dist.constraints.positive, (), ()))
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones_like(y[:3])))
    alpha1 = pyro.deterministic("alpha1", shares[0])
    beta1 = pyro.deterministic("beta1", shares[1])
    inputs = torch.cat([(sigma1 * sigma1).reshape(1), alpha0 + alpha1 * (y[:-1] - mu) ** 2])
    scale = linear_recursion(beta1, inputs).sqrt()
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(mu, scale), obs=y)


def _autoregression(data: Data) -> lvm.Problem:
    y, order = tensor(data["y"]), int(data["K"])
    lags = torch.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], dim=1)
    return lvm.Problem(autoregression, lags, y[order:].clone())


def _shares(_: Data, draw: Draw) -> Draw:
    shares = torch.stack([draw["alpha1"], draw["beta1"], 1 - draw["alpha1"] - draw["beta1"]])
    return {"mu": draw["mu"], "alpha0": draw["alpha0"], "shares": shares}


PROBLEMS: dict[str, Maker] = {
    "arK-arK": _autoregression,
    "arma-arma11": lambda data: lvm.Problem(arma, *fields(data, "y")),
    "garch-garch11": lambda data: lvm.Problem(garch, *fields(data, "y", "sigma1")),
}
TO_SITES: dict[str, ToSites] = {"garch-garch11": _shares}
