"""Differential equations, solved by methods of order four with fixed steps.

Methods and steps were chosen for few operations, and for the error that they leave in the log density on reference draws,
against steps ten and more times as small: at most 6e-5 for predator and prey, 3e-5 for the compartment.

References:
    Blanes and Moan, Practical symplectic partitioned Runge-Kutta and Runge-Kutta-Nystrom methods, 2002, whose method of six
    stages and order four is the one for predator and prey, https://doi.org/10.1016/S0377-0427(01)00492-7
"""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models.posteriordb._data import Data, Maker, fields, tensor

STEPS = 4
"""Steps in each unit of time of predator and prey."""

_P = (0.0792036964311957, 0.353172906049774, -0.0420650803577195)
_Q = (0.209515106613362, -0.143851773179818)
SHARES_P = (*_P, 1 - 2 * sum(_P), *reversed(_P))
"""Shares of a step for which the first variable moves."""
SHARES_Q = (*_Q, 0.5 - sum(_Q), 0.5 - sum(_Q), *reversed(_Q))
"""Shares of a step for which the second variable moves, between those."""

FIRST, LATER = 16, 3
"""Steps in the first interval of the compartment, and in each later one."""


def step(slope: Callable[[int, Tensor], Tensor], state: Tensor, size: float) -> Tensor:
    """One Runge-Kutta step of order four.

    Args:
        slope: the derivative at the start (0), the middle (1) or the end (2) of the step, given the state there.
        state: at the start.
        size: of the step.
    """
    k1 = slope(0, state)
    k2 = slope(1, torch.add(state, k1, alpha=size / 2))
    k3 = slope(1, torch.add(state, k2, alpha=size / 2))
    k4 = slope(2, torch.add(state, k3, alpha=size))
    return torch.add(torch.add(state, k1 + k4, alpha=size / 6), k2 + k3, alpha=size / 3)


def populations(theta: Tensor, start: Tensor, times: int) -> Tensor:
    r"""Logarithms of prey and predator at times 1, 2, ..., shape ``(times, 2)``, from their values at time 0.

    In :math:`p = \log u` and :math:`q = \log v` the equations are :math:`p' = \theta_1 - \theta_2 e^q` and
    :math:`q' = -\theta_3 + \theta_4 e^p`. A splitting method moves one of them at a time, each exactly, for the stages' shares of a
    step. Within a step the linear drifts :math:`\theta_1 t` and :math:`-\theta_3 t` are left out of p and q, and stand in the
    coefficients instead.
    """
    growth, loss, death, gain = (theta / STEPS).unbind()
    shares_p, shares_q = tensor(SHARES_P), tensor(SHARES_Q)
    before = torch.cat([torch.zeros_like(shares_q[:1]), shares_q.cumsum(0)])
    eaten = (-loss * shares_p * torch.exp(-death * before)).unbind()
    born = (gain * shares_q * torch.exp(growth * shares_p.cumsum(0)[:-1])).unbind()
    p, q = start.log().unbind()
    found = []
    for _ in range(times):
        for _ in range(STEPS):
            for i in range(len(SHARES_Q)):
                p = torch.addcmul(p, eaten[i], q.exp())
                q = torch.addcmul(q, born[i], p.exp())
            p = torch.addcmul(p, eaten[-1], q.exp()) + growth
            q = q - death
        found += [p, q]
    return torch.stack(found).reshape(times, 2)


def lotka_volterra(y_init: Tensor, y: Tensor) -> None:
    """The posterior ``hudson_lynx_hare-lotka_volterra``: hares and lynxes, observed with errors on the log scale.

    Args:
        y_init: observations at time 0, prey first, shape ``(2,)``.
        y: observations at times 1, 2, ..., shape ``(n, 2)``.
    """
    positive = dist.ImproperUniform(dist.constraints.positive, (4,), ()).to_event(1)
    theta = pyro.sample("theta", positive)
    # Normal densities restricted to positive values, whose normalisers are constants.
    prior = dist.Normal(tensor([1.0, 0.05, 1.0, 0.05]), tensor([0.5, 0.05, 0.5, 0.05]))
    pyro.factor("theta_prior", prior.log_prob(theta).sum())
    start = pyro.sample("z_init", dist.LogNormal(tensor([10.0, 10.0]).log(), 1.0).to_event(1))
    sigma = pyro.sample("sigma", dist.LogNormal(tensor([-1.0, -1.0]), 1.0).to_event(1))
    solution = populations(theta, start, len(y))
    pyro.sample("y_init", dist.LogNormal(start.log(), sigma).to_event(1), obs=y_init)
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.LogNormal(solution, sigma).to_event(1), obs=y)


def grid(times: Tensor) -> Tensor:
    """Where the steps of the compartment begin and end, from time 0.

    Elimination sets in where the concentration passes ``K_m``, at a time as small as 1e-5; so the first interval has steps that
    grow with the third power of their number; all later ones have equal steps.
    """
    first = times[0] * (torch.arange(FIRST + 1, dtype=times.dtype) / FIRST) ** 4
    inside = torch.arange(1, LATER + 1, dtype=times.dtype) / LATER
    return torch.cat([first, (times[:-1, None] + times.diff()[:, None] * inside).reshape(-1)])


def concentrations(k_a: Tensor, k_m: Tensor, v_m: Tensor, dose: Tensor, volume: Tensor, times: Tensor) -> Tensor:
    """Concentrations at ``times``, shape ``(n,)``, from none at time 0.

    First-order absorption, Michaelis-Menten elimination: ``dC/dt = (dose k_a / volume) exp(-k_a t) - (v_m / volume) C / (k_m + C)``.
    """
    ends = grid(times)
    middles = (ends[:-1] + ends[1:]) / 2
    rate = dose * k_a / volume
    at_ends, at_middles = ((rate * torch.exp(-k_a * t)).unbind() for t in (ends, middles))
    elimination = -v_m / volume
    state, found = torch.zeros_like(k_a), []
    for i, size in enumerate(ends.diff().tolist()):
        absorbed = (at_ends[i], at_middles[i], at_ends[i + 1])

        def slope(where: int, c: Tensor, absorbed: tuple[Tensor, ...] = absorbed) -> Tensor:
            return torch.addcmul(absorbed[where], elimination, c / (k_m + c))

        state = step(slope, state, size)
        if i + 1 >= FIRST and (i + 1 - FIRST) % LATER == 0:
            found.append(state)
    return torch.stack(found)


def compartment(dose: Tensor, volume: Tensor, times: Tensor, c_hat: Tensor) -> None:
    """The posterior ``one_comp_mm_elim_abs-one_comp_mm_elim_abs``: a drug that is absorbed and eliminated.

    Args:
        dose: what is given at time 0.
        volume: of the compartment.
        times: equally spaced, shape ``(n,)``.
        c_hat: measured concentrations, shape ``(n,)``.
    """
    k_a = pyro.sample("k_a", dist.HalfCauchy(1.0))
    k_m = pyro.sample("K_m", dist.HalfCauchy(1.0))
    v_m = pyro.sample("V_m", dist.HalfCauchy(1.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
    solution = concentrations(k_a, k_m, v_m, dose, volume, times)
    with pyro.plate("time", len(times)):
        pyro.sample("C_hat", dist.LogNormal(solution.log(), sigma), obs=c_hat)


def _compartment(data: Data) -> lvm.Problem:
    return lvm.Problem(compartment, *fields(data, "D", "V", "times", "C_hat"))


PROBLEMS: dict[str, Maker] = {
    "hudson_lynx_hare-lotka_volterra": lambda data: lvm.Problem(lotka_volterra, *fields(data, "y_init", "y")),
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": _compartment,
}
