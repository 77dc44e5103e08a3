"""A Gaussian with full covariance over all latent variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
from pyro.nn import PyroModule

from pyrolvm import Problem
from pyrolvm.family import gaussian, require_memory, traits
from pyrolvm_guides._bijections import Affine
from pyrolvm_guides._checks import positive
from pyrolvm_guides._frame import wants_frame
from pyrolvm_guides._joint import EmptyGuide, JointGuide
from pyrolvm_guides._layout import Layout
from pyrolvm_guides._reading import read_layout

__all__ = ["FullRank", "full_rank"]


class FullRank(JointGuide):
    """One Gaussian with full covariance.

    Args:
        layout: the sites.
        init_scale: the initial standard deviation.
    """

    scores_cheaply = True

    def __init__(self, layout: Layout, init_scale: float, framed: Problem | None = None) -> None:
        super().__init__("full_rank", layout, init_scale, framed)
        self.affine = Affine(self.start, self.initial_scale, triangular=True)

    def posterior(self) -> dist.TorchDistribution:
        """The Gaussian of the unconstrained vector."""
        return gaussian(self.affine.loc, self.affine.scale_tril())


@traits(one_mode=True)
def full_rank(
    problem: Problem, *, init_scale: float = 0.1, precondition: str = "auto", init: Mapping[str, Any] | None = None
) -> PyroModule:
    r"""One Gaussian with full covariance over all latent variables in unconstrained space.

    .. math:: q(z) = \mathrm{Normal}(z;\ m,\ L L^\top), \qquad L = \mathrm{diag}(s)\, T,

    with :math:`T` unit lower triangular: :math:`d(d+3)/2` parameters for :math:`d` unknowns. Exact where the posterior
    is Gaussian in unconstrained space.

    *It cannot represent* skewness, heavy or light tails, several modes, or a scale that varies with another variable
    (a funnel). It holds all local latent variables at once, so it refuses minibatches of their plates; beyond a few
    thousand unknowns prefer ``low_rank``.

    Args:
        problem: the model with its data.
        init_scale: the initial standard deviation in every direction.
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
        Kucukelbir et al., *Automatic Differentiation Variational Inference*, https://arxiv.org/abs/1603.00788
    """
    scale = positive("init_scale", init_scale)
    size = problem.unconstrained_size
    require_memory(
        f"full_rank of {size:,} unknowns has {size * (size + 3) // 2:,} parameters, which take, with gradient and moments",
        5.0 * size**2 * problem.dtype.itemsize,
        'use guide="low_rank", "structured" or "mean_field".',
    )
    layout = read_layout(problem, init=init)
    framed = problem if wants_frame(precondition, problem, init) else None
    return FullRank(layout, scale, framed) if layout.latents else EmptyGuide("full_rank")
