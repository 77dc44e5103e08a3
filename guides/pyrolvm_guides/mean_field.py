"""Independent Gaussians, one for every unconstrained coordinate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm import GuideError, Problem
from pyrolvm.family import traits
from pyrolvm_guides._checks import positive
from pyrolvm_guides._frame import best_gaussian, wants_frame
from pyrolvm_guides._joint import EmptyGuide
from pyrolvm_guides._layout import Latent, Layout, argument_shapes, inside
from pyrolvm_guides._params import learnable, learnable_positive
from pyrolvm_guides._reading import read_layout

__all__ = ["MeanField", "mean_field"]


class MeanField(PyroModule):
    """Independent Gaussians sampled directly at the sites, with one parameter row for every row of a plate.

    Args:
        family: the name for messages and parameters.
        layout: the sites.
        init_scale: the initial standard deviation.
        framed: whether :meth:`prepare` looks for a better start.
    """

    def __init__(self, family: str, layout: Layout, init_scale: float, framed: bool = False) -> None:
        super().__init__(family)
        self.family = family
        self.framed = framed
        self.modes = 0
        self.layout = layout
        self._keys = {latent.name: f"{i}_{_plain(latent.name)}" for i, latent in enumerate(layout.latents)}
        for latent in layout.latents:
            loc = layout.start[latent.start : latent.stop].reshape(latent.u_shape).clone()
            key, event_dim = self._keys[latent.name], latent.u_event_dim
            setattr(self, f"loc_{key}", learnable(loc, event_dim=event_dim))
            scale = learnable_positive(torch.full_like(loc, init_scale), event_dim=event_dim)
            setattr(self, f"scale_{key}", scale)

    def prepare(self, problem: Problem, *, seed: int) -> None:
        """Starts at the mean of the posterior's best Gaussian, with the sds that independent coordinates would have in it."""
        found = best_gaussian(problem, seed=seed) if self.framed else None
        if found is None:
            return
        self.modes, mean, covariance = found
        scale = 1 / np.sqrt(np.diag(np.linalg.pinv(covariance)))
        with torch.no_grad():
            for latent in self.layout.latents:
                key, block = self._keys[latent.name], slice(latent.start, latent.stop)
                for name, values in ((f"loc_{key}", mean), (f"scale_{key}_unconstrained", np.log(scale))):
                    parameter = getattr(self, name)
                    parameter.copy_(torch.as_tensor(values[block]).to(parameter).reshape(latent.u_shape))

    def sample(self, latent: Latent, plates: Mapping[str, pyro.plate]) -> Tensor:
        """Samples one site inside its plates; Pyro picks the parameter rows of a subsampled plate."""
        with inside(plates, latent):
            key = self._keys[latent.name]
            loc, scale = getattr(self, f"loc_{key}"), getattr(self, f"scale_{key}")
            return pyro.sample(latent.name, latent.distribution(loc, scale))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples all latent sites.

        Args:
            *args: the model's arguments.
            **kwargs: the model's keyword arguments.

        Returns:
            The draw, by site name.

        Raises:
            GuideError: if a slice of the data comes without the indices of its rows.
        """
        plates = self.layout.open_plates()
        refuse_unindexed(self.family, self.layout, plates, args, kwargs)
        return {latent.name: self.sample(latent, plates) for latent in self.layout.latents}


def refuse_unindexed(family: str, layout: Layout, plates: Mapping[str, pyro.plate], args: Any, kwargs: Any) -> None:
    """Raises a :class:`GuideError` if arguments have other rows than before while their plate shows all rows."""
    now = argument_shapes(args, kwargs)
    for latent in layout.latents:
        for name in latent.plates:
            size = layout.plates[name].size
            for key, before in layout.rows_of(name).items():
                after = now.get(key, (before,))
                rows = after[0] if after else 1
                if rows != size and plates[name].subsample_size == size:
                    raise GuideError(
                        f"guide {family!r} holds site {latent.name!r} with shape {latent.shape}, but argument {key!r} "
                        f"has {rows} rows, expected {size}, one for each of plate {name!r}, and nothing says which "
                        "they are. Fix: pass batch_size to lvm.fit, write the model with "
                        'pyro.plate(..., subsample_size=...), or use guide="amortized".'
                    )


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


@traits(one_mode=True, richer="full_rank")
def mean_field(
    problem: Problem, *, init_scale: float = 0.1, precondition: str = "auto", init: Mapping[str, Any] | None = None
) -> PyroModule:
    r"""Independent Gaussians in unconstrained space: location and scale for every unknown.

    .. math:: q(z) = \prod_i \mathrm{Normal}(z_i;\ m_i, s_i^2)

    The sites are sampled directly from the image of these Gaussians (``Normal`` on the real line), so under
    ``TraceMeanField_ELBO`` the divergence from Normal and LogNormal priors is analytic. Latent plates may be
    subsampled: parameters have full size and the rows of a minibatch are picked by its indices.

    *It cannot represent* any dependence between unknowns, and it is too narrow where there is some: for a Gaussian
    posterior of correlation :math:`\rho` its standard deviation is :math:`\sigma \sqrt{1 - \rho^2}`. Nor can it
    represent skewness in unconstrained space or several modes.

    Args:
        problem: the model with its data.
        init_scale: the initial standard deviation of every unknown.
        precondition: ``"frame"`` starts at the mean and the scales of the posterior's best Gaussian, found by ascents and natural
            gradients; ``"none"`` near the prior's median; ``"auto"`` takes the former up to 500 unknowns (for a sample
            of rows beyond 50,000 observed numbers), unless ``init`` says where to start or the model has parameters to
            learn.
        init: constrained values to start at, by site name; other sites start near their prior median.

    Returns:
        A guide called like the model.

    Raises:
        ArgumentError: if an option is out of range.

    References:
        Kucukelbir et al., *Automatic Differentiation Variational Inference*, https://arxiv.org/abs/1603.00788
    """
    scale = positive("init_scale", init_scale)
    layout = read_layout(problem, init=init)
    framed = wants_frame(precondition, problem, init)
    return MeanField("mean_field", layout, scale, framed) if layout.latents else EmptyGuide("mean_field")
