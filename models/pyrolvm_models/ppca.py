r"""Probabilistic principal components: 13 chemical measurements of wines from a few latent ones.

    W_jk   ~ Normal(0, 1)                    j = 1..d features,  k = 1..q latent dimensions
    sigma  ~ HalfNormal(1)
    z_n    ~ Normal(0, I_q)                  n = 1..N wines (local)
    x_n    ~ Normal(W z_n, sigma^2 I_d)

Graph: ``z_n -> x_n <- W, sigma`` with a plate over the data. The features are standardized, so their mean is
zero and no mean is estimated. The latent vectors can be integrated out exactly,

    x_n ~ Normal(0, W W^T + sigma^2 I_d),

which ``marginal=True`` does: ``d q + 1`` unknowns instead of ``d q + 1 + N q``. Without priors of ``W`` and
``sigma`` the maximum of this likelihood has a closed form, :func:`maximum_likelihood`: with eigenvalues
``lambda_1 >= ... >= lambda_d`` and eigenvectors ``u_i`` of the covariance of the data,

    sigma^2 = mean of lambda_{q+1}, ..., lambda_d,    w_i = sqrt(lambda_i - sigma^2) u_i,
    log p = -(N/2) [d log 2 pi + sum_{i <= q} log lambda_i + (d - q) log sigma^2 + d].

``learn=True`` makes ``W`` and ``sigma`` learnable parameters, so that a fit has to find that maximum.

What variational inference loses: the density does not change when ``W`` and all ``z_n`` are rotated or
reflected together, so the posterior of ``W`` is a ring (for q = 2) and every site has mean zero. A Gaussian
guide picks one point of the ring. So compare ``quantities``, which do not change under rotation. A mean-field
guide also loses the correlation of ``W`` with ``z``: against NUTS it halves the sd of ``log_eigenvalue``,
understates that of ``correlation`` by a quarter, and misses means by up to 1 sd; ``reconstruction`` it gets
about right. It prefers the axes in which the columns of ``W`` are orthogonal: there the posterior of ``z_n`` has
independent coordinates, so that with ``learn=True`` a mean-field guide loses nothing, and its ELBO ends at the
closed form above.

Data: Wine recognition, 178 wines of three cultivars, 13 measurements, UCI Machine Learning Repository, CC BY
4.0, as bundled with scikit-learn.

References:
    Tipping, M. E., Bishop, C. M. (1999). Probabilistic principal component analysis. Journal of the Royal
        Statistical Society B 61, 611-622. https://doi.org/10.1111/1467-9868.00196
    Lucas, J., Tucker, G., Grosse, R., Norouzi, M. (2019). Don't blame the ELBO! A linear VAE perspective on
        posterior collapse. NeurIPS. https://arxiv.org/abs/1911.02469
    Aeberhard, S., Forina, M. (1992). Wine. UCI Machine Learning Repository. https://doi.org/10.24432/C5PC7J
    Nirwan, R., Bertschinger, N. (2019). Rotation invariant Householder parameterization for Bayesian PCA. ICML.
        https://arxiv.org/abs/1905.04720
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data, _factors
from pyrolvm_models._factors import Factors

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


def maximum_likelihood(x: Any, q: int) -> Factors:
    """Maximum likelihood in closed form.

    Args:
        x: Data, shape ``(n, d)``, finite; converted to double precision.
        q: Number of latent dimensions, from 1 to ``d - 1``.

    Returns:
        Mean, loadings and noise (the same variance for every column), with ``log_density`` and ``posterior``.

    Raises:
        ArgumentError: ``q`` is not an integer from 1 to ``d - 1``.
        DataError: The data are not a finite matrix, or their covariance is singular.
    """
    values, mean, covariance, q = _factors.moments("maximum_likelihood", x, q)
    eigenvalues, vectors = (part.flip(-1) for part in torch.linalg.eigh(covariance))
    variance = eigenvalues[q:].mean()
    loadings = vectors[:, :q] * (eigenvalues[:q] - variance).clamp(min=0).sqrt()
    noise = variance.expand(len(mean)).clone()
    reached = _factors.log_likelihood(len(values), covariance, loadings, noise)
    return Factors(mean, _factors.turned(loadings, noise), noise, [reached])


def start(d: int, q: int, like: Tensor) -> Tensor:
    """Loadings from which learning starts: small, the same in every run, no two columns alike, shape ``(d, q)``."""
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(d, q, generator=generator, dtype=torch.float64).to(like)


def ppca(*, q: int = 2, marginal: bool = False, learn: bool = False) -> lvm.Problem:
    """Wine as probabilistic principal components, compared through functions that ignore rotation.

    Args:
        q: Number of latent dimensions, from 1 to 12.
        marginal: Integrate the latent vectors out; the same posterior of ``W`` and ``sigma``, much faster to sample.
        learn: Make ``W`` and ``sigma`` learnable parameters without a prior; the latent vectors remain.

    Returns:
        The problem; its ``quantities`` are ``log_eigenvalue``, ``communality``, ``correlation``, ``noise_sd`` and, with
        explicit latent vectors, ``reconstruction``. With ``learn`` it has none.

    Raises:
        ArgumentError: ``q`` is not an integer from 1 to 12, or nothing would be latent.
        ImportError: scikit-learn is not installed.
    """
    table = _data.load("wine")
    d = len(table.columns)
    q = _data.check_count("ppca", "q", q, d - 1)
    if learn:
        check_learnable("ppca", marginal)
        return _learnable(table, q)
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


def check_learnable(problem: str, marginal: bool) -> None:
    """Raises where nothing would be latent.

    Raises:
        ArgumentError: The latent vectors are integrated out.
    """
    if marginal:
        raise lvm.ArgumentError(
            f"problem {problem!r} with marginal=True and learn=True has no latent variable. "
            "Fix: leave one out, or use maximum_likelihood."
        )


def _learnable(table: _data.Table, q: int) -> lvm.Problem:
    """Latent vectors alone, under learnable loadings and noise."""
    d = len(table.columns)

    @lvm.model(
        dims={"z": ["data", "latent"], "x": ["data", "feature"]},
        coords={"feature": list(table.columns), "latent": list(range(q))},
    )
    def components(x: Tensor) -> None:
        """Linear Gaussian factors, learnable loadings and one learnable noise scale, for features ``x`` ``(n, d)``."""
        loadings = pyro.param("W", lambda: start(d, q, x))
        sigma = pyro.param("sigma", lambda: x.new_ones(()), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([q]).to_event(1))
            mean = (loadings @ z.unsqueeze(-1)).squeeze(-1)
            pyro.sample("x", dist.Normal(mean, sigma).to_event(1), obs=x)

    return lvm.Problem(components, _data.standardize(table.x))
