r"""Independent component analysis: sensors that hear mixtures of sources which know nothing of each other.

    z_nk  ~ Logistic(0, 1), or Laplace, Cauchy   n = 1..N data (local), k = 1..K sources

    ``ica``: as many sources as sensors, no noise
    V_jk  ~ Normal(0, 3)                         j = 1..d sensors
    x_n   = A z_n,   A = I + V                   V = 0 is a regular point, A = 0 would be none

    ``noisy_ica``: any number of sources
    A_jk  ~ Normal(0, 1)
    sigma ~ HalfNormal(1)
    x_n   ~ Normal(A z_n, sigma^2 I)
    x_n   ~ Normal(0, A diag(u_n) A^T + sigma^2 I)    the same, with z_nk = sqrt(u_nk) e_nk and e_nk ~ Normal(0, 1) integrated out

Graph: ``z_n -> x_n <- A`` (and ``sigma``) with a plate over the data. It is probabilistic PCA with sources that are not Gaussian, and
that is what identifies ``A``: up to the order and the signs of its columns, where PPCA leaves rotations free.

Without noise the model is a flow. The sources follow from the data, ``z_n = A^-1 x_n = W x_n``, their posterior is a point, and

    log p(x_n | A) = sum_i log p_i((W x_n)_i) + log |det W|.

:func:`maximum_likelihood` ascends it, with offsets; ``ica`` is the Bayesian model, of which only ``A`` is unknown. Three
things end this. With noise, ``z_n`` is uncertain and its posterior given ``A`` has no closed form. With more sources than
sensors many ``z_n`` explain the same ``x_n``, and the prior chooses among them (sparse coding). With fewer, the data lie on a
plane unless there is noise. ``noisy_ica`` does not mind which. It has sites ``u_n``, the variances of which Laplace and Cauchy
sources are mixtures (``u ~ Exponential(1/2)``, ``u ~ InverseGamma(1/2, 1/2)``), and integrates the rest of ``z_n`` out.
``marginal=False`` has ``z_n`` as sites.

What variational inference loses: ``K! 2^K`` copies of each mode; a guide keeps one, which is no loss. Compare ``quantities``,
which put the sources into the true order with the true signs. Without noise a copy is close to Gaussian: ``full_rank`` is good,
mean-field loses the correlations of ``A``. With noise and ``marginal=False`` the posterior is a narrow funnel: ``z_n`` is known
given ``A`` to about ``sigma``, and where there are no more sensors than sources ``sigma = 0`` explains all data. NUTS gets stuck
there, and mean-field, which cannot move ``z_n`` with ``A``, makes the sds of ``mixing`` far too small. With the sources
integrated out this goes, down to a milder funnel at ``sigma = 0`` where there are no more sensors than sources.

Data: simulated with known sources, since what is measured is whether they are found. ``A`` has columns of length 1, of a
hundred random ones those whose directions are farthest apart, and ``z`` is drawn from its prior.

References:
    Comon, P. (1994). Independent component analysis, a new concept? Signal Processing 36, 287-314.
        https://doi.org/10.1016/0165-1684(94)90029-9
    Pearlmutter, B. A., Parra, L. C. (1996). Maximum likelihood blind source separation: a context-sensitive
        generalization of ICA. NeurIPS 9.
    Lewicki, M. S., Sejnowski, T. J. (2000). Learning overcomplete representations. Neural Computation 12, 337-365.
        https://doi.org/10.1162/089976600300015826
    Moulines, E., Cardoso, J.-F., Gassiat, E. (1997). Maximum likelihood for blind separation and deconvolution of noisy
        signals using mixture models. ICASSP. https://doi.org/10.1109/ICASSP.1997.604649
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data
from pyrolvm_models._unmixing import PRIORS, Unmixing, amari_distance, correlations, maximum_likelihood, mcc

__all__ = [
    "Mixed",
    "Unmixing",
    "aligned",
    "amari_distance",
    "expected_sources",
    "ica",
    "maximum_likelihood",
    "mcc",
    "noisy_ica",
    "simulate",
]

Draw = Mapping[str, Tensor]

SOURCES: dict[str, Callable[[], Any]] = {
    "logistic": lambda: dist.Logistic(0.0, 1.0),
    "laplace": lambda: dist.Laplace(0.0, 1.0),
    "cauchy": lambda: dist.Cauchy(0.0, 1.0),
}

VARIANCES: dict[str, Callable[[], Any]] = {
    "laplace": lambda: dist.Exponential(0.5),
    "cauchy": lambda: dist.InverseGamma(0.5, 0.5),
}
"""Densities of the variance of a Gaussian that make a source of each kind."""

ROWS = (0, 1, 2)
"""Data whose sources are a quantity."""

MOST = 5
"""Largest number of sources of a problem: their orders are tried one by one."""


class Mixed(dist.TorchDistribution):
    """Independent sources seen through a square matrix: ``A z``.

    ``A A^T`` is factored instead of ``A``: a Cholesky factor is what every engine has.

    Args:
        mixing: ``A``, of full rank, shape ``(..., d, d)``.
        source: Density of each source, one of ``SOURCES``.
    """

    arg_constraints = {"mixing": constraints.independent(constraints.real, 2)}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, mixing: Tensor, source: str, *, validate_args: bool | None = None) -> None:
        self.mixing, self.source = mixing, source
        super().__init__(mixing.shape[:-2], mixing.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Mixed:
        """The same distribution for each element of a batch; the matrix is inverted once."""
        new = Mixed(self.mixing, self.source, validate_args=False)
        super(Mixed, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of data ``(..., d)``, shape ``(...)``."""
        unmixing, volume = _inverse(self.mixing)
        z = (unmixing * value.unsqueeze(-2)).sum(-1)
        return SOURCES[self.source]().log_prob(z).sum(-1) + volume

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Data of shape ``sample_shape + batch_shape + (d,)``."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        z = SOURCES[self.source]().expand(shape).sample().to(self.mixing)
        return (self.mixing @ z.unsqueeze(-1)).squeeze(-1)


def _inverse(mixing: Tensor) -> tuple[Tensor, Tensor]:
    """``A^-1`` and the log of its absolute determinant, for any batch of square matrices."""
    lower = torch.linalg.cholesky(mixing @ mixing.mT)
    eye = torch.eye(mixing.shape[-1]).to(mixing).expand_as(mixing)
    whitening = torch.linalg.solve_triangular(lower, eye, upper=False)
    return (whitening @ mixing).mT @ whitening, -lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def simulate(
    rows: int, sensors: int, sources: int, *, noise: float = 0.0, prior: str = "logistic", seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Data from the model, with what they were made of.

    Args:
        rows: Number of data.
        sensors: Number of sensors ``d``.
        sources: Number of sources ``K``.
        noise: Sd of the noise, at least 0.
        prior: Density of each source: ``"logistic"``, ``"laplace"`` or ``"cauchy"``, of scale 1.
        seed: Seed of a generator of its own.

    Returns:
        Data ``(rows, d)``, mixing ``(d, K)`` with columns of length 1 and far apart, and sources ``(rows, K)``; in double precision.

    Raises:
        ArgumentError: An option is out of range.
    """
    for option, count in (("rows", rows), ("sensors", sensors), ("sources", sources)):
        _data.check_count("simulate", option, count, kind="function")
    _check_prior("simulate", prior)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tries = torch.nn.functional.normalize(normal(100, sensors, sources), dim=-2)
    closeness = (tries.mT @ tries).abs().triu(diagonal=1).amax((-2, -1))
    mixing = tries[closeness.argmin()]
    uniform = torch.rand(rows, sources, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    z = SOURCES[prior]().icdf(uniform)
    return z @ mixing.mT + noise * normal(rows, sensors), mixing, z


def _orders(k: int) -> Tensor:
    return torch.tensor(list(itertools.permutations(range(k))))


def _alignment(mixing: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Which column of ``mixing`` is which of ``truth``, ``(k,)``, and with which sign, ``(k,)``."""
    towards = torch.nn.functional.normalize(truth, dim=0).mT @ torch.nn.functional.normalize(mixing, dim=0)
    order = _best(towards.abs())
    return order, towards.gather(1, order.unsqueeze(1)).squeeze(1).sign()


def _best(scores: Tensor) -> Tensor:
    """The permutation of columns with the largest sum of ``scores`` on the diagonal, ``(k,)``."""
    orders = _orders(len(scores)).to(scores.device)
    sums = scores[torch.arange(len(scores), device=scores.device), orders].sum(-1)
    return orders.index_select(0, sums.argmax().unsqueeze(0)).squeeze(0)


def aligned(mixing: Tensor, z: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """A draw with its sources in the order, and with the signs, in which its mixing is nearest to another.

    Args:
        mixing: Mixing of the draw, shape ``(d, k)``.
        z: Its sources, shape ``(n, k)``.
        truth: The mixing to be near to, shape ``(d, k)``; ``k`` is at most 5.

    Returns:
        Mixing and sources, as given but for order and signs.
    """
    order, signs = _alignment(mixing, truth)
    return mixing.index_select(1, order) * signs, z.index_select(1, order) * signs


def _check_prior(owner: str, prior: object) -> None:
    if prior not in PRIORS:
        raise lvm.ArgumentError(f"{owner}: prior is {prior!r}. Fix: use one of {', '.join(map(repr, PRIORS))}.")


def _compared(
    truth: Tensor, z: Tensor, read: Callable[[Draw], tuple[Tensor, Tensor]]
) -> tuple[dict[str, Callable[[Draw], Tensor]], dict[str, list[str]], dict[str, list[int]]]:
    """Quantities, dims and coords that both problems have, from a function that reads mixing and sources off a draw."""
    k = truth.shape[1]

    def found(draw: Draw) -> tuple[Tensor, Tensor]:
        mixing, estimated = read(draw)
        return aligned(mixing, estimated, truth.to(mixing))

    def coefficient(draw: Draw) -> Tensor:
        estimated = found(draw)[1]
        table = correlations(estimated, z.to(estimated))
        return table.index_select(1, _best(table)).diagonal().mean()

    quantities: dict[str, Callable[[Draw], Tensor]] = {
        "mixing": lambda draw: found(draw)[0],
        "source": lambda draw: found(draw)[1][list(ROWS)],
        "mcc": coefficient,
    }
    dims = {
        "x": ["data", "sensor"],
        "mixing": ["sensor", "source"],
        "source": ["row", "source"],
    }
    coords = {
        "sensor": list(range(len(truth))),
        "component": list(range(k)),
        "source": list(range(k)),
        "row": list(ROWS),
    }
    return quantities, dims, coords


def ica(*, sensors: int = 3, sources: int = 3, rows: int = 200, prior: str = "laplace", seed: int = 0) -> lvm.Problem:
    """As many sources as sensors, without noise: a flow, of which only the mixing is unknown.

    Args:
        sensors: Number of sensors, at most 5.
        sources: Number of sources, the same.
        rows: Number of data, at least 3.
        prior: Density of each source: ``"logistic"``, ``"laplace"`` or ``"cauchy"``.
        seed: Seed of the simulated data.

    Returns:
        The problem; its ``quantities`` are the aligned ``mixing``, the ``source`` of the first three data, and ``mcc``, the mean
        correlation of all sources with the true ones.

    Raises:
        ArgumentError: An option is out of range, or there are not as many sources as sensors.
    """
    d = _data.check_count("ica", "sensors", sensors, MOST)
    if sources != d:
        raise lvm.ArgumentError(
            f"problem 'ica' has no noise, so that its sources follow from the data where there are as many as sensors: {sources!r} "
            f"sources for {d} sensors. Fix: give sources={d}, or use noisy_ica, which takes any number."
        )
    _check_rows("ica", rows)
    _check_prior("ica", prior)
    x, mixing, z = simulate(rows, d, d, prior=prior, seed=seed)
    quantities, dims, coords = _compared(mixing, z, partial(_unmixed, x))
    dims["V"] = ["sensor", "component"]

    @lvm.model(dims=dims, coords=coords, quantities=quantities)
    def flow(x: Tensor) -> None:
        """Independent sources through a square matrix, for data ``x`` ``(n, d)``."""
        away = pyro.sample("V", dist.Normal(0.0, 3.0).expand([d, d]).to_event(2))
        mixing = torch.eye(d).to(away) + away
        with pyro.plate("data", len(x)):
            pyro.sample("x", Mixed(mixing, prior), obs=x)

    return lvm.Problem(flow, x)


def _unmixed(x: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Mixing, and the sources that the data then have, shape ``(n, k)``."""
    mixing = draw["V"] + torch.eye(len(draw["V"])).to(draw["V"])
    return mixing, x.to(mixing) @ _inverse(mixing)[0].mT


def noisy_ica(
    *,
    sensors: int = 3,
    sources: int = 2,
    noise: float = 0.2,
    rows: int = 100,
    prior: str = "laplace",
    marginal: bool = True,
    seed: int = 0,
) -> lvm.Problem:
    """Any number of sources, under noise: their posterior has no closed form.

    Args:
        sensors: Number of sensors.
        sources: Number of sources, at most 5: as many, more (overcomplete) or fewer (undercomplete).
        noise: Sd of the noise in the data, positive; the model has to find it.
        rows: Number of data, at least 3.
        prior: Density of each source: ``"laplace"``, ``"cauchy"``, or with ``marginal=False`` ``"logistic"``.
        marginal: Integrate the sources out given their variances; otherwise they are sites, with the same posterior of the rest.
        seed: Seed of the simulated data.

    Returns:
        The problem; its ``quantities`` are those of :func:`ica`, and ``noise_sd``. With ``marginal`` a draw's sources are their
        mean given the rest of the draw.

    Raises:
        ArgumentError: An option is out of range.
    """
    d = _data.check_count("noisy_ica", "sensors", sensors)
    k = _data.check_count("noisy_ica", "sources", sources, MOST)
    if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 < noise < math.inf:
        raise lvm.ArgumentError(f"problem 'noisy_ica': noise is {noise!r}. Fix: give a positive sd, or use ica.")
    _check_rows("noisy_ica", rows)
    _check_prior("noisy_ica", prior)
    if marginal and prior not in VARIANCES:
        raise lvm.ArgumentError(
            f"problem 'noisy_ica': prior {prior!r} is no simple mixture of Gaussians. Fix: use marginal=False, or one of "
            f"{', '.join(map(repr, VARIANCES))}."
        )
    x, truth, z = simulate(rows, d, k, noise=noise, prior=prior, seed=seed)
    quantities, dims, coords = _compared(
        truth, z, partial(expected_sources, x) if marginal else lambda draw: (draw["A"], draw["z"])
    )
    quantities["noise_sd"] = lambda draw: draw["sigma"]
    dims |= {"A": ["sensor", "component"], "u" if marginal else "z": ["data", "component"]}

    @lvm.model(dims=dims, coords=coords, quantities=quantities)
    def mixture(x: Tensor) -> None:
        """Independent sources through a matrix and noise, for data ``x`` ``(n, d)``."""
        mixing = pyro.sample("A", dist.Normal(0.0, 1.0).expand([d, k]).to_event(2))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        with pyro.plate("data", len(x)):
            if marginal:
                u = pyro.sample("u", VARIANCES[prior]().expand([k]).to_event(1))
                pyro.sample("x", dist.MultivariateNormal(x.new_zeros(d), _covariance(mixing, sigma, u)), obs=x)
            else:
                z = pyro.sample("z", SOURCES[prior]().expand([k]).to_event(1))
                mean = (mixing @ z.unsqueeze(-1)).squeeze(-1)
                pyro.sample("x", dist.Normal(mean, sigma.unsqueeze(-1)).to_event(1), obs=x)

    return lvm.Problem(mixture, x)


def _covariance(mixing: Tensor, sigma: Tensor, u: Tensor) -> Tensor:
    """Covariance of data given the variances of their sources, shape ``(..., d, d)``."""
    noise = sigma.square()[..., None, None] * torch.eye(mixing.shape[-2]).to(mixing)
    return (mixing * u.unsqueeze(-2)) @ mixing.mT + noise


def expected_sources(x: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Mixing, and the mean of the sources given it and their variances.

    Args:
        x: Data, shape ``(n, d)``.
        draw: ``A`` ``(d, k)``, ``sigma`` and ``u`` ``(n, k)``, of :func:`noisy_ica`.

    Returns:
        ``A``, and the means, shape ``(n, k)``.
    """
    lower = torch.linalg.cholesky(_covariance(draw["A"], draw["sigma"], draw["u"]))
    solved = torch.cholesky_solve(x.to(lower).unsqueeze(-1), lower)
    return draw["A"], draw["u"] * (draw["A"].mT @ solved).squeeze(-1)


def _check_rows(problem: str, rows: object) -> None:
    if _data.check_count(problem, "rows", rows) < len(ROWS):
        raise lvm.ArgumentError(f"problem {problem!r}: rows is {rows!r}. Fix: give at least {len(ROWS)}.")
