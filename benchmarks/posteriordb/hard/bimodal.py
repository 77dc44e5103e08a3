"""Two Gaussians of weights 0.7 and 0.3 whose means are 8 standard deviations apart. 4 unknowns, exact.

    x ~ 0.7 Normal(-m, I) + 0.3 Normal(m, S),        m = (2, 2, 2, 2)

The density is a factor on an improper site, since torch has no transform from the real line to a mixture's support. S has
standard deviations of 0.8 and correlations of 0.5. Chains do not pass from one mode to the other, and a guide with one mode
takes one of them, or both with nothing between: a mean of -2 or 2 in place of -0.8.
"""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

import pyrolvm as lvm

from .base import Array, Entry, Moments, labels

SIZE = 4
WEIGHTS = np.array([0.7, 0.3])
MEANS = np.array([[-2.0] * SIZE, [2.0] * SIZE])


def covariances() -> Array:
    """The covariances of the two components, shape ``(2, 4, 4)``."""
    return np.stack([np.eye(SIZE), 0.8**2 * (0.5 * np.eye(SIZE) + 0.5)])


def bimodal(weights: Tensor, means: Tensor, scale_tril: Tensor) -> None:
    """The mixture, its component summed out.

    Args:
        weights: shape ``(2,)``.
        means: shape ``(2, n)``.
        scale_tril: Cholesky factors of the covariances, shape ``(2, n, n)``.
    """
    x = pyro.sample("x", dist.ImproperUniform(constraints.real_vector, (), means.shape[1:]))
    components = dist.MultivariateNormal(means, scale_tril=scale_tril)
    pyro.factor("mixture", dist.MixtureSameFamily(dist.Categorical(weights), components).log_prob(x))


def problem() -> lvm.Problem:
    """The mixture in four dimensions."""
    return lvm.Problem(
        bimodal, torch.tensor(WEIGHTS), torch.tensor(MEANS), torch.tensor(np.linalg.cholesky(covariances()))
    )


def exact() -> dict[str, Moments]:
    """Closed forms: the variance is the mean of E x^2 over the components, less the squared mean."""
    variances = np.diagonal(covariances(), axis1=1, axis2=2)
    mean = WEIGHTS @ MEANS
    sd = np.sqrt(WEIGHTS @ (variances + MEANS**2) - mean**2)
    return {label: Moments(float(m), float(s)) for label, m, s in zip(labels("x", (SIZE,)), mean, sd, strict=True)}


ENTRY = Entry(problem=problem, scored=("x",), exact=exact)
