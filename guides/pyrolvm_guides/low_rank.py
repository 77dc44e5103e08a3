"""A Gaussian whose covariance is diagonal plus low rank."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, sqrt
from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

from pyrolvm import Problem
from pyrolvm.family import traits
from pyrolvm_guides._checks import at_least, positive
from pyrolvm_guides._frame import wants_frame
from pyrolvm_guides._joint import EmptyGuide, JointGuide
from pyrolvm_guides._layout import Layout
from pyrolvm_guides._params import learnable, learnable_positive
from pyrolvm_guides._reading import read_layout

__all__ = ["low_rank"]


class _LowRank(JointGuide):
    scores_cheaply = True

    def __init__(self, layout: Layout, init_scale: float, framed: Problem | None, rank: int) -> None:
        super().__init__("low_rank", layout, init_scale, framed)
        start = self.start
        noise = torch.randn(layout.size, rank, dtype=start.dtype, device=start.device)
        self.loc = learnable(start)
        self.scale = learnable_positive(torch.full_like(start, self.initial_scale / sqrt(2)))
        self.factor = learnable(noise / sqrt(rank))

    def posterior(self) -> dist.TorchDistribution:
        scale = self.scale
        return dist.LowRankMultivariateNormal(self.loc, scale[:, None] * self.factor, scale * scale)


@traits(one_mode=True, richer="full_rank")
def low_rank(
    problem: Problem,
    *,
    rank: int | None = None,
    init_scale: float = 0.1,
    precondition: str = "auto",
    init: Mapping[str, Any] | None = None,
) -> PyroModule:
    r"""One Gaussian over all latent variables whose covariance is diagonal plus rank :math:`r`.

    .. math:: q(z) = \mathrm{Normal}\bigl(z;\ m,\ \mathrm{diag}(s)\,(I + W W^\top)\,\mathrm{diag}(s)\bigr),
        \qquad W \in \mathbb{R}^{d \times r}

    Parameters, draws and densities cost :math:`O(d r)` and :math:`O(d r^2)` against :math:`O(d^2)` of ``full_rank``.

    *It cannot represent* a correlation structure of more than ``rank`` directions, nor anything that ``full_rank``
    cannot: skewness, other tails, several modes, funnels. It refuses minibatches of latent plates.

    Args:
        problem: the model with its data.
        rank: the number of directions :math:`r`; :math:`\lceil \sqrt{d} \rceil` if not given.
        init_scale: the initial standard deviation, on average over coordinates.
        precondition: ``"frame"`` trains in coordinates in which the posterior is nearly standard normal, found by ascents and
            natural gradients before the first step; ``"none"`` in plain unconstrained space; ``"auto"`` takes the frame up to
            500 unknowns (that of a sample of rows beyond 50,000 observed numbers), unless ``init`` says where to start or the
            model has parameters.
        init: constrained values to start at, by site name; other sites start near their prior median.

    Returns:
        A guide called like the model.

    Raises:
        ArgumentError: if an option is out of range.
        GuideError: if the model subsamples a plate of latent sites.

    References:
        Ong, Nott and Smith, *Gaussian Variational Approximation with a Factor Covariance Structure*,
        https://arxiv.org/abs/1701.03208
    """
    scale = positive("init_scale", init_scale)
    directions = None if rank is None else at_least("rank", rank)
    layout = read_layout(problem, init=init)
    framed = problem if wants_frame(precondition, problem, init) else None
    if not layout.latents:
        return EmptyGuide("low_rank")
    return _LowRank(layout, scale, framed, min(layout.size, directions or ceil(sqrt(layout.size))))
