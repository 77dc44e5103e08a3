r"""Gaussian process regression: the acceleration of a head in a motorcycle accident, a smooth curve under noise.

    scale  ~ HalfNormal(2)                               sd of the curve, in sds of the data
    length ~ LogNormal(log 10, 1)                        how far the curve reaches, ms
    noise  ~ HalfNormal(1)
    f      ~ MultivariateNormal(0, K + jitter I),   K(s, t) = scale^2 (1 + r) exp(-r),   r = sqrt(3) |s - t| / length
    y_i    ~ Normal(f(t_i), noise)                       i = 1..133 measurements at 94 times

Graph: ``scale, length -> f -> y_i <- noise``. The kernel is Matern's of order 3/2. Given the three scales all is jointly normal, and by
default ``f`` is integrated out: the measurements are one multivariate normal, at a cost of n^3. :func:`curve` is the exact posterior of
``f`` given the scales. ``marginal=False`` has ``f`` at the 94 times as a site, which other likelihoods than the normal would need.

What variational inference loses: little with ``f`` integrated out: three unknowns, ``scale`` and ``length`` correlated, as a larger and
slower curve looks much the same; ``scale`` has a long tail. With ``f`` as a site mean-field is hopeless: neighbouring values of a curve
are all but equal, so it makes each far too narrow, and with that ``length`` too short. Guides with a frame take the correlation
out, since ``f`` is written by its Cholesky factor, at a cost of n^3 a draw. The noise of these data is not the same everywhere, as the
model says it is: the posterior is exact about a model that is not.

Data: 133 measurements of a crash helmet test, from Silverman (1985), table 1: facts from a publication.

References:
    Silverman, B. W. (1985). Some aspects of the spline smoothing approach to non-parametric regression curve fitting.
        Journal of the Royal Statistical Society B 47, 1-52. https://doi.org/10.1111/j.2517-6161.1985.tb01327.x
    Rasmussen, C. E., Williams, C. K. I. (2006). Gaussian Processes for Machine Learning, chapters 2 and 4.
        http://gaussianprocess.org/gpml
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data

Draw = Mapping[str, Tensor]

TIMES = [
    2.4, 2.6, 3.2, 3.6, 4, 6.2, 6.6, 6.8, 7.8, 8.2, 8.8, 8.8, 9.6, 10, 10.2, 10.6, 11, 11.4, 13.2, 13.6, 13.8, 14.6, 14.6, 14.6,
    14.6, 14.6, 14.6, 14.8, 15.4, 15.4, 15.4, 15.4, 15.6, 15.6, 15.8, 15.8, 16, 16, 16.2, 16.2, 16.2, 16.4, 16.4, 16.6, 16.8, 16.8,
    16.8, 17.6, 17.6, 17.6, 17.6, 17.8, 17.8, 18.6, 18.6, 19.2, 19.4, 19.4, 19.6, 20.2, 20.4, 21.2, 21.4, 21.8, 22, 23.2, 23.4, 24,
    24.2, 24.2, 24.6, 25, 25, 25.4, 25.4, 25.6, 26, 26.2, 26.2, 26.4, 27, 27.2, 27.2, 27.2, 27.6, 28.2, 28.4, 28.4, 28.6, 29.4,
    30.2, 31, 31.2, 32, 32, 32.8, 33.4, 33.8, 34.4, 34.8, 35.2, 35.2, 35.4, 35.6, 35.6, 36.2, 36.2, 38, 38, 39.2, 39.4, 40, 40.4,
    41.6, 41.6, 42.4, 42.8, 42.8, 43, 44, 44.4, 45, 46.6, 47.8, 47.8, 48.8, 50.6, 52, 53.2, 55, 55, 55.4, 57.6
]  # fmt: skip
"""Time after the impact, ms."""

ACCELERATION = [
    0, -1.3, -2.7, 0, -2.7, -2.7, -2.7, -1.3, -2.7, -2.7, -1.3, -2.7, -2.7, -2.7, -5.4, -2.7, -5.4, 0, -2.7, -2.7, 0, -13.3, -5.4,
    -5.4, -9.3, -16, -22.8, -2.7, -22.8, -32.1, -53.5, -54.9, -40.2, -21.5, -21.5, -50.8, -42.9, -26.8, -21.5, -50.8, -61.7, -5.4,
    -80.4, -59, -71, -91.1, -77.7, -37.5, -85.6, -123.1, -101.9, -99.1, -104.4, -112.5, -50.8, -123.1, -85.6, -72.3, -127.2, -123.1,
    -117.9, -134, -101.9, -108.4, -123.1, -123.1, -128.5, -112.5, -95.1, -81.8, -53.5, -64.4, -57.6, -72.3, -44.3, -26.8, -5.4,
    -107.1, -21.5, -65.6, -16, -45.6, -24.2, 9.5, 4, 12, -21.5, 37.5, 46.9, -17.4, 36.2, 75, 8.1, 54.9, 48.2, 46.9, 16, 45.6, 1.3,
    75, -16, -54.9, 69.6, 34.8, 32.1, -37.5, 22.8, 46.9, 10.7, 5.4, -1.3, -21.5, -13.3, 30.8, -10.7, 29.4, 0, -10.7, 14.7, -1.3, 0,
    10.7, 10.7, -26.8, -14.7, -13.3, 0, 10.7, -14.7, -2.7, 10.7, -2.7, 10.7
]  # fmt: skip
"""Acceleration of the head, in units of the earth's."""

JITTER = 1e-5
"""Share of the variance of the curve that is added to the diagonal of ``K``, so that it has a Cholesky factor in single precision."""

AT = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0)
"""Times of the quantity ``curve``, ms; with ``marginal=False`` the times measured that are nearest."""


def kernel(first: Tensor, second: Tensor, draw: Draw) -> Tensor:
    """Covariance of the curve between times, shape ``(..., a, b)``.

    Args:
        first: Times, ms, shape ``(a,)``.
        second: Times, ms, shape ``(b,)``.
        draw: ``scale`` and ``length``, each ``(...)``.
    """
    scale, length = (draw[name][..., None, None] for name in ("scale", "length"))
    r = math.sqrt(3) * (first.unsqueeze(-1) - second).abs().to(scale) / length
    return scale.square() * (1 + r) * torch.exp(-r)


def _diagonal(value: Tensor, n: int) -> Tensor:
    return value[..., None, None] * torch.eye(n).to(value)


def covariance(times: Tensor, draw: Draw) -> Tensor:
    """Covariance of measurements with the curve integrated out, shape ``(..., n, n)``.

    Args:
        times: Times, ms, shape ``(n,)``.
        draw: ``scale``, ``length`` and ``noise``, each ``(...)``.
    """
    extra = JITTER * draw["scale"].square() + draw["noise"].square()
    return kernel(times, times, draw) + _diagonal(extra, len(times))


def curve(times: Tensor, y: Tensor, at: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """The exact posterior of the curve given the scales.

    Args:
        times: Times of the measurements, ms, shape ``(n,)``.
        y: Measurements, standardized, shape ``(n,)``.
        at: Times, ms, shape ``(a,)``.
        draw: As for :func:`covariance`.

    Returns:
        Means and sds, shape ``(..., a)`` each.
    """
    lower = torch.linalg.cholesky(covariance(times, draw))
    across = torch.linalg.solve_triangular(lower, kernel(times, at, draw), upper=False)
    white = torch.linalg.solve_triangular(lower, y.to(lower).unsqueeze(-1), upper=False)
    variance = draw["scale"].square().unsqueeze(-1) - across.square().sum(-2)
    return (across.mT @ white).squeeze(-1), variance.clamp(min=0).sqrt()


def gaussian_process(*, every: int = 1, marginal: bool = True) -> lvm.Problem:
    """The motorcycle data as a smooth curve under noise; accelerations are standardized.

    Args:
        every: Use only every so manyth measurement, up to 10; all by default.
        marginal: Integrate the curve out in the model; otherwise it is a site, with the same posterior of the scales.

    Returns:
        The problem; its ``quantities`` are the three scales and ``curve``: with the curve integrated out its mean given the
        scales at eight times, otherwise the curve itself at the nearest times measured.

    Raises:
        ArgumentError: ``every`` is not an integer from 1 to 10.
    """
    step = _data.check_count("gaussian_process", "every", every, 10)
    times = torch.tensor(TIMES, dtype=torch.float64)
    values = torch.tensor(ACCELERATION, dtype=torch.float64)
    times, y = times[::step], ((values - values.mean()) / values.std(correction=0))[::step]
    at = torch.tensor(AT, dtype=torch.float64)
    known = times.unique()
    near = (known.unsqueeze(-1) - at).abs().argmin(0)
    quantities = {
        "curve_sd": lambda draw: draw["scale"],
        "reach": lambda draw: draw["length"],
        "noise_sd": lambda draw: draw["noise"],
        "curve": (lambda draw: curve(times, y, at, draw)[0]) if marginal else (lambda draw: draw["f"][near]),
    }
    dims = {"y": ["measurement"], "curve": ["at"]} | ({} if marginal else {"f": ["time"]})
    coords: dict[str, list[float]] = {"at": list(AT)} | ({} if marginal else {"time": known.tolist()})

    @lvm.model(dims=dims, coords=coords, quantities=quantities)
    def crash(times: Tensor, y: Tensor) -> None:
        """Standardized accelerations ``y`` ``(n,)`` about a smooth function of the ``times`` ``(n,)``."""
        draw = {
            "scale": pyro.sample("scale", dist.HalfNormal(2.0)),
            "length": pyro.sample("length", dist.LogNormal(math.log(10.0), 1.0)),
            "noise": pyro.sample("noise", dist.HalfNormal(1.0)),
        }
        if marginal:
            pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(y), covariance(times, draw)), obs=y)
            return
        own, which = times.unique(return_inverse=True)
        spread = kernel(own, own, draw) + _diagonal(JITTER * draw["scale"].square(), len(own))
        f = pyro.sample("f", dist.MultivariateNormal(torch.zeros_like(own), scale_tril=torch.linalg.cholesky(spread)))
        pyro.sample("y", dist.Normal(f[..., which], draw["noise"].unsqueeze(-1)).to_event(1), obs=y)

    return lvm.Problem(crash, times, y)
