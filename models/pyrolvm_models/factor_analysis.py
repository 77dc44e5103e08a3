r"""Factor analysis: 13 chemical measurements of wines from a few latent ones, each with noise of its own.

    W_jk    ~ Normal(0, 1)                   j = 1..d features,  k = 1..q factors
    sigma_j ~ LogNormal(-0.5, 0.5)
    z_n     ~ Normal(0, I_q)                 n = 1..N wines (local)
    x_n     ~ Normal(W z_n, diag(sigma^2))

Graph: ``z_n -> x_n <- W, sigma`` with a plate over the data. The features are standardized. It differs from
probabilistic PCA (module ``ppca``) in the noise: a feature that nothing explains has a large ``sigma_j`` and
leaves the factors alone, where PCA turns towards it. Rescaling a feature rescales its row of ``W`` and its
``sigma_j`` and changes nothing else. The log-normal prior has 95% of ``sigma_j`` between 0.23 and 1.6: without one
that vanishes at zero, a factor may follow one feature alone, and with ``sigma_j -> 0`` the joint density with ``z``
grows without bound (a Heywood case; Martin and McDonald 1975). The latent vectors can be integrated out,

    x_n ~ Normal(0, W W^T + diag(sigma^2)),

which ``marginal=True`` does. The maximum of this likelihood has no closed form; :func:`maximum_likelihood` finds
it by EM on the covariance ``S`` of the data (Rubin and Thayer 1982). With ``beta = W^T (W W^T + Psi)^-1``,

    W   <- S beta^T (I - beta W + beta S beta^T)^-1,      Psi <- diag(S - W beta S).

``learn=True`` makes ``W`` and ``sigma`` learnable parameters, so that a fit has to find that maximum.

What variational inference loses: as in PPCA, ``W`` and all ``z_n`` rotate together, so compare ``quantities``. A
mean-field guide loses the correlation of ``W`` with ``z`` and of the loadings with each other, and gets sds wrong
by half. With a prior such as HalfNormal for ``sigma_j`` NUTS gets stuck in the Heywood cases, and no guide reaches
them. Integrate the latent vectors out (``marginal=True``): 39 unknowns are left instead of 395.

Data: Wine recognition, 178 wines of three cultivars, 13 measurements, UCI Machine Learning Repository, CC BY
4.0, as bundled with scikit-learn.

References:
    Rubin, D. B., Thayer, D. T. (1982). EM algorithms for ML factor analysis. Psychometrika 47, 69-76.
        https://doi.org/10.1007/BF02293851
    Martin, J. K., McDonald, R. P. (1975). Bayesian estimation in unrestricted factor analysis: a treatment for
        Heywood cases. Psychometrika 40, 505-517. https://doi.org/10.1007/BF02291552
    Ghahramani, Z., Hinton, G. E. (1996). The EM algorithm for mixtures of factor analyzers. University of
        Toronto CRG-TR-96-1.
    Aeberhard, S., Forina, M. (1992). Wine. UCI Machine Learning Repository. https://doi.org/10.24432/C5PC7J
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data, _factors
from pyrolvm_models._factors import Factors
from pyrolvm_models.ppca import PAIRS, WINES, Draw, check_learnable, communality, correlation, reconstruction, start


def log_eigenvalue(draw: Draw) -> Tensor:
    """Logs of the ``q`` eigenvalues of ``W^T diag(sigma)^-2 W``, the signal-to-noise ratios, largest first, ``(q,)``."""
    weighted = draw["W"] / draw["sigma"].unsqueeze(-1)
    return torch.linalg.eigvalsh(weighted.mT @ weighted).flip(-1).log()


def maximum_likelihood(x: Any, q: int, *, tolerance: float = 1e-8, max_steps: int = 20_000) -> Factors:
    """Maximum likelihood by EM, started from the probabilistic principal components of the correlations.

    Args:
        x: Data, shape ``(n, d)``, finite; converted to double precision.
        q: Number of factors, from 1 to ``d - 1``.
        tolerance: EM stops where a step gains less than this, in nats a datum.
        max_steps: Largest number of steps.

    Returns:
        Mean, loadings and noise, with ``log_density`` and ``posterior``. A Heywood case shows as a noise near 0 and
        as ``converged=False``.

    Raises:
        ArgumentError: An option is out of range.
        DataError: The data are not a finite matrix, or their covariance is singular.
    """
    caller = "maximum_likelihood"
    values, mean, covariance, q = _factors.moments(caller, x, q)
    max_steps = _data.check_count(caller, "max_steps", max_steps, kind="function")
    if not (isinstance(tolerance, int | float) and 0 <= tolerance < math.inf):
        raise lvm.ArgumentError(f"{caller}: tolerance is {tolerance!r}. Fix: give a finite number of at least 0.")
    n, d = values.shape
    spread = covariance.diagonal().sqrt()
    moment = covariance / (spread.unsqueeze(-1) * spread)  # EM does not see units, so it runs on correlations
    eigenvalues, vectors = (part.flip(-1) for part in torch.linalg.eigh(moment))
    loadings = vectors[:, :q] * (eigenvalues[:q] - eigenvalues[q:].mean()).clamp(min=0).sqrt()
    noise = (1 - loadings.square().sum(-1)).clamp(min=0.05)
    constant = float(d * math.log(2 * math.pi) + 2 * spread.log().sum())
    eye = torch.eye(q, dtype=values.dtype)
    trace: list[float] = []
    while True:
        weighted = loadings / noise.unsqueeze(-1)
        lower = torch.linalg.cholesky(loadings.mT @ weighted + eye)
        beta = torch.cholesky_solve(weighted.mT, lower)
        projected = beta @ moment
        quadratic = (1 / noise).sum() - (weighted.mT * projected).sum()  # the trace of S (W W^T + Psi)^-1
        log_det = noise.log().sum() + 2 * lower.diagonal().log().sum()
        trace.append(-0.5 * n * (constant + float(log_det + quadratic)))
        converged = len(trace) > 1 and trace[-1] - trace[-2] < tolerance * n
        if converged or len(trace) > max_steps:
            break
        second = torch.linalg.cholesky(eye - beta @ loadings + projected @ beta.mT)
        loadings = torch.cholesky_solve(projected, second).mT
        noise = 1 - (loadings * projected.mT).sum(-1)
    loadings, noise = loadings * spread.unsqueeze(-1), noise * spread.square()
    return Factors(mean, _factors.turned(loadings, noise), noise, trace, converged)


def factor_analysis(*, q: int = 2, marginal: bool = False, learn: bool = False) -> lvm.Problem:
    """Wine under factor analysis, compared through functions that ignore rotation.

    Args:
        q: Number of factors, from 1 to 12.
        marginal: Integrate the latent vectors out; the same posterior of ``W`` and ``sigma``, much faster to sample.
        learn: Make ``W`` and ``sigma`` learnable parameters without a prior; the latent vectors remain.

    Returns:
        The problem; its ``quantities`` are ``log_eigenvalue``, ``communality``, ``correlation`` and, with explicit latent
        vectors, ``reconstruction``. With ``learn`` it has none.

    Raises:
        ArgumentError: ``q`` is not an integer from 1 to 12, or nothing would be latent.
        ImportError: scikit-learn is not installed.
    """
    table = _data.load("wine")
    d = len(table.columns)
    q = _data.check_count("factor_analysis", "q", q, d - 1)
    if learn:
        check_learnable("factor_analysis", marginal)
    quantities: dict[str, Callable[[Draw], Tensor]] = {}
    dims = {"x": ["data", "feature"]}
    coords: dict[str, list[str] | list[int]] = {"feature": list(table.columns), "latent": list(range(q))}
    if not learn:
        quantities |= {"log_eigenvalue": log_eigenvalue, "communality": communality, "correlation": correlation}
        dims |= {
            "W": ["feature", "latent"],
            "sigma": ["feature"],
            "log_eigenvalue": ["latent"],
            "communality": ["feature"],
            "correlation": ["pair"],
        }
        coords["pair"] = [f"{table.columns[i]}, {table.columns[j]}" for i, j in PAIRS]
    if not marginal:
        dims["z"] = ["data", "latent"]
    if not (marginal or learn):
        quantities["reconstruction"] = reconstruction
        dims["reconstruction"] = ["wine", "feature"]
        coords["wine"] = list(WINES)

    def parameters(x: Tensor) -> tuple[Tensor, Tensor]:
        if learn:
            sigma = pyro.param("sigma", lambda: x.new_ones(d), constraint=dist.constraints.positive)
            return pyro.param("W", lambda: start(d, q, x)), sigma
        loadings = pyro.sample("W", dist.Normal(0.0, 1.0).expand([d, q]).to_event(2))
        return loadings, pyro.sample("sigma", dist.LogNormal(-0.5, 0.5).expand([d]).to_event(1))

    @lvm.model(dims=dims, coords=coords, quantities=quantities)
    def factors(x: Tensor) -> None:
        """Linear Gaussian factors with a noise scale for each of the standardized features ``x`` ``(n, d)``."""
        loadings, sigma = parameters(x)
        with pyro.plate("data", len(x)):
            if marginal:
                pyro.sample("x", dist.LowRankMultivariateNormal(x.new_zeros(d), loadings, sigma.square()), obs=x)
            else:
                z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([q]).to_event(1))
                mean = (loadings @ z.unsqueeze(-1)).squeeze(-1)
                pyro.sample("x", dist.Normal(mean, sigma).to_event(1), obs=x)

    return lvm.Problem(factors, _data.standardize(table.x))
