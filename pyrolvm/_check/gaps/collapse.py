r"""What the latents of an amortised fit say about the data: active units, divergences, mutual information.

With :math:`q(z \mid x_n)` the guide of row n and :math:`\bar q(z) = \frac1N \sum_n q(z \mid x_n)`, the mean divergence from the
prior is

.. math:: \frac1N \sum_n \mathrm{KL}(q(z \mid x_n) \,\|\, p(z)) = I(n; z) + \mathrm{KL}(\bar q \,\|\, p), \qquad I \le \log N,

the information that a latent has about which row it is of, and how far all of them together are from the prior.

References:
    Burda, Grosse, Salakhutdinov, *Importance weighted autoencoders*, https://arxiv.org/abs/1509.00519 (active units);
    Hoffman and Johnson, *ELBO surgery*, http://approximateinference.org/2016/accepted/HoffmanJohnson2016.pdf
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyrolvm._base.bijections import bijection
from pyrolvm._check.gaps.result import ACTIVE, Collapse
from pyrolvm._check.gaps.rows import Gaussians, Rows
from pyrolvm._program.peeling import untransformed
from pyrolvm._program.starting import support_of

__all__ = ["collapse", "mutual_information"]

PAIRS = 2_000_000
"""Densities of one row's draw under another's guide that are held at once, times unknowns."""


def collapse(rows: Rows, draws: int, generator: torch.Generator) -> Collapse:
    """Measures the units of a fit; inside its session."""
    import pandas as pd

    family = rows.guide
    means = family.loc.double()
    loc, scale = _prior(rows)
    variance = means.var(0, unbiased=False) / scale.square().mean(0)
    own = family.variance.double()
    divergence = 0.5 * ((own + (means - loc).square()) / scale.square() - 1 - (own / scale.square()).log())
    table = pd.DataFrame(
        {
            "variance_of_mean": variance.cpu().numpy(), "kl": divergence.mean(0).cpu().numpy(),
            "active": (variance > ACTIVE).cpu().numpy(),
        },
        index=pd.Index(rows.units, name="unit"),
    )  # fmt: skip
    information, error = mutual_information(family, draws, generator)
    total = float(_divergence(family, loc, scale).mean())
    return Collapse(table, total, information, error, math.log(rows.count))


def _divergence(family: Gaussians, loc: Tensor, scale: Tensor) -> Tensor:
    """KL from the prior of all unknowns of a row together, shape ``(rows,)``."""
    expected = (family.variance.double() + (family.loc.double() - loc).square()) / scale.square()
    log_det = family.tril.double().diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return 0.5 * (expected.sum(-1) - family.size) + scale.log().sum(-1) - log_det


def _prior(rows: Rows) -> tuple[Tensor, Tensor]:
    """Location and scale of the prior of each unknown, ``(rows, n)``: its own where it is normal, else that of prior draws."""
    problem, batch = rows.problem, rows.batch
    with batch.active(), torch.no_grad():
        traces = [poutine.trace(problem.model).get_trace(*batch.args, **batch.kwargs) for _ in range(200)]
    locs, scales = [], []
    dim = problem.plates[rows.plate].dim
    assert dim is not None
    for site in problem.latents:
        nodes: list[Any] = [trace.nodes[site.name] for trace in traces]
        base, transforms = untransformed(nodes[0]["fn"])
        axis = dim - site.event_dim

        def flat(value: Tensor, axis: int = axis) -> Tensor:
            return value.double().movedim(axis, 0).reshape(value.shape[axis], -1)

        shape = nodes[0]["value"].shape
        alone = isinstance(base, torch.distributions.Normal) and not transforms
        again = untransformed(nodes[1]["fn"])[0]
        if alone and torch.equal(base.loc, again.loc) and torch.equal(base.scale, again.scale):
            locs.append(flat(base.loc.expand(shape)))
            scales.append(flat(base.scale.expand(shape)))
            continue

        drawn = torch.stack([flat(bijection(support_of(node["fn"])).inv(node["value"])) for node in nodes])
        locs.append(drawn.mean((0, 1)).expand(drawn.shape[1:]))
        scales.append(drawn.reshape(-1, drawn.shape[-1]).std(0).expand(drawn.shape[1:]))
    return torch.cat(locs, 1), torch.cat(scales, 1)


def mutual_information(family: Gaussians, draws: int, generator: torch.Generator) -> tuple[float, float]:
    """The information between rows and latents under the guide, and its standard error, in nats; at most the log of the rows.

    Args:
        family: the guide's Gaussians.
        draws: draws of each row.
        generator: where the randomness comes from.
    """
    count, size = family.loc.shape
    loc, tril = family.loc.double(), family.tril.double()
    inverse = torch.linalg.solve_triangular(tril, torch.eye(size).double().expand_as(tril), upper=False)
    log_det = tril.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    centre = torch.einsum("mij,mj->mi", inverse, loc)
    found = []
    at_once = max(1, PAIRS // (count * size))
    for _ in range(draws):
        noise = torch.randn(count, size, generator=generator, dtype=torch.float64)
        z = loc + torch.einsum("nij,nj->ni", tril, noise)
        own = -0.5 * noise.square().sum(-1) - log_det
        for start in range(0, count, at_once):
            part = z[start : start + at_once]
            away = torch.einsum("mij,nj->nmi", inverse, part) - centre
            every = -0.5 * away.square().sum(-1) - log_det
            found.append(own[start : start + at_once] - (every.logsumexp(-1) - math.log(count)))
    values = torch.cat(found).numpy()
    return float(values.mean()), float(values.std() / math.sqrt(len(values))) if len(values) > 1 else float(np.nan)
