r"""Linear dynamical system: the flow of the Nile over a hundred years, a slowly moving level under noise.

    drift   ~ HalfNormal(1)                          sd of the level's yearly step
    noise   ~ HalfNormal(2)                          sd of a year's flow about the level
    level_1 ~ Normal(10, 2)
    level_t ~ Normal(level_{t-1} + slope_{t-1}, drift)        t = 2..T years (local)
    y_t     ~ Normal(level_t, noise)

in 10^10 cubic metres a year. ``slope`` is 0, or with ``slope=True`` a second state, the trend of the level:

    bend    ~ HalfNormal(0.1),     slope_1 ~ Normal(0, 0.5),     slope_t ~ Normal(slope_{t-1}, bend)

Graph: ``level_1 -> level_2 -> ...``, ``level_t -> y_t <- noise``, ``drift`` into every step. Given the scales all
of it is jointly normal, so the states can be integrated out exactly: by default the flows are one multivariate
normal. ``marginal=False`` has the states of all years as one site, a multivariate normal whose Cholesky factor is
that of a random walk. :func:`log_likelihood` is the Kalman filter, at a cost linear in T, :func:`smoothed` the
exact posterior of the level given the scales. (``pyro.distributions.GaussianHMM`` is linear in T too, but works
with precisions, which single precision does not hold where ``drift`` is small.)

What variational inference loses: neighbouring levels are strongly correlated, so a mean-field guide makes each
far too narrow, and with them ``drift`` too small. The step from a small ``drift`` to its level is a funnel of T
dimensions, and ``drift = 0`` (a constant level) is not excluded by the data: the tail towards zero is what a
Gaussian cuts off. Guides with a frame take the random walk apart by themselves, since it is written as a
distribution of its scale, at a cost of T^3 a draw: minutes here. With the states integrated out two or three
unknowns are left, and only the tail towards ``drift = 0`` is lost by a Gaussian.

Data: annual flow of the Nile at Aswan, 1871-1970, from Cobb (1978), table 1; measurements, free to use. A dam
was begun in 1899.

References:
    Cobb, G. W. (1978). The problem of the Nile: conditional solution to a changepoint problem. Biometrika 65,
        243-251. https://doi.org/10.1093/biomet/65.2.243
    Kalman, R. E. (1960). A new approach to linear filtering and prediction problems. Journal of Basic
        Engineering 82, 35-45. https://doi.org/10.1115/1.3662552
    Durbin, J., Koopman, S. J. (2012). Time Series Analysis by State Space Methods, second edition, chapter 2.
        https://doi.org/10.1093/acprof:oso/9780199641178.001.0001
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

FIRST_YEAR = 1871

FLOW = [
    1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960, 1180, 799, 958, 1140, 1100, 1210, 1150,
    1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694, 940, 833, 701, 916, 692, 1020, 1050, 969, 831, 726, 456, 824, 702, 1120, 1100,
    832, 764, 821, 768, 845, 864, 862, 698, 845, 744, 796, 1040, 759, 781, 865, 845, 944, 984, 897, 822, 1010, 771, 676, 649, 846,
    812, 742, 801, 1040, 860, 874, 848, 890, 744, 749, 838, 1050, 918, 986, 797, 923, 975, 815, 1020, 906, 901, 1170, 912, 746, 919,
    718, 714, 740,
]  # fmt: skip
"""Annual flow, 10^8 cubic metres, from 1871."""

LEVEL, SPREAD = 10.0, 2.0
"""Prior mean and sd of the first level, 10^10 cubic metres a year."""

TREND = 0.5
"""Prior sd of the first slope."""


def _system(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and covariance of the first state, and matrix and noise covariance of a step; any batch of draws."""
    drift = draw["drift"]
    slope = "bend" in draw
    size = 2 if slope else 1
    steps = torch.stack([drift, draw["bend"]] if slope else [drift], -1)
    mean = drift.new_tensor([LEVEL, 0.0][:size]).expand(*drift.shape, size)
    covariance = drift.new_tensor([SPREAD**2, TREND**2][:size]).diag_embed().expand(*drift.shape, size, size)
    step = drift.new_tensor([[1.0, 1.0], [0.0, 1.0]])[:size, :size]
    return mean, covariance, step, steps.square().diag_embed()


def _filter(y: Tensor, draw: Draw) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]], Tensor]:
    """The Kalman filter: predicted and filtered moments of the state of each year, and the log likelihood."""
    mean, covariance, step, moved = _system(draw)
    noise = draw["noise"].square()
    predicted, filtered, total = [], [], torch.zeros_like(draw["drift"])
    for t in range(y.shape[-1]):
        predicted.append((mean, covariance))
        variance = covariance[..., 0, 0] + noise
        error = y[..., t] - mean[..., 0]
        total = total - 0.5 * (error.square() / variance + variance.log() + math.log(2 * math.pi))
        gain = covariance[..., 0] / variance.unsqueeze(-1)
        mean = mean + gain * error.unsqueeze(-1)
        covariance = covariance - gain.unsqueeze(-1) * covariance[..., :1, :]
        filtered.append((mean, covariance))
        mean, covariance = (step @ mean.unsqueeze(-1)).squeeze(-1), step @ covariance @ step.mT + moved
    return predicted, filtered, total


def log_likelihood(y: Tensor, draw: Draw) -> Tensor:
    """Log density of the flows with the states integrated out, by the Kalman filter.

    Args:
        y: Flows, shape ``(..., t)``, 10^10 cubic metres.
        draw: ``drift`` and ``noise``, and ``bend`` where the level has a slope; each ``(...)``.

    Returns:
        ``log p(y | draw)``, shape ``(...)``, in nats.
    """
    return _filter(y, draw)[2]


def smoothed(y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """The exact posterior of the level of each year given the scales, by the Rauch-Tung-Striebel smoother.

    Args:
        y: Flows, shape ``(t,)``, 10^10 cubic metres.
        draw: As for :func:`log_likelihood`.

    Returns:
        Means and sds, shape ``(t,)`` each.
    """
    predicted, filtered, _ = _filter(y, draw)
    step = _system(draw)[2]
    mean, covariance = filtered[-1]
    found = [(mean[0], covariance[0, 0])]
    for (here, spread), (ahead, wide) in zip(filtered[-2::-1], predicted[:0:-1], strict=True):
        gain = torch.linalg.solve(wide, step @ spread).mT
        mean, covariance = here + gain @ (mean - ahead), spread + gain @ (covariance - wide) @ gain.mT
        found.append((mean[0], covariance[0, 0]))
    means, variances = (torch.stack(part[::-1]) for part in zip(*found, strict=True))
    return means, variances.sqrt()


def _walk(first: float, step: Tensor, n: int) -> Tensor:
    """Cholesky factor of a random walk over ``n`` years: sd ``first`` of its start and ``step`` of each step, ``(..., n, n)``."""
    sds = torch.cat([torch.full_like(step, first).unsqueeze(-1), step.unsqueeze(-1).expand(*step.shape, n - 1)], -1)
    return torch.ones(n, n).to(step).tril() * sds.unsqueeze(-2)


def _covariance(draw: Draw, n: int) -> Tensor:
    """Covariance of the flows with the states integrated out, shape ``(..., n, n)``."""
    level = _walk(SPREAD, draw["drift"], n)
    covariance = level @ level.mT
    if "bend" in draw:
        slope = _walk(TREND, draw["bend"], n).cumsum(-2)  # the level at the end of a year is the sum of slopes so far
        slope = torch.nn.functional.pad(slope[..., :-1, :], (0, 0, 1, 0))
        covariance = covariance + slope @ slope.mT
    return covariance + draw["noise"].square()[..., None, None] * torch.eye(n).to(level)


def linear_dynamical_system(*, slope: bool = False, marginal: bool = True, years: int | None = None) -> lvm.Problem:
    """The flow of the Nile as a level that walks, under noise.

    Args:
        slope: Give the level a slope that walks as well.
        marginal: Integrate the states out in the model; otherwise they are sites, with the same posterior of the scales.
        years: Use only the first so many of the 100 years; all by default.

    Returns:
        The problem.

    Raises:
        ArgumentError: ``years`` is not an integer from 1 to 100.
    """
    t = len(FLOW) if years is None else _data.check_count("linear_dynamical_system", "years", years, len(FLOW))
    labels = list(range(FIRST_YEAR, FIRST_YEAR + t))
    dims = {} if marginal else {"level": ["year"]} | ({"slope": ["year"]} if slope else {})
    dims["y"] = ["year"]

    @lvm.model(dims=dims, coords={"year": labels})
    def nile(y: Tensor) -> None:
        """Flows ``y`` ``(t,)`` about a level that changes a little from year to year."""
        n = len(y)
        scales = {
            "drift": pyro.sample("drift", dist.HalfNormal(1.0)),
            "noise": pyro.sample("noise", dist.HalfNormal(2.0)),
        }
        if slope:
            scales["bend"] = pyro.sample("bend", dist.HalfNormal(0.1))
        if marginal:
            pyro.sample("y", dist.MultivariateNormal(y.new_full((n,), LEVEL), _covariance(scales, n)), obs=y)
            return
        mean = y.new_full((n,), LEVEL)
        if slope:
            trend = pyro.sample(
                "slope", dist.MultivariateNormal(y.new_zeros(n), scale_tril=_walk(TREND, scales["bend"], n))
            )
            mean = mean + torch.nn.functional.pad(trend[..., :-1].cumsum(-1), (1, 0))
        level = pyro.sample("level", dist.MultivariateNormal(mean, scale_tril=_walk(SPREAD, scales["drift"], n)))
        pyro.sample("y", dist.Normal(level, scales["noise"].unsqueeze(-1)).to_event(1), obs=y)

    return lvm.Problem(nile, torch.tensor(FLOW[:t]) / 100)
