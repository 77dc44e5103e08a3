"""A Gaussian with the curvature of the posterior at its mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm import GuideError, Problem, PyrolvmError
from pyrolvm.family import frame_pays, gaussian, pathfinder_family, traits
from pyrolvm_guides._checks import at_least
from pyrolvm_guides._joint import EmptyGuide, JointGuide
from pyrolvm_guides._layout import Layout
from pyrolvm_guides._mode import climb, curvature, log_joint, scale_tril_from
from pyrolvm_guides._params import learnable
from pyrolvm_guides._reading import read_layout

__all__ = ["laplace"]

MOST_UNKNOWNS = 5_000
"""Up to so many unknowns the curvature is a matter of minutes and of hundreds of megabytes."""


class _Mode(JointGuide):
    """A point in unconstrained space: what is optimised before the curvature is known."""

    is_point = True

    def __init__(self, problem: Problem, layout: Layout, polish: int, repair: bool) -> None:
        super().__init__("laplace_mode", layout)
        self.problem = problem
        self.polish = polish
        self.repair = repair
        self.loc = learnable(layout.start)

    def posterior(self) -> dist.TorchDistribution:
        return dist.Delta(self.loc, event_dim=1)

    def prepare(self, problem: Problem, *, seed: int) -> None:
        """Starts at the highest of the modes at which ascents from several starts end, where these take a moment, and counts them."""
        if not frame_pays(problem):
            return
        try:
            found = pathfinder_family(problem, seed=seed).family
        except PyrolvmError:  # there is no Gaussian anywhere, or no gradient of many points at once
            return
        self.modes = len(found.weights)
        with torch.no_grad():
            self.loc.copy_(torch.as_tensor(found.means[0]).to(self.loc))

    def finalize(self, *args: Any, **kwargs: Any) -> PyroModule:
        """Climbs the rest of the way to the mode and returns the Gaussian with the curvature found there.

        Args:
            *args: the model's arguments, on full data.
            **kwargs: the model's keyword arguments.

        Raises:
            GuideError: if the density or its curvature is not finite, or if it is not a mode and ``repair`` is off.
        """
        density = log_joint(self.problem, self.layout, args, kwargs)
        mode = climb(density, self.loc.detach(), steps=self.polish)
        tril = scale_tril_from(curvature(density, mode), repair=self.repair)
        return _Laplace(self.layout, mode, tril.to(mode.dtype), self.modes)

    def template(self) -> PyroModule:
        """A guide like the one that :meth:`finalize` returns, to load its parameters into."""
        size = self.layout.size
        return _Laplace(self.layout, self.layout.start, torch.eye(size).to(self.layout.start), 0)


class _Laplace(JointGuide):
    def __init__(self, layout: Layout, mode: Tensor, scale_tril: Tensor, modes: int) -> None:
        super().__init__("laplace", layout)
        self.modes = modes
        self.loc = learnable(mode)
        self.scale_tril = learnable(scale_tril, constraint=constraints.lower_cholesky)

    def posterior(self) -> dist.TorchDistribution:
        return gaussian(self.loc, self.scale_tril)


@traits(one_mode=True, richer="full_rank")
def laplace(
    problem: Problem, *, polish: int = 200, repair: bool = True, init: Mapping[str, Any] | None = None
) -> PyroModule:
    r"""The Laplace approximation: a Gaussian at the posterior's mode with the inverse curvature there.

    .. math:: q(z) = \mathrm{Normal}(z;\ \hat z, H^{-1}), \qquad \hat z = \arg\max_z \ell(z), \qquad
        H = -\nabla^2 \ell(\hat z), \qquad \ell(z) = \log p(t(z), y) + \log|\det \partial t / \partial z|

    The mode is that of the density in unconstrained space, Jacobian included. It is not the mode of the constrained
    density and depends on the parametrisation.

    Training is optimisation of a point: the guide that this returns samples the point itself, and its ELBO is
    :math:`\ell`, not a bound on the evidence. After training call ``finalize(*args, **kwargs)``: it climbs the rest of
    the way by L-BFGS and Newton steps and returns the Gaussian guide.

    *It cannot represent* anything away from the mode: skewness, tails, other modes. Where the mode is far from the
    bulk, or does not exist because the density is unbounded (a funnel, such as centred hierarchical scales), it is
    wrong without limit; ``khat`` tells. It refuses minibatches of latent plates.

    Args:
        problem: the model with its data.
        polish: the number of L-BFGS steps after training, and ten times the number of Newton steps.
        repair: replaces eigenvalues of :math:`H` that are not positive by their absolute value, and by at least
            1e-6 of the largest. If off, they are a :class:`~pyrolvm.GuideError`.
        init: constrained values to start at, by site name; other sites start near their prior median.

    Returns:
        A guide called like the model, with methods ``finalize`` and ``template``.

    Raises:
        ArgumentError: if an option is out of range.
        GuideError: if the model subsamples a plate of latent sites, or has more than 5,000 unknowns.

    References:
        Tierney and Kadane, *Accurate Approximations for Posterior Moments and Marginal Densities*, JASA 81, 1986;
        MacKay, *Information Theory, Inference, and Learning Algorithms*, chapter 27,
        https://www.inference.org.uk/itila/
    """
    steps = at_least("polish", polish, 0)
    layout = read_layout(problem, init=init)
    if not layout.latents:
        return EmptyGuide("laplace")
    if layout.size > MOST_UNKNOWNS:
        raise GuideError(
            f"laplace takes a gradient of its own for each of {layout.size:,} unknowns, at most {MOST_UNKNOWNS:,}. "
            'Fix: use guide="low_rank" or "mean_field"; lvm.sparse takes groups, series and maps of any size.'
        )
    return _Mode(problem, layout, steps, repair)
