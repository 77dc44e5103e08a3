"""Linear Gaussian factors: what probabilistic PCA and factor analysis share once their parameters are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _arrays, _data


@dataclass(frozen=True)
class Factors:
    """The model ``x ~ Normal(mean + loadings z, diag(noise))``, ``z ~ Normal(0, I)``, at known parameters.

    Attributes:
        mean: shape ``(d,)``.
        loadings: shape ``(d, q)``; columns are orthogonal in the metric of ``1 / noise``, longest first, and the largest
            entry of each is positive, which leaves no rotation free.
        noise: variances, shape ``(d,)``.
        log_likelihoods: of all data, after each step of the estimation; one where there was one step.
        converged: whether the estimation stopped by itself.
    """

    mean: Tensor
    loadings: Tensor
    noise: Tensor
    log_likelihoods: list[float]
    converged: bool = True

    @property
    def covariance(self) -> Tensor:
        """Covariance of a datum, ``loadings loadings^T + diag(noise)``, shape ``(d, d)``."""
        return self.loadings @ self.loadings.mT + self.noise.diag_embed()

    def log_density(self, x: Any) -> Tensor:
        """Log density of each datum, its latent vector integrated out.

        Args:
            x: data, shape ``(n, d)``, converted to double precision.

        Returns:
            ``log Normal(x_n; mean, covariance)``, shape ``(n,)``, in nats.

        Raises:
            DataError: if ``x`` is not a finite matrix of ``d`` columns.
        """
        lower, projected, away = self._project(x)
        fitted = torch.linalg.solve_triangular(lower, projected.mT, upper=False)
        quadratic = (away.square() / self.noise).sum(-1) - fitted.square().sum(0)
        log_det = self.noise.log().sum() + 2 * lower.diagonal().log().sum()
        return -0.5 * (quadratic + log_det + len(self.mean) * math.log(2 * math.pi))

    def posterior(self, x: Any) -> tuple[Tensor, Tensor]:
        """The exact posterior of the latent vectors, ``Normal(means_n, covariance)``.

        Args:
            x: data, shape ``(n, d)``, converted to double precision.

        Returns:
            means, shape ``(n, q)``, and the covariance that all data share, ``(q, q)``.

        Raises:
            DataError: if ``x`` is not a finite matrix of ``d`` columns.
        """
        lower, projected, _ = self._project(x)
        covariance = torch.cholesky_inverse(lower)
        return projected @ covariance, covariance

    def _project(self, x: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The factor of ``I + W^T Psi^-1 W``, the projections ``Psi^-1 W`` of the data, and the centred data."""
        values = _arrays.matrix("x", x, rows=1)
        if values.shape[1] != len(self.mean):
            raise lvm.DataError(
                f"x has {values.shape[1]} columns, expected {len(self.mean)}. Fix: pass the columns that were fitted."
            )
        away = values - self.mean
        weighted = self.loadings / self.noise.unsqueeze(-1)
        inner = self.loadings.mT @ weighted + torch.eye(self.loadings.shape[1], dtype=values.dtype)
        return torch.linalg.cholesky(inner), away @ weighted, away


def moments(caller: str, x: Any, q: Any) -> tuple[Tensor, Tensor, Tensor, int]:
    """Checked data, their mean and covariance, and the number of factors.

    Raises:
        ArgumentError: if ``q`` is not an integer from 1 to ``d - 1``.
        DataError: if the data are not a finite matrix, or do not determine a covariance.
    """
    values = _arrays.matrix(caller, x)
    d = values.shape[1]
    if d < 2:
        raise lvm.DataError(f"{caller}: x has one column, of which no factor can be found. Fix: give two or more.")
    count = _data.check_count(caller, "q", q, d - 1, kind="function")
    return (values, *_arrays.covariance(caller, values), count)


def turned(loadings: Tensor, noise: Tensor) -> Tensor:
    """The same loadings up to the rotation that :class:`Factors` names, shape ``(d, q)``."""
    weighted = loadings / noise.sqrt().unsqueeze(-1)
    _, _, rotation = torch.linalg.svd(weighted, full_matrices=False)
    rotated = loadings @ rotation.mT
    largest = rotated.gather(0, rotated.abs().argmax(0, keepdim=True))
    return rotated * largest.sign()


def log_likelihood(n: int, covariance: Tensor, loadings: Tensor, noise: Tensor) -> float:
    """Log likelihood of ``n`` data with this covariance about their fitted mean."""
    d = len(noise)
    lower = torch.linalg.cholesky(loadings @ loadings.mT + noise.diag_embed())
    trace = torch.linalg.solve_triangular(lower, torch.linalg.cholesky(covariance), upper=False).square().sum()
    return float(-0.5 * n * (d * math.log(2 * math.pi) + 2 * lower.diagonal().log().sum() + trace))
