r"""The evidence of islands, and its error.

The mean of the islands' estimates has the expectation :math:`p(x)`. What is known of its relative variance:

- how the islands' estimates differ, which holds whatever goes on inside them, and of which a few islands tell little;
- the kinship of the particles: two of an island have a common ancestor with a probability that is the relative variance of its
  estimate, plus one over the number of its particles;
- the variance of the weights of each stage, which is all there is where particles forget where they were.

The error is by the largest of the three, the first with what few islands leave open.

References:
    Lee and Whiteley, *Variance estimation in the particle filter*, https://arxiv.org/abs/1509.00394
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pyrolvm._methods.smc.sampler import Swarm
from pyrolvm._methods.smc.weights import Array
from pyrolvm._results.weights import log_mean_exp

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """The log evidence by the islands together.

    Attributes:
        value: the logarithm of the mean of the islands' estimates.
        error: its standard error.
        between: the error by how the islands differ.
        kinship: that by common ancestors.
        weights: that by the variance of weights.
    """

    value: float
    error: float
    between: float
    kinship: float
    weights: float


def estimate(swarm: Swarm, more: float = 0.0) -> Estimate:
    """The evidence of particles that have arrived.

    Args:
        swarm: the particles.
        more: nats of what they could not see, and is known.
    """
    each = swarm.log_evidence
    count = swarm.islands
    value = float(log_mean_exp(each))
    share = np.exp(each - value)  # of mean one
    size = len(swarm.ancestor) // count
    kin = 1 / swarm.stages[-1].ancestors - 1 / size
    noise = sum((stage.noise for stage in swarm.stages), np.zeros(count)) / size
    kinship, weights = (_combined(share, variance) for variance in (kin, noise))
    between = float(share.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return Estimate(value + more, max(kinship, weights, 0.0 if count == 1 else between), between, kinship, weights)


def _combined(share: Array, variance: Array) -> float:
    """The relative error of a mean of estimates with relative variances of their own."""
    return float(math.sqrt(np.sum(share**2 * np.maximum(variance, 0.0)))) / len(share)
