"""The mixture of several models' predictions that would have predicted the rows best."""

from __future__ import annotations

import numpy as np

from pyrolvm._base.numerics import Array

__all__ = ["stacking_weights"]

STEPS, ENOUGH = 20_000, 1e-10


def stacking_weights(log_density: Array) -> Array:
    r"""Weights on the simplex that maximise :math:`\sum_i \log \sum_k w_k \exp \ell_{ik}`.

    The objective is concave, and each step of expectation-maximisation, :math:`w_k \leftarrow \frac1n \sum_i r_{ik}` with the
    responsibilities :math:`r`, raises it without a constraint to keep.

    Args:
        log_density: the log predictive density of each row given the others by each model, shape ``(rows, models)``.

    References:
        Yao et al. (2018), "Using stacking to average Bayesian predictive distributions", https://arxiv.org/abs/1704.02030
    """
    models = log_density.shape[1]
    share = np.exp(log_density - log_density.max(axis=1, keepdims=True))  # a factor of a row changes no weight
    weights = np.full(models, 1.0 / models)
    for _ in range(STEPS):
        joint = share * weights
        new = (joint / joint.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(new - weights).max() < ENOUGH:
            return new
        weights = new
    return weights
