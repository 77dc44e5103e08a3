"""Guides that hold all latent sites in one unconstrained vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm_guides._checks import refuse_other_sizes, refuse_subsampling
from pyrolvm_guides._layout import Layout, inside

__all__ = ["EmptyGuide", "JointGuide"]


class EmptyGuide(PyroModule):
    """The guide of a model without continuous latent sites: it samples nothing and has no parameters.

    Its evidence bound is then the log density of the data itself, once discrete sites are summed out.
    """

    def __init__(self, family: str) -> None:
        super().__init__(family)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Returns an empty draw."""
        return {}


class JointGuide(PyroModule):
    r"""A density :math:`q(z)` on the unconstrained vector, pushed through the sites' bijections.

    The guide samples one auxiliary site with the density of :math:`z`, then every latent site as a point mass at
    :math:`x_i = t_i(z_i)` that carries :math:`-\log|\det \partial t_i/\partial z_i|`. The log probabilities of its
    sites therefore sum to :math:`\log q(x)` exactly.

    Args:
        family: the name for messages and parameters.
        layout: the sites.

    Raises:
        GuideError: if the model subsamples a plate of latent sites.
    """

    def __init__(self, family: str, layout: Layout) -> None:
        super().__init__(family)
        refuse_subsampling(family, layout)
        self.family = family
        self.layout = layout

    def posterior(self) -> dist.TorchDistribution:
        """The density of the unconstrained vector: event shape ``(d,)``, with ``rsample`` and an exact ``log_prob``."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples all latent sites.

        Args:
            *args: the model's arguments.
            **kwargs: the model's keyword arguments.

        Returns:
            The draw, by site name.

        Raises:
            GuideError: if the arguments bring other rows than the guide was built for.
        """
        plates = self.layout.open_plates()
        values = self.unconstrained(plates, args, kwargs)
        draw = {}
        for latent in self.layout.latents:
            with inside(plates, latent):
                draw[latent.name] = pyro.sample(latent.name, latent.point(values[latent.name]))
        return draw

    def unconstrained(self, plates: Mapping[str, pyro.plate], args: Any, kwargs: Any) -> dict[str, Tensor]:
        """Samples the unconstrained vector and cuts it into the sites' unconstrained values, by site name."""
        names = {name for latent in self.layout.latents for name in latent.plates}
        sizes = {name: plates[name].subsample_size for name in names}
        refuse_other_sizes(self.family, self.layout, sizes, args, kwargs)
        z = pyro.sample(f"_{self.family}_z", self.posterior(), infer={"is_auxiliary": True})
        return {latent.name: u for latent, u in self.layout.split(z)}
