r"""Mixture of Gaussians: three groups of flowers, without being told the species.

    weights   ~ Dirichlet(2, ..., 2)
    locs_kj   ~ Normal(0, 1)             k = 1..K components,  j = 1..d features
    scales_kj ~ LogNormal(-1, 0.75)
    z_n       ~ Categorical(weights)     n = 1..N flowers (discrete, local)
    x_nj      ~ Normal(locs[z_n, j], scales[z_n, j])

Graph: ``weights -> z_n -> x_n <- locs, scales`` with a plate over the data. The features are standardized, so
the prior of the means has the scale of the data. The log-normal prior keeps scales away from zero, where the
likelihood of a mixture is unbounded. ``z`` is marked for parallel enumeration: ``TraceEnum_ELBO`` and NUTS sum
it out exactly,

    log p(x_n | weights, locs, scales) = logsumexp_k [log weights_k + sum_j log Normal(x_nj; locs_kj, scales_kj)],

and ``marginal=True`` writes that sum into the model, for methods that do not enumerate.

What variational inference loses: every posterior mode comes ``K!`` times, once for each order of the labels. A
unimodal guide keeps one copy, and so does a NUTS chain that does not switch: their sites differ although they
agree. So compare ``quantities``, which do not change under relabelling. Within one copy the flowers on the
border of versicolor and virginica can go to either, which bends the posterior and gives it two nearby humps: a
Gaussian guide takes one of them, a flow or a mixture does better. Minor modes (one species split in two, some
60 nats lower) can trap an optimizer.

Data: Fisher's iris, 150 flowers, 4 features, UCI Machine Learning Repository, CC BY 4.0, as bundled with
scikit-learn (the values of Fisher's paper).

References:
    Fisher, R. A. (1936). The use of multiple measurements in taxonomic problems. Annals of Eugenics 7, 179-188.
        https://doi.org/10.24432/C56C76
    Stephens, M. (2000). Dealing with label switching in mixture models. Journal of the Royal Statistical
        Society B 62, 795-809. https://doi.org/10.1111/1467-9868.00265
    Fraley, C., Raftery, A. E. (2007). Bayesian regularization for normal mixture estimation and model-based
        clustering. Journal of Classification 24, 155-181. https://doi.org/10.1007/s00357-007-0004-5
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data

Draw = Mapping[str, Tensor]

ORDER_BY = 2
"""Column whose component mean orders the components in ``quantities``: the petal length."""

PAIRS = ((0, 1), (50, 51), (100, 101), (0, 50), (50, 100), (70, 127))
"""Pairs of rows for ``same_component``: within each species, between species, and two flowers at the border."""


def log_joint_by_component(x: Tensor, draw: Draw) -> Tensor:
    """Log density of each datum together with each assignment.

    Args:
        x: Data, shape ``(n, d)``.
        draw: ``weights`` ``(k,)``, ``locs`` ``(k, d)`` and ``scales`` ``(k, d)``.

    Returns:
        ``log p(x_n, z_n = k | draw)``, shape ``(n, k)``.
    """
    locs, scales = draw["locs"], draw["scales"]
    standard = (x.to(locs).unsqueeze(-2) - locs) / scales
    log_normal = -0.5 * standard.square() - scales.log() - 0.5 * math.log(2 * math.pi)
    log_joint: Tensor = draw["weights"].log() + log_normal.sum(-1)
    return log_joint


def log_likelihood(x: Tensor, draw: Draw) -> Tensor:
    """Log density of all data under one draw, ``()``: blind to the order of the labels.

    Args:
        x: Data, shape ``(n, d)``.
        draw: One draw of ``weights``, ``locs`` and ``scales``.

    Returns:
        ``sum_n log p(x_n | draw)``.
    """
    return log_joint_by_component(x, draw).logsumexp(-1).sum(-1)


def same_component(x: Tensor, draw: Draw) -> Tensor:
    """Probability that two flowers belong to one component, given one draw.

    Args:
        x: The rows in question, shape ``(pairs, 2, d)``.
        draw: One draw of ``weights``, ``locs`` and ``scales``.

    Returns:
        ``sum_k p(z_i = k | x_i) p(z_j = k | x_j)`` for each pair, shape ``(pairs,)``.
    """
    responsibility = log_joint_by_component(x, draw).softmax(-1)
    return responsibility.prod(-2).sum(-1)


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


def gaussian_mixture(*, components: int = 3, marginal: bool = False) -> lvm.Problem:
    """Iris as a mixture of diagonal Gaussians, compared through functions that ignore labels.

    Args:
        components: Number of components ``K``.
        marginal: Sum out the assignments in the model instead of sampling them as ``z``; the same posterior.

    Returns:
        The problem; its ``quantities`` are the ordered ``weight``, ``loc`` and ``scale`` of the components, the
        probability ``same_component`` of a few pairs, and ``log_lik``, the log likelihood of all data.

    Raises:
        ArgumentError: ``components`` is not a positive integer.
        ImportError: scikit-learn is not installed.
    """
    k = _data.check_count("gaussian_mixture", "components", components)
    table = _data.load("iris")
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
    coords: dict[str, list[str] | list[int]] = {
        "feature": [name.removesuffix(" (cm)") for name in table.columns],
        "component": list(range(k)),
        "rank": list(range(k)),
        "pair": [f"{i}-{j}" for i, j in PAIRS],
    }

    @lvm.model(dims=dims, coords=coords, quantities=quantities)
    def mixture(x: Tensor) -> None:
        """Mixture of diagonal Gaussians for standardized features ``x`` ``(n, d)``."""
        weights = pyro.sample("weights", dist.Dirichlet(x.new_full((k,), 2.0)))
        locs = pyro.sample("locs", dist.Normal(0.0, 1.0).expand([k, d]).to_event(2))
        scales = pyro.sample("scales", dist.LogNormal(-1.0, 0.75).expand([k, d]).to_event(2))
        with pyro.plate("data", len(x)):
            if marginal:
                component = dist.Normal(locs, scales).to_event(1)
                pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), component), obs=x)
            else:
                z = pyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
                component = dist.Normal(Vindex(locs)[..., z, :], Vindex(scales)[..., z, :]).to_event(1)
                pyro.sample("x", component, obs=x)

    return lvm.Problem(mixture, features)
