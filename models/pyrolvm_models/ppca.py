r"""Probabilistic principal components: 13 chemical measurements of wines from a few latent ones.

    W_jk   ~ Normal(0, 1)                    j = 1..d features,  k = 1..q latent dimensions
    sigma  ~ HalfNormal(1)
    z_n    ~ Normal(0, I_q)                  n = 1..N wines (local)
    x_n    ~ Normal(W z_n, sigma^2 I_d)

Graph: ``z_n -> x_n <- W, sigma`` with a plate over the data. The features are standardized, so their mean is
zero and no mean is estimated. The latent vectors can be integrated out exactly,

    x_n ~ Normal(0, W W^T + sigma^2 I_d),

which ``marginal=True`` does: ``d q + 1`` unknowns instead of ``d q + 1 + N q``.

What variational inference loses: the density does not change when ``W`` and all ``z_n`` are rotated or
reflected together, so the posterior of ``W`` is a ring (for q = 2) and every site has mean zero. A Gaussian
guide picks one point of the ring. So compare ``quantities``, which do not change under rotation. A mean-field
guide also loses the correlation of ``W`` with ``z``: against NUTS it halves the sd of ``log_eigenvalue``,
understates that of ``correlation`` by a quarter, and misses means by up to 1 sd; ``reconstruction`` it gets
about right. It prefers the axes in which the columns of ``W`` are orthogonal.

Data: Wine recognition, 178 wines of three cultivars, 13 measurements, UCI Machine Learning Repository, CC BY
4.0, as bundled with scikit-learn.

References:
    Tipping, M. E., Bishop, C. M. (1999). Probabilistic principal component analysis. Journal of the Royal
        Statistical Society B 61, 611-622. https://doi.org/10.1111/1467-9868.00196
    Aeberhard, S., Forina, M. (1992). Wine. UCI Machine Learning Repository. https://doi.org/10.24432/C5PC7J
    Nirwan, R., Bertschinger, N. (2019). Rotation invariant Householder parameterization for Bayesian PCA. ICML.
        https://arxiv.org/abs/1905.04720
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data

Draw = Mapping[str, Tensor]

PAIRS = ((5, 6), (9, 10), (6, 11), (0, 12))
"""Pairs of columns for ``correlation``: measurements that are strongly correlated."""

WINES = (0, 59, 130)
"""Rows for ``reconstruction``: the first wine of each cultivar."""


def log_eigenvalue(draw: Draw) -> Tensor:
    """Logs of the ``q`` nonzero eigenvalues of ``W W^T``, largest first, shape ``(q,)``."""
    gram = draw["W"].mT @ draw["W"]
    return torch.linalg.eigvalsh(gram).flip(-1).log()


def communality(draw: Draw) -> Tensor:
    """Share of each feature's variance that the latent dimensions explain, shape ``(d,)``."""
    explained = draw["W"].square().sum(-1)
    return explained / (explained + draw["sigma"].square())


def correlation(draw: Draw) -> Tensor:
    """Correlations of a few pairs of features under ``W W^T + sigma^2 I``, shape ``(pairs,)``."""
    loadings = draw["W"]
    scale = (loadings.square().sum(-1) + draw["sigma"].square()).rsqrt()
    scaled = loadings * scale.unsqueeze(-1)
    first, second = (torch.tensor(index, device=loadings.device) for index in zip(*PAIRS, strict=True))
    return (scaled[first] * scaled[second]).sum(-1)


def reconstruction(draw: Draw) -> Tensor:
    """The noiseless features ``W z_n`` of the first wine of each cultivar, shape ``(3, d)``."""
    z = draw["z"][torch.tensor(WINES, device=draw["z"].device)]
    return z @ draw["W"].mT


def ppca(*, q: int = 2, marginal: bool = False) -> lvm.Problem:
    """Wine as probabilistic principal components, compared through functions that ignore rotation.

    Args:
        q: Number of latent dimensions, from 1 to 12.
        marginal: Integrate the latent vectors out; the same posterior of ``W`` and ``sigma``, much faster to sample.

    Returns:
        The problem; its ``quantities`` are ``log_eigenvalue``, ``communality``, ``correlation``, ``noise_sd`` and, with
        explicit latent vectors, ``reconstruction``.

    Raises:
        ArgumentError: ``q`` is not an integer from 1 to 12.
        ImportError: scikit-learn is not installed.
    """
    table = _data.load("wine")
    d = len(table.columns)
    q = _data.check_count("ppca", "q", q, d - 1)
    quantities: dict[str, Callable[[Draw], Tensor]] = {
        "log_eigenvalue": log_eigenvalue,
        "communality": communality,
        "correlation": correlation,
        "noise_sd": lambda draw: draw["sigma"],
    }
    dims = {
        "W": ["feature", "latent"],
        "x": ["data", "feature"],
        "log_eigenvalue": ["latent"],
        "communality": ["feature"],
        "correlation": ["pair"],
    }
    coords: dict[str, list[str] | list[int]] = {
        "feature": list(table.columns),
        "latent": list(range(q)),
        "pair": [f"{table.columns[i]}, {table.columns[j]}" for i, j in PAIRS],
    }
    if not marginal:
        quantities["reconstruction"] = reconstruction
        dims |= {"z": ["data", "latent"], "reconstruction": ["wine", "feature"]}
        coords["wine"] = list(WINES)

    @lvm.model(dims=dims, coords=coords, quantities=quantities)
    def components(x: Tensor) -> None:
        """Linear Gaussian factors with one noise scale for standardized features ``x`` ``(n, d)``."""
        loadings = pyro.sample("W", dist.Normal(0.0, 1.0).expand([d, q]).to_event(2))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        with pyro.plate("data", len(x)):
            if marginal:
                noise = sigma.square().unsqueeze(-1).expand(*sigma.shape, d)
                pyro.sample("x", dist.LowRankMultivariateNormal(x.new_zeros(d), loadings, noise), obs=x)
            else:
                z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([q]).to_event(1))
                mean = (loadings @ z.unsqueeze(-1)).squeeze(-1)
                pyro.sample("x", dist.Normal(mean, sigma.unsqueeze(-1)).to_event(1), obs=x)

    return lvm.Problem(components, _data.standardize(table.x))
