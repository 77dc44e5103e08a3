r"""Stochastic volatility: daily returns of a share through the autumn of 2008, whose variance wanders.

    mu     ~ Normal(1, 2)                               log variance of a day, in the long run
    rate   ~ Beta(20, 1.5),   phi = 2 rate - 1          how much of a deviation from it is left a day later
    sigma  ~ HalfNormal(0.5)                            sd of the news of a day
    move_t ~ Normal(0, 1)                               t = 1..T days (local)
    h_1    = sigma move_1 / sqrt(1 - phi^2),   h_t = phi h_{t-1} + sigma move_t
    y_t    ~ Normal(0, exp((mu + h_t) / 2))             return in per cent

Graph: ``sigma, phi, move_t -> h_t -> y_t <- mu``, ``h_{t-1} -> h_t``. The log variances ``h`` are an autoregression that starts in
equilibrium. They are computed from standard normal ``move`` by a scan of log T vectorized steps (the form is non-centred), so that
the model is T sites in one.

What variational inference loses: a day's return says little of its variance (it is a squared normal), so ``move`` is nearly its
prior and the non-centred form suits NUTS. ``phi``, ``sigma`` and ``mu`` are held by all days together: near ``phi = 1`` the long
run is long and ``mu`` free. Mean-field takes them for independent of ``move``: it misses them by sds, and makes theirs too small.
Volatilities of single days come out well.

Data: adjusted closing prices of Google (GOOG), 17 October 2007 to 14 October 2008, as in the sample data of matplotlib
(``goog.npz``): facts.

References:
    Taylor, S. J. (1994). Modeling stochastic volatility: a review and comparative study. Mathematical Finance 4, 183-204.
        https://doi.org/10.1111/j.1467-9965.1994.tb00057.x
    Kim, S., Shephard, N., Chib, S. (1998). Stochastic volatility: likelihood inference and comparison with ARCH models.
        Review of Economic Studies 65, 361-393. https://doi.org/10.1111/1467-937X.00050
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data

Draw = Mapping[str, Tensor]

PRICES = [
    633.48, 639.62, 644.71, 650.75, 675.77, 675.82, 668.51, 674.60, 679.23, 694.77, 707.00, 703.21, 711.25, 725.65, 741.79, 732.94,
    693.84, 663.97, 632.07, 660.55, 641.68, 629.65, 633.63, 625.85, 648.54, 660.52, 676.70, 666.00, 673.57, 692.26, 697.00, 693.00,
    681.53, 684.16, 698.51, 715.26, 714.87, 718.42, 699.20, 699.35, 694.05, 689.96, 669.23, 673.35, 677.37, 689.69, 696.69, 700.73,
    710.84, 700.74, 702.53, 691.48, 685.19, 685.33, 657.00, 649.25, 631.68, 653.20, 646.73, 638.25, 653.82, 637.65, 615.95, 600.79,
    600.25, 584.35, 548.62, 574.49, 566.40, 555.98, 550.52, 548.27, 564.30, 515.90, 495.43, 506.80, 501.71, 504.95, 516.69, 521.16,
    518.09, 534.62, 532.25, 529.64, 508.95, 509.00, 502.86, 507.80, 486.44, 464.19, 472.86, 475.39, 471.18, 457.02, 444.60, 447.70,
    432.70, 433.35, 413.62, 439.84, 440.18, 443.01, 437.92, 419.87, 439.16, 432.00, 433.55, 460.56, 450.78, 458.19, 444.08, 438.08,
    440.47, 465.71, 465.70, 455.12, 471.09, 476.82, 467.81, 464.19, 469.08, 457.45, 451.66, 446.84, 455.03, 449.54, 539.41, 537.79,
    555.00, 546.49, 543.04, 544.06, 552.12, 558.47, 574.29, 593.08, 581.29, 594.90, 586.36, 579.00, 583.01, 573.20, 584.94, 583.00,
    576.30, 581.00, 580.07, 577.52, 578.60, 549.99, 549.46, 544.62, 560.90, 568.24, 583.00, 585.80, 575.00, 567.30, 572.22, 586.30,
    567.00, 557.87, 554.17, 545.20, 552.95, 571.51, 572.81, 569.46, 562.38, 560.20, 546.43, 545.21, 542.30, 551.00, 528.82, 528.07,
    526.42, 534.73, 527.04, 537.00, 543.91, 554.53, 541.55, 540.57, 533.80, 521.62, 516.09, 535.60, 533.44, 481.32, 468.80, 477.11,
    489.22, 475.62, 491.98, 477.12, 483.11, 482.70, 473.75, 467.86, 463.00, 479.85, 486.34, 479.12, 495.01, 500.84, 502.61, 500.03,
    505.49, 510.15, 498.30, 490.50, 485.00, 486.53, 490.59, 483.01, 474.16, 468.58, 473.78, 463.29, 465.25, 464.41, 450.26, 444.25,
    419.95, 418.66, 414.16, 433.75, 437.66, 433.86, 442.93, 414.49, 439.08, 449.15, 430.14, 429.27, 435.11, 439.60, 431.04, 381.00,
    400.52, 411.72, 390.49, 386.91, 371.21, 346.01, 338.11, 328.98, 332.00, 381.02, 362.71
]  # fmt: skip
"""Adjusted closing prices, dollars, of consecutive trading days."""

DAYS = 8
"""How many days, evenly spaced and with the last one, the quantity ``volatility`` has."""


def autoregression(innovations: Tensor, persistence: Tensor) -> Tensor:
    """``h_t = persistence h_{t-1} + innovations_t``, from ``h_0 = 0``, in as many operations as T has doublings.

    Args:
        innovations: Shape ``(..., t)``.
        persistence: Shape ``(...)``.

    Returns:
        ``h``, shape ``(..., t)``.
    """
    reach, power, state = 1, persistence.unsqueeze(-1), innovations
    while reach < innovations.shape[-1]:
        state = state + power * torch.nn.functional.pad(state[..., :-reach], (reach, 0))
        reach, power = 2 * reach, power.square()
    return state


def log_variance(draw: Draw) -> Tensor:
    """Log variance of each day's return, shape ``(..., t)``.

    Args:
        draw: ``mu``, ``rate`` and ``sigma``, each ``(...)``, and ``move``, ``(..., t)``.
    """
    persistence = 2 * draw["rate"] - 1
    first = (1 - persistence.square()).rsqrt().unsqueeze(-1)
    scale = torch.cat([first, torch.ones_like(first).expand(*first.shape[:-1], draw["move"].shape[-1] - 1)], -1)
    return draw["mu"].unsqueeze(-1) + autoregression(draw["sigma"].unsqueeze(-1) * scale * draw["move"], persistence)


def returns() -> Tensor:
    """Changes of the log price in per cent, shape ``(250,)``, double precision."""
    return 100 * torch.tensor(PRICES, dtype=torch.float64).log().diff()


def stochastic_volatility(*, days: int = 250) -> lvm.Problem:
    """Returns of a share whose variance is an autoregression.

    Args:
        days: Use only the last so many of the 250 days, at least 8; all by default.

    Returns:
        The problem; its ``quantities`` are ``phi``, ``news`` (``sigma``), ``long_run``, the sd of a day's return in the long run,
        and the ``volatility``, the sd, of eight days.

    Raises:
        ArgumentError: ``days`` is not an integer from 8 to 250.
    """
    t = _data.check_count("stochastic_volatility", "days", days, len(PRICES) - 1)
    if t < DAYS:
        raise lvm.ArgumentError(f"problem 'stochastic_volatility': days is {days!r}. Fix: give at least {DAYS}.")
    some = torch.linspace(0, t - 1, DAYS).round().long()

    @lvm.model(
        dims={"move": ["day"], "y": ["day"], "volatility": ["when"]},
        coords={"day": list(range(t)), "when": some.tolist()},
        quantities={
            "phi": lambda draw: 2 * draw["rate"] - 1,
            "news": lambda draw: draw["sigma"],
            "long_run": lambda draw: (draw["mu"] / 2).exp(),
            "volatility": lambda draw: (log_variance(draw)[some.to(draw["move"].device)] / 2).exp(),
        },
    )
    def volatility(y: Tensor) -> None:
        """Returns ``y`` ``(t,)`` in per cent whose log variance is an autoregression."""
        draw = {
            "mu": pyro.sample("mu", dist.Normal(1.0, 2.0)),
            "rate": pyro.sample("rate", dist.Beta(20.0, 1.5)),
            "sigma": pyro.sample("sigma", dist.HalfNormal(0.5)),
            "move": pyro.sample("move", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1)),
        }
        pyro.sample("y", dist.Normal(0.0, (log_variance(draw) / 2).exp()).to_event(1), obs=y)

    return lvm.Problem(volatility, returns()[-t:])
