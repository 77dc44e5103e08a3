"""An encoder network for local latent variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm import GuideError, Problem
from pyrolvm_guides._checks import choice, hidden_sizes, positive, refuse_subsampling
from pyrolvm_guides._features import Features, row_plates
from pyrolvm_guides._joint import EmptyGuide
from pyrolvm_guides._layout import Latent, Layout, inside
from pyrolvm_guides._networks import Network
from pyrolvm_guides._reading import read_layout
from pyrolvm_guides.full_rank import FullRank
from pyrolvm_guides.mean_field import MeanField

__all__ = ["amortized"]


class _Amortized(PyroModule):
    def __init__(
        self,
        layout: Layout,
        plate: str,
        features: Features,
        hidden: Sequence[int],
        global_family: str,
        init_scale: float,
    ) -> None:
        super().__init__("amortized")
        self.layout = layout
        self.plate = plate
        self.features = features
        local = [latent for latent in layout.latents if plate in latent.plates]
        self.local = {latent.name: i for i, latent in enumerate(local)}
        for latent in local:
            refuse_subsampling("amortized", _without(layout.only([latent]), plate))
        starts = [
            _by_row(latent, layout.start[latent.start : latent.stop].reshape(latent.u_shape), layout, plate)
            for latent in local
        ]
        centre = torch.cat([start.mean(0).reshape(-1) for start in starts])
        self.sizes = [start[0].numel() for start in starts]
        output = torch.cat([centre, torch.full_like(centre, log(init_scale))])
        self.encoder = Network(features.width, hidden, len(output), like=centre, output=output, output_gain=0.1)
        rest = layout.only([latent for latent in layout.latents if plate not in latent.plates])
        if not rest.latents:
            self.rest: PyroModule | None = None
        elif global_family == "full_rank":
            self.rest = FullRank(rest, init_scale)
        else:
            self.rest = MeanField("globals", rest, init_scale)

    def encode(self, indices: Any, args: Any, kwargs: Any) -> list[tuple[Tensor, Tensor]]:
        """Location and scale of every local site, in unconstrained space, for the rows of this call."""
        loc, log_scale = self.encoder(self.features(indices, args, kwargs)).chunk(2, dim=-1)
        scale = log_scale.exp()
        blocks = zip(loc.split(self.sizes, dim=-1), scale.split(self.sizes, dim=-1), strict=True)
        return list(blocks)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        plates = self.layout.open_plates(rows={self.plate: self.features.count(args, kwargs)})
        with plates[self.plate] as indices:
            pass
        encoded = self.encode(indices, args, kwargs)
        joint = self.rest.unconstrained(plates, args, kwargs) if isinstance(self.rest, FullRank) else {}
        draw = {}
        for latent in self.layout.latents:
            if latent.name in self.local:
                loc, scale = (self._shape(latent, block) for block in encoded[self.local[latent.name]])
                with inside(plates, latent):
                    draw[latent.name] = pyro.sample(latent.name, latent.distribution(loc, scale))
            elif isinstance(self.rest, MeanField):
                draw[latent.name] = self.rest.sample(latent, plates)
            else:
                with inside(plates, latent):
                    draw[latent.name] = pyro.sample(latent.name, latent.point(joint[latent.name]))
        return draw

    def _shape(self, latent: Latent, block: Tensor) -> Tensor:
        axis = _axis(latent, self.layout, self.plate)
        rest = [n for i, n in enumerate(latent.u_shape) if i != axis % len(latent.u_shape)]
        return block.reshape(len(block), *rest).movedim(0, axis)


def _axis(latent: Latent, layout: Layout, plate: str) -> int:
    return layout.plates[plate].dim - latent.u_event_dim


def _by_row(latent: Latent, value: Tensor, layout: Layout, plate: str) -> Tensor:
    return value.movedim(_axis(latent, layout, plate), 0)


def _without(layout: Layout, plate: str) -> Layout:
    """The layout as if ``plate`` were not subsampled."""
    rows = layout.plates[plate]
    return replace(layout, plates={**layout.plates, plate: replace(rows, subsample_size=rows.size)})


def amortized(
    problem: Problem,
    *,
    hidden: Sequence[int] = (64, 64),
    global_family: str = "mean_field",
    plate: str | None = None,
    init_scale: float = 0.1,
    init: Mapping[str, Any] | None = None,
) -> PyroModule:
    r"""A network that reads a row of data and gives the Gaussian of that row's latent variables.

    .. math:: q(z, \theta) = q(\theta)
        \prod_n \mathrm{Normal}\bigl(z_n;\ m_\phi(y_n), \mathrm{diag}\, s_\phi(y_n)^2\bigr)

    in unconstrained space, for local latent variables :math:`z_n` in one plate and global ones :math:`\theta`. The
    number of parameters does not grow with the data, minibatches need no bookkeeping, and new rows can be encoded.

    The network reads every tensor argument of the model whose leading dimension is the plate's size, flattened and
    standardised with the mean and standard deviation of the data the guide was built for (clipped to 10 deviations).
    If no argument has one row for each element of the plate, it reads the observed sites inside the plate. Local
    sites are sampled directly, so under ``TraceMeanField_ELBO`` divergences from Normal priors are analytic.

    *It cannot represent* dependence among the latent variables of a row, between rows, or of a row on the globals; it
    is further from the posterior than ``mean_field`` with a location and scale of its own for every row, by what the
    network cannot express (the amortisation gap).

    Args:
        problem: the model with its data.
        hidden: sizes of the encoder's hidden layers.
        global_family: the family of latent variables outside the plate, ``"mean_field"`` or ``"full_rank"``.
        plate: the plate whose latent variables are encoded; the largest one with latent sites and data if not given.
        init_scale: the initial standard deviation of every unknown.
        init: constrained values to start at, by site name; other sites start near their prior median.

    Returns:
        A guide called like the model.

    Raises:
        ArgumentError: if an option is out of range.
        GuideError: if no plate has both latent sites and data.

    References:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, https://arxiv.org/abs/1312.6114
    """
    scale = positive("init_scale", init_scale)
    sizes = hidden_sizes("hidden", hidden)
    family = choice("global_family", global_family, ("mean_field", "full_rank"))
    layout = read_layout(problem, init=init)
    if not layout.latents:
        return EmptyGuide("amortized")
    names = row_plates(layout, problem)
    if plate is not None and plate not in names:
        raise GuideError(
            f"plate {plate!r} does not have both latent sites and row-aligned data. "
            f'Fix: use one of {", ".join(map(repr, names)) or "(none)"}, or guide="mean_field".'
        )
    if not names:
        raise GuideError(
            "guide 'amortized' encodes latent sites of a plate from the data in that plate, and no plate has both "
            f"(latent sites: {', '.join(latent.name for latent in layout.latents)}). "
            'Fix: use guide="mean_field" or "full_rank".'
        )
    chosen = plate or names[0]
    return _Amortized(layout, chosen, Features(layout, problem, chosen), sizes, family, scale)
