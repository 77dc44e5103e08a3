"""Hidden Markov models with two states, which are summed out.

Both states have weight one before the first observation, and no transition precedes it.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models.posteriordb._data import Data, Maker, fields, tensor


def forward(transition: Tensor, emission: Tensor) -> Tensor:
    r"""The log likelihood, hidden states summed out.

    The likelihood is a sum over a product of matrices, :math:`e_1^\top \prod_{t \ge 2} T\,\mathrm{diag}(e_t)`. The product is taken of
    neighbours, then of neighbouring products, so that it takes as many steps as the length has binary digits.

    Args:
        transition: log probabilities of going from a state (row) to a state (column), shape ``(2, 2)``.
        emission: log densities of the observations by state, shape ``(n, 2)``.

    Returns:
        The log likelihood, shape ``()``.
    """
    steps = transition + emission[1:, None, :]
    while len(steps) > 1:
        even = len(steps) // 2 * 2
        first, second = steps[0:even:2], steps[1:even:2]
        products = torch.logaddexp(
            first[:, :, :1] + second[:, :1, :],
            first[:, :, 1:] + second[:, 1:, :],
        )
        steps = products if even == len(steps) else torch.cat([products, steps[even:]])
    return torch.logsumexp((emission[0, :, None] + steps[0]).reshape(-1), 0)


def _ordered(name: str, location: Tensor) -> Tensor:
    """A positive, increasing vector with independent normal densities of scale one, restricted to where it may lie."""
    value = pyro.sample(name, dist.ImproperUniform(dist.constraints.positive_ordered_vector, (), tuple(location.shape)))
    pyro.factor(f"{name}_prior", dist.Normal(location, 1.0).log_prob(value).sum())
    return value


def gaussian(y: Tensor) -> None:
    """The posterior ``hmm_example-hmm_example``: normal observations with standard deviation one."""
    flat = torch.ones_like(y[:2])
    theta1 = pyro.sample("theta1", dist.Dirichlet(flat))
    theta2 = pyro.sample("theta2", dist.Dirichlet(flat))
    mu = _ordered("mu", tensor([3.0, 10.0]))
    emission = dist.Normal(mu, 1.0).log_prob(y[:, None])
    pyro.factor("y", forward(torch.stack([theta1, theta2]).log(), emission))


def drives(u: Tensor, v: Tensor, concentration: Tensor) -> None:
    """The posterior ``bball_drive_event_0-hmm_drive_0``: two exponential observations at each time.

    Args:
        u: inverse speeds, shape ``(n,)``.
        v: distances, shape ``(n,)``.
        concentration: of the transition probabilities, a row for each state that is left, shape ``(2, 2)``.
    """
    theta1 = pyro.sample("theta1", dist.Dirichlet(concentration[0]))
    theta2 = pyro.sample("theta2", dist.Dirichlet(concentration[1]))
    location = tensor([0.0, 3.0])
    phi = _ordered("phi", location)
    rate = _ordered("lambda", location)
    emission = (phi.log() + rate.log()) - (u[:, None] * phi + v[:, None] * rate)
    pyro.factor("y", forward(torch.stack([theta1, theta2]).log(), emission))


def _drives(data: Data) -> lvm.Problem:
    return lvm.Problem(drives, *fields(data, "u", "v", "alpha"))


PROBLEMS: dict[str, Maker] = {
    "hmm_example-hmm_example": lambda data: lvm.Problem(gaussian, *fields(data, "y")),
    "bball_drive_event_0-hmm_drive_0": _drives,
}
