"""Maximum likelihood of noiseless square independent component analysis, and how far an unmixing is from the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _arrays, _data
from pyrolvm_models._ascent import DENSITIES, Ascent, ascend

LARGE, FEW, COARSE = 20_000, 5_000, 1e-3
"""Where there are more data than the first, an ascent begins with so many of them, evenly spaced, and up to such a gradient."""

PRIORS = ("logistic", "laplace", "cauchy")
"""Densities that sources of a model may have."""


@dataclass(frozen=True)
class Unmixing:
    """The flow ``x = mixing z + mean`` with independent sources ``z``, at known parameters.

    Order, signs and scales of sources are a convention: each has the scale of its density, the largest entry of each
    column of ``mixing`` is positive, and columns that explain more of the data come first.

    Attributes:
        mean: shape ``(d,)``.
        matrix: ``mixing^-1``, shape ``(d, d)``.
        densities: name of the density of each source.
        log_likelihoods: of all data, after each step.
        converged: whether the estimation stopped by itself.
    """

    mean: Tensor
    matrix: Tensor
    densities: tuple[str, ...]
    log_likelihoods: list[float]
    converged: bool

    @property
    def mixing(self) -> Tensor:
        """What each source adds to each sensor, shape ``(d, d)``."""
        return torch.linalg.inv(self.matrix)

    def sources(self, x: Any) -> Tensor:
        """The sources of each datum, exactly: their posterior is a point.

        Args:
            x: Data, shape ``(n, d)``, converted to double precision.

        Returns:
            ``matrix (x_n - mean)``, shape ``(n, d)``.

        Raises:
            DataError: ``x`` is not a finite matrix of ``d`` columns.
        """
        values = _arrays.matrix("x", x, rows=1)
        if values.shape[1] != len(self.mean):
            raise lvm.DataError(
                f"x has {values.shape[1]} columns, expected {len(self.mean)}. Fix: pass the columns that were fitted."
            )
        return (values - self.mean) @ self.matrix.mT

    def log_density(self, x: Any) -> Tensor:
        """Log density of each datum by the change of variables.

        Args:
            x: Data, shape ``(n, d)``, converted to double precision.

        Returns:
            ``sum_i log p_i((matrix (x_n - mean))_i) + log |det matrix|``, shape ``(n,)``, in nats.

        Raises:
            DataError: ``x`` is not a finite matrix of ``d`` columns.
        """
        z = self.sources(x)
        terms = [DENSITIES[name].log_prob(column) for name, column in zip(self.densities, z.mT, strict=True)]
        return torch.stack(terms).sum(0) + torch.linalg.slogdet(self.matrix).logabsdet


def maximum_likelihood(
    x: Any, *, prior: str = "logistic", starts: int = 1, tolerance: float = 1e-6, max_steps: int = 500, seed: int = 0
) -> Unmixing:
    """Maximum likelihood of as many sources as columns, without noise.

    A relative quasi-Newton ascent: steps multiply the unmixing matrix, so that the way depends on the data through the
    sources alone, and start from the curvature that independent sources would have (Ablin et al. 2018). The likelihood may
    have several maxima.

    Args:
        x: Data, shape ``(n, d)``, finite; converted to double precision.
        prior: Density of every source: ``"logistic"``, ``"laplace"`` (whose corner is rounded off over 0.01 on the way) or
            ``"cauchy"``; these are for tails heavier than a Gaussian's. ``"adaptive"`` takes for each source ``"logistic"`` or
            ``"bimodal"``, whichever makes the solution a maximum.
        starts: Number of starts: the principal axes of the data, then random rotations of them. The best is returned.
        tolerance: The ascent stops where no entry of the relative gradient of the mean log likelihood is larger.
        max_steps: Largest number of steps of each start.
        seed: Seed of the rotations.

    Returns:
        The estimate of the highest likelihood.

    Raises:
        ArgumentError: An option is out of range.
        DataError: The data are not a finite matrix, or some columns determine others.

    References:
        Pham, D. T., Garat, P. (1997). Blind separation of mixture of independent sources through a quasi-maximum
            likelihood approach. IEEE Transactions on Signal Processing 45, 1712-1725. https://doi.org/10.1109/78.599941
        Ablin, P., Cardoso, J.-F., Gramfort, A. (2018). Faster independent component analysis by preconditioning with
            Hessian approximations. IEEE Transactions on Signal Processing 66, 4040-4049. https://arxiv.org/abs/1706.08171
        Lee, T.-W., Girolami, M., Sejnowski, T. J. (1999). Independent component analysis using an extended infomax
            algorithm for mixed subgaussian and supergaussian sources. Neural Computation 11, 417-441.
            https://doi.org/10.1162/089976699300016719
    """
    caller = "maximum_likelihood"
    values = _arrays.matrix(caller, x)
    if prior not in (*PRIORS, "adaptive"):
        raise lvm.ArgumentError(
            f"{caller}: prior is {prior!r}. Fix: use one of {', '.join(map(repr, (*PRIORS, 'adaptive')))}."
        )
    for option, count in (("starts", starts), ("max_steps", max_steps)):
        _data.check_count(caller, option, count, kind="function")
    if not (isinstance(tolerance, int | float) and 0 < tolerance < math.inf):
        raise lvm.ArgumentError(f"{caller}: tolerance is {tolerance!r}. Fix: give a positive number.")
    matrix, location = _first(caller, values, heavy=prior == "cauchy")
    generator = torch.Generator().manual_seed(seed)
    found: list[Unmixing] = []
    for start in range(starts):
        if start:
            matrix = torch.linalg.qr(torch.randn(*matrix.shape, generator=generator, dtype=values.dtype)).Q @ matrix
        first, centre = matrix, location
        if len(values) > LARGE:  # a few of them find most of the way
            few = ascend(first @ (values[:: len(values) // FEW] - centre).mT, prior, COARSE, max_steps)
            first = few.matrix @ first
            centre = centre + torch.linalg.solve(first, few.shift)
        found.append(_named(values, centre, ascend(first @ (values - centre).mT, prior, tolerance, max_steps), first))
    return max(found, key=lambda estimate: estimate.log_likelihoods[-1])


def _first(caller: str, x: Tensor, heavy: bool) -> tuple[Tensor, Tensor]:
    """Where an ascent starts: a matrix ``(d, d)`` that whitens the data, and their centre ``(d,)``.

    Raises:
        DataError: Some columns determine others.
    """
    centre, covariance = _arrays.covariance(caller, x)
    scale = torch.ones_like(centre)
    if heavy:  # the sample mean and covariance say nothing: medians, and the covariance of directions
        centre = x.median(0).values
        spread = (x - centre).abs().median(0).values
        scale = torch.where(spread > 0, spread, covariance.diagonal().sqrt())
        directions = torch.nn.functional.normalize((x - centre) / scale, dim=-1)
        covariance = directions.mT @ directions / len(x)
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return vectors.mT / eigenvalues.clamp(min=1e-12 * eigenvalues[-1]).sqrt().unsqueeze(-1) / scale, centre


def _named(x: Tensor, location: Tensor, found: Ascent, first: Tensor) -> Unmixing:
    """The estimate in the order and with the signs that :class:`Unmixing` names."""
    mixing = torch.linalg.inv(found.matrix @ first)
    mean = location + mixing @ found.shift
    order = mixing.norm(dim=0).argsort(descending=True)
    mixing = mixing[:, order]
    signs = mixing.gather(0, mixing.abs().argmax(0, keepdim=True)).sign()
    volume = float(torch.linalg.slogdet(first).logabsdet)
    return Unmixing(
        mean,
        signs.mT * (found.matrix @ first)[order],
        tuple(found.names[i] for i in order.tolist()),
        [len(x) * (value + volume) for value in found.trace],
        found.converged,
    )


def amari_distance(unmixing: Any, mixing: Any) -> float:
    """How far ``unmixing @ mixing`` is from a permutation with scales: 0 if the sources are separated, 1 at most.

    With ``r = |unmixing mixing|`` of ``d`` sources,
    ``[sum_i (sum_j r_ij / max_j r_ij - 1) + sum_j (sum_i r_ij / max_i r_ij - 1)] / (2 d (d - 1))``.

    Args:
        unmixing: From sensors to sources, shape ``(d, k)``.
        mixing: From sources to sensors, the true one, shape ``(k, d)``.

    Returns:
        The distance.

    Raises:
        DataError: A matrix is not finite, the shapes do not fit, there is one source, or a row or column of the product is 0.

    References:
        Amari, S., Cichocki, A., Yang, H. H. (1996). A new learning algorithm for blind signal separation. NeurIPS 8.
    """
    left, right = _arrays.matrix("amari_distance", unmixing), _arrays.matrix("amari_distance", mixing)
    if left.shape != right.mT.shape:
        raise lvm.DataError(
            f"amari_distance: unmixing has shape {tuple(left.shape)} and mixing {tuple(right.shape)}. "
            "Fix: pass matrices of shapes (sources, sensors) and (sensors, sources)."
        )
    r = (left @ right).abs()
    d = len(r)
    if not bool((r.amax(0) > 0).all() and (r.amax(1) > 0).all()):
        raise lvm.DataError("amari_distance: a row or column of the product is 0. Fix: pass matrices of full rank.")
    return float(((r / r.amax(1, keepdim=True)).sum() + (r / r.amax(0)).sum() - 2 * d) / (2 * d * (d - 1)))


def mcc(estimated: Any, true: Any) -> float:
    """Mean correlation coefficient: of each true source with the estimated one that it is matched with, in absolute value.

    Args:
        estimated: Sources, shape ``(n, k)``, in any order, with any signs and scales.
        true: Sources, shape ``(n, k)``.

    Returns:
        The mean over sources under the best matching; 1 if the sources are recovered.

    Raises:
        DataError: An argument is not a finite matrix, the shapes differ, or a source is constant.
    """
    from scipy.optimize import linear_sum_assignment

    values = [_arrays.matrix("mcc", part) for part in (estimated, true)]
    if values[0].shape != values[1].shape:
        shapes = " and ".join(str(tuple(part.shape)) for part in values)
        raise lvm.DataError(f"mcc: sources have shapes {shapes}. Fix: pass as many estimated sources as true ones.")
    for part in values:
        _arrays.covariance("mcc", part, full=False)
    correlation = correlations(*values).numpy()
    return float(correlation[linear_sum_assignment(correlation, maximize=True)].mean())


def correlations(estimated: Tensor, true: Tensor) -> Tensor:
    """Absolute correlations of each true source, by row, with each estimated one, shape ``(k, k)``."""
    scaled = [torch.nn.functional.normalize(part - part.mean(0), dim=0) for part in (true, estimated)]
    return (scaled[0].mT @ scaled[1]).abs()
