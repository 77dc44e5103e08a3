r"""Mixture of Gaussians: three groups of flowers, without being told the species.

    weights   ~ Dirichlet(2, ..., 2)
    locs_kj   ~ Normal(0, 1)             k = 1..K components,  j = 1..d features
    scales_kj ~ LogNormal(-1, 0.75)
    z_n       ~ Categorical(weights)     n = 1..N flowers (discrete, local)
    x_nj      ~ Normal(locs[z_n, j], scales[z_n, j])                      covariance="diagonal", or

    L_k       ~ LKJCholesky(d, 2),       S_k = diag(scales_k) L_k
    x_n       ~ Normal(locs[z_n], S_k S_k^T with k = z_n)                 covariance="full"

Graph: ``weights -> z_n -> x_n <- locs, scales, cholesky`` with a plate over the data. The features are
standardized, so the prior of the means has the scale of the data. The log-normal prior keeps scales away from
zero, where the likelihood of a mixture is unbounded. ``z`` is marked for parallel enumeration:
``TraceEnum_ELBO`` and NUTS sum it out exactly,

    log p(x_n | theta) = logsumexp_k [log weights_k + log Normal(x_n; locs_k, S_k S_k^T)],

at a cost linear in K, and ``marginal=True`` writes that sum into the model, for methods that do not enumerate.

What variational inference loses: every posterior mode comes ``K!`` times, once for each order of the labels. A
unimodal guide keeps one copy, and so does a NUTS chain that does not switch: their sites differ although they
agree. So compare ``quantities``, which do not change under relabelling. Within one copy the flowers on the
border of versicolor and virginica can go to either, which bends the posterior and gives it two nearby humps: a
Gaussian guide takes one of them, a flow or a mixture does better. Minor modes (one species split in two, some
60 nats lower) can trap an optimizer; start it from :func:`maximum_likelihood`, which takes the best of several
starts, to see which is the major one.

Data: Fisher's iris, 150 flowers, 4 features, UCI Machine Learning Repository, CC BY 4.0, as bundled with
scikit-learn (the values of Fisher's paper).

References:
    Fisher, R. A. (1936). The use of multiple measurements in taxonomic problems. Annals of Eugenics 7, 179-188.
        https://doi.org/10.24432/C56C76
    Dempster, A. P., Laird, N. M., Rubin, D. B. (1977). Maximum likelihood from incomplete data via the EM
        algorithm. Journal of the Royal Statistical Society B 39, 1-38.
        https://doi.org/10.1111/j.2517-6161.1977.tb01600.x
    Arthur, D., Vassilvitskii, S. (2007). k-means++: the advantages of careful seeding. SODA, 1027-1035.
    Stephens, M. (2000). Dealing with label switching in mixture models. Journal of the Royal Statistical
        Society B 62, 795-809. https://doi.org/10.1111/1467-9868.00265
    Fraley, C., Raftery, A. E. (2007). Bayesian regularization for normal mixture estimation and model-based
        clustering. Journal of Classification 24, 155-181. https://doi.org/10.1007/s00357-007-0004-5
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _arrays, _data

Draw = Mapping[str, Tensor]

COVARIANCES = ("diagonal", "full")
"""What ``covariance=`` may be."""

ORDER_BY = 2
"""Column whose component mean orders the components in ``quantities``: the petal length."""

PAIRS = ((50, 51), (100, 101), (50, 100), (70, 127), (77, 133), (68, 87))
"""Pairs of rows for ``same_component``: within versicolor and virginica, between them, and flowers at the border."""


def log_joint_by_component(x: Tensor, draw: Draw) -> Tensor:
    """Log density of each datum together with each assignment.

    Args:
        x: Data, shape ``(n, d)``.
        draw: ``weights`` ``(k,)``, ``locs`` ``(k, d)``, ``scales`` ``(k, d)``, and for full covariances ``cholesky``
            ``(k, d, d)``, the Cholesky factors of the correlations.

    Returns:
        ``log p(x_n, z_n = k | draw)``, shape ``(n, k)``.
    """
    locs, scales = draw["locs"], draw["scales"]
    standard = (x.to(locs).unsqueeze(-2) - locs) / scales
    log_det = scales.log().sum(-1)
    if "cholesky" in draw:
        lower = draw["cholesky"]
        rows = standard.flatten(0, -3).movedim(0, -1)  # (k, d, n): one solve for each component
        standard = torch.linalg.solve_triangular(lower, rows, upper=False).movedim(-1, 0).reshape(standard.shape)
        log_det = log_det + lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_normal = -0.5 * standard.square().sum(-1) - log_det - 0.5 * x.shape[-1] * math.log(2 * math.pi)
    log_joint: Tensor = draw["weights"].log() + log_normal
    return log_joint


def log_density(x: Tensor, draw: Draw) -> Tensor:
    """Log density of each datum, its component summed out: linear in the number of components.

    Args:
        x: Data, shape ``(n, d)``.
        draw: As for :func:`log_joint_by_component`.

    Returns:
        ``log p(x_n | draw)``, shape ``(n,)``.
    """
    return log_joint_by_component(x, draw).logsumexp(-1)


def log_likelihood(x: Tensor, draw: Draw) -> Tensor:
    """Log density of all data under one draw, ``()``: blind to the order of the labels."""
    return log_density(x, draw).sum(-1)


def responsibilities(x: Tensor, draw: Draw) -> Tensor:
    """Probability of each component for each datum, given one draw.

    Args:
        x: Data, shape ``(n, d)``.
        draw: As for :func:`log_joint_by_component`.

    Returns:
        ``p(z_n = k | x_n, draw)``, shape ``(n, k)``; rows sum to 1.
    """
    return log_joint_by_component(x, draw).softmax(-1)


def same_component(x: Tensor, draw: Draw) -> Tensor:
    """Probability that two flowers belong to one component, given one draw.

    Args:
        x: The rows in question, shape ``(pairs, 2, d)``.
        draw: As for :func:`log_joint_by_component`.

    Returns:
        ``sum_k p(z_i = k | x_i) p(z_j = k | x_j)`` for each pair, shape ``(pairs,)``.
    """
    return responsibilities(x, draw).prod(-2).sum(-1)


def in_order(site: str, draw: Draw) -> Tensor:
    """A site with its components in the order of their mean petal length.

    Args:
        site: ``"weights"``, ``"locs"`` or ``"scales"``.
        draw: One draw of the sites.

    Returns:
        The site, first axis permuted.
    """
    order = draw["locs"][:, ORDER_BY].argsort()
    return draw[site].index_select(0, order)


def correlation(draw: Draw) -> Tensor:
    """Correlations of the features within each component, components in the order of :func:`in_order`.

    Args:
        draw: One draw of a mixture with full covariances.

    Returns:
        The entries below the diagonal, row by row, shape ``(k, d (d - 1) / 2)``.
    """
    lower = in_order("cholesky", draw)
    d = lower.shape[-1]
    rows, columns = torch.tril_indices(d, d, -1, device=lower.device)
    return (lower @ lower.mT)[..., rows, columns]


@dataclass(frozen=True)
class Estimate:
    """Where EM ended.

    Attributes:
        parameters: ``weights``, ``locs``, ``scales`` and, with full covariances, ``cholesky``: what every function of a
            draw in this module takes. In double precision.
        log_likelihoods: Log likelihood of all data at the start of each iteration and at the end; it never falls, up to
            the effect of ``floor``.
        converged: Whether it stopped by itself.
    """

    parameters: dict[str, Tensor]
    log_likelihoods: list[float]
    converged: bool


def maximum_likelihood(
    x: Any,
    components: int,
    *,
    covariance: str = "full",
    floor: float = 1e-6,
    starts: int = 4,
    tolerance: float = 1e-6,
    max_steps: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Maximum likelihood by EM, the best of several starts from k-means on raw and on standardized columns by turns.

    The likelihood of a mixture is unbounded (a component may shrink onto one datum), so this is a good local maximum, kept
    from the spikes by ``floor``.

    Args:
        x: Data, shape ``(n, d)``, finite; converted to double precision.
        components: Number of components, at most ``n``.
        covariance: ``"diagonal"`` or ``"full"``.
        floor: Added to each component's variances in each step, in squared units of the data; 0 for plain EM.
        starts: Number of starts.
        tolerance: EM stops where a step gains less than this, in nats a datum.
        max_steps: Largest number of steps of each start.
        seed: Seed of the starts.

    Returns:
        The estimate of the highest likelihood.

    Raises:
        ArgumentError: An option is out of range, or there are more components than rows.
        DataError: The data are not a finite matrix, or do not determine a covariance; or a component's covariance became
            singular, which ``floor=0`` allows.
    """
    caller = "maximum_likelihood"
    values = _arrays.matrix(caller, x)
    k = _data.check_count(caller, "components", components, kind="function")
    if k > len(values):
        raise lvm.ArgumentError(
            f"{caller}: {k} components for {len(values)} rows. Fix: give at most {len(values)} components."
        )
    _check_covariance(caller, covariance)
    for option, count in (("starts", starts), ("max_steps", max_steps)):
        _data.check_count(caller, option, count, kind="function")
    for option, number in (("floor", floor), ("tolerance", tolerance)):
        if not (isinstance(number, int | float) and 0 <= number < math.inf):
            raise lvm.ArgumentError(f"{caller}: {option} is {number!r}. Fix: give a finite number of at least 0.")
    _arrays.covariance(caller, values, full=covariance == "full")
    generator = torch.Generator().manual_seed(seed)
    scaled = (values - values.mean(0)) / values.std(0, correction=0)
    found = []
    for start in range(starts):
        shares = _kmeans(scaled if start % 2 else values, k, generator)
        found.append(_em(values, shares, covariance, floor, tolerance, max_steps))
    return max(found, key=lambda estimate: estimate.log_likelihoods[-1])


def _em(x: Tensor, shares: Tensor, covariance: str, floor: float, tolerance: float, max_steps: int) -> Estimate:
    """EM from responsibilities ``(n, k)``."""
    trace: list[float] = []
    while True:
        parameters = _maximize(x, shares, covariance, floor)
        log_joint = log_joint_by_component(x, parameters)
        trace.append(float(log_joint.logsumexp(-1).sum()))
        converged = len(trace) > 1 and trace[-1] - trace[-2] < tolerance * len(x)
        if converged or len(trace) > max_steps:
            return Estimate(parameters, trace, converged)
        shares = log_joint.softmax(-1)


def _maximize(x: Tensor, shares: Tensor, covariance: str, floor: float) -> dict[str, Tensor]:
    """The parameters of the highest expected log likelihood, given responsibilities ``(n, k)``."""
    mass = shares.sum(0) + 10 * torch.finfo(x.dtype).eps
    locs = shares.mT @ x / mass.unsqueeze(-1)
    parameters = {"weights": mass / mass.sum(), "locs": locs}
    if covariance == "diagonal":
        away = (x.unsqueeze(1) - locs).square()
        variances = (shares.unsqueeze(-1) * away).sum(0) / mass.unsqueeze(-1) + floor
        _check_positive(variances.amin(-1), mass, x.shape[-1])
        return parameters | {"scales": variances.sqrt()}
    covariances = []
    for share, loc, weight in zip(shares.mT, locs, mass, strict=True):
        away = x - loc
        covariances.append((share.unsqueeze(-1) * away).mT @ away / weight)
    stacked = torch.stack(covariances) + floor * torch.eye(x.shape[-1], dtype=x.dtype)
    lower, info = torch.linalg.cholesky_ex(stacked)
    _check_positive(torch.where(info == 0, 1.0, 0.0), mass, x.shape[-1])
    scales = lower.square().sum(-1).sqrt()
    return parameters | {"scales": scales, "cholesky": lower / scales.unsqueeze(-1)}


def _check_positive(smallest: Tensor, mass: Tensor, d: int) -> None:
    """Raises where a covariance is singular.

    Args:
        smallest: Something positive for each component whose covariance is regular, shape ``(k,)``.
        mass: Data that each component holds, shape ``(k,)``.
        d: Number of columns, for the message.

    Raises:
        DataError: A covariance is singular.
    """
    singular = torch.nonzero(smallest <= 0).flatten().tolist()
    if singular:
        k = singular[0]
        raise lvm.DataError(
            f"maximum_likelihood: the covariance of component {k}, which holds {float(mass[k]):.3g} rows of {d} columns, became "
            'singular. Fix: give fewer components, covariance="diagonal", or a larger floor, for example floor=1e-3.'
        )


def _kmeans(x: Tensor, k: int, generator: torch.Generator, steps: int = 20) -> Tensor:
    """Responsibilities 0 or 1 from k-means with k-means++ centres, shape ``(n, k)``."""
    rows = [int(torch.randint(len(x), (), generator=generator))]
    while len(rows) < k:
        nearest = torch.cdist(x, x[rows]).amin(1).square()
        nearest = nearest if nearest.sum() > 0 else torch.ones_like(nearest)  # fewer distinct rows than components
        rows.append(int(torch.multinomial(nearest, 1, generator=generator)))
    centres = x[rows]
    for _ in range(steps):
        shares = torch.nn.functional.one_hot(torch.cdist(x, centres).argmin(1), k).to(x)
        mass = shares.sum(0).unsqueeze(-1)
        moved = torch.where(mass > 0, shares.mT @ x / mass.clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return shares


def _check_covariance(caller: str, covariance: object) -> None:
    if covariance not in COVARIANCES:
        raise lvm.ArgumentError(f'{caller}: covariance is {covariance!r}. Fix: use "diagonal" or "full".')


def gaussian_mixture(*, components: int = 3, covariance: str = "diagonal", marginal: bool = False) -> lvm.Problem:
    """Iris as a mixture of Gaussians, compared through functions that ignore labels.

    Args:
        components: Number of components ``K``, at most 150.
        covariance: ``"diagonal"``, or ``"full"`` with a Cholesky factor of the correlations for each component.
        marginal: Sum out the assignments in the model instead of sampling them as ``z``; the same posterior.

    Returns:
        The problem; its ``quantities`` are the ordered ``weight``, ``loc``, ``scale`` and, with full covariances,
        ``correlation`` of the components, the probability ``same_component`` of a few pairs, and ``log_lik``, the log
        likelihood of all data.

    Raises:
        ArgumentError: ``components`` is not an integer from 1 to 150, or there is no such covariance.
        ImportError: scikit-learn is not installed.
    """
    table = _data.load("iris")
    k = _data.check_count("gaussian_mixture", "components", components, len(table.x))
    _check_covariance("gaussian_mixture", covariance)
    full = covariance == "full"
    features = _data.standardize(table.x)
    d = features.shape[-1]
    rows = torch.as_tensor(features)
    quantities: dict[str, Callable[[Draw], Tensor]] = {
        "weight": partial(in_order, "weights"),
        "loc": partial(in_order, "locs"),
        "scale": partial(in_order, "scales"),
        "same_component": partial(same_component, rows[torch.tensor(PAIRS)]),
        "log_lik": partial(log_likelihood, rows),
    }
    dims = {
        "weights": ["component"],
        "locs": ["component", "feature"],
        "scales": ["component", "feature"],
        "x": ["data", "feature"],
        "weight": ["rank"],
        "loc": ["rank", "feature"],
        "scale": ["rank", "feature"],
        "same_component": ["pair"],
    }
    names = [name.removesuffix(" (cm)") for name in table.columns]
    coords: dict[str, list[str] | list[int]] = {
        "feature": names,
        "component": list(range(k)),
        "rank": list(range(k)),
        "pair": [f"{i}-{j}" for i, j in PAIRS],
    }
    if full:
        quantities["correlation"] = correlation
        dims |= {"cholesky": ["component", "feature", "factor"], "correlation": ["rank", "features"]}
        coords |= {
            "factor": list(range(d)),
            "features": [f"{names[i]}, {names[j]}" for i in range(d) for j in range(i)],
        }

    @lvm.model(dims=dims, coords=coords, quantities=quantities)
    def mixture(x: Tensor) -> None:
        """Mixture of Gaussians for standardized features ``x`` ``(n, d)``."""
        weights = pyro.sample("weights", dist.Dirichlet(x.new_full((k,), 2.0)))
        locs = pyro.sample("locs", dist.Normal(0.0, 1.0).expand([k, d]).to_event(2))
        scales = pyro.sample("scales", dist.LogNormal(-1.0, 0.75).expand([k, d]).to_event(2))
        if full:
            cholesky = pyro.sample("cholesky", dist.LKJCholesky(d, 2.0).expand([k]).to_event(1))
            scale_tril = scales.unsqueeze(-1) * cholesky
        with pyro.plate("data", len(x)):
            if marginal:
                parts = (
                    dist.MultivariateNormal(locs, scale_tril=scale_tril)
                    if full
                    else dist.Normal(locs, scales).to_event(1)
                )
                pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=x)
            else:
                z = pyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
                loc = Vindex(locs)[..., z, :]
                part = (
                    dist.MultivariateNormal(loc, scale_tril=Vindex(scale_tril)[..., z, :, :])
                    if full
                    else dist.Normal(loc, Vindex(scales)[..., z, :]).to_event(1)
                )
                pyro.sample("x", part, obs=x)

    return lvm.Problem(mixture, features)
