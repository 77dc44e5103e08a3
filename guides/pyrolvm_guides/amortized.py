"""An encoder network for local latent variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm import ArgumentError, GuideError, Problem
from pyrolvm.family import traits
from pyrolvm_guides._checks import at_least, choice, hidden_sizes, positive, refuse_subsampling
from pyrolvm_guides._encoders import ENCODERS, encoder
from pyrolvm_guides._features import Features, row_plates
from pyrolvm_guides._joint import EmptyGuide
from pyrolvm_guides._layout import Latent, Layout, inside
from pyrolvm_guides._pushforward import PushForward
from pyrolvm_guides._reading import read_layout
from pyrolvm_guides._row_flows import ROW_FLOWS, Conditioned, row_flows
from pyrolvm_guides._row_mixture import WIDTH, Components, RowMixture
from pyrolvm_guides.full_rank import FullRank
from pyrolvm_guides.mean_field import MeanField

__all__ = ["Amortized", "amortized", "encoder_of"]

POSTERIORS = ("diagonal", "full_rank", "mixture", *ROW_FLOWS)
"""Families of the latent variables of one row."""

COMPONENTS = 4
"""Gaussians of a row's mixture where nobody says how many."""

APART = 0.5
"""The standard deviation of where they start, in those of the prior."""


class Amortized(PyroModule):
    """An encoder for the rows of a plate, and a family of its own for what lies outside; see :func:`amortized`.

    Args:
        layout: the model's layout.
        plate: the plate whose rows are encoded.
        features: what the encoder reads.
        hidden: sizes of its hidden layers.
        global_family: the family of latent variables outside the plate.
        init_scale: the initial standard deviation of every unknown.
        network: the kind of encoder.
        image: height and width of a row, for a convolutional one.
        posterior: the family of the latent variables of a row.
        transforms: layers of a flow.
        components: Gaussians of a mixture.

    Attributes:
        strata: how many kinds of draws of a row there are, which several draws at once take in turn; 0 of families but the mixture.
    """

    def __init__(
        self,
        layout: Layout,
        plate: str,
        features: Features,
        hidden: Sequence[int],
        global_family: str,
        init_scale: float,
        network: str,
        image: Sequence[int] | None,
        posterior: str,
        transforms: int,
        components: int,
    ) -> None:
        super().__init__("amortized")
        self.layout = layout
        self.plate = plate
        self.features = features
        self.posterior = posterior
        self.strata = components if posterior == "mixture" else 0
        local = [latent for latent in layout.latents if plate in latent.plates]
        self.local = {latent.name: i for i, latent in enumerate(local)}
        for latent in local:
            refuse_subsampling("amortized", _without(layout.only([latent]), plate))
        starts = _rows_of(layout.start, local, layout, plate)
        centre = _mean_row(starts)
        self.sizes = [start[0].numel() for start in starts]
        size = len(centre)
        output = [centre, torch.full_like(centre, log(init_scale))]
        if posterior == "full_rank":
            self.register_buffer("below", torch.tril_indices(size, size, -1, device=centre.device))
            output.append(centre.new_zeros(self.below.shape[1]))
        if posterior == "mixture":
            output.append(centre.new_zeros(WIDTH))
            spread = _mean_row(_rows_of(layout.spread, local, layout, plate)).clamp(max=2.0)
            self.components = Components(components, APART * spread)
        if posterior in ROW_FLOWS:
            output.append(centre.new_zeros(hidden[-1]))  # what the flows are told of the row
            self.flows = row_flows(posterior, size, transforms, hidden[-1], hidden[-1], centre)
        if posterior != "diagonal":
            _check_one_axis(local, layout, plate, posterior)
        self.cuts = [len(part) for part in output]
        self.encoder = encoder(network, features.width, hidden, torch.cat(output), image)
        rest = layout.only([latent for latent in layout.latents if plate not in latent.plates])
        if not rest.latents:
            self.rest: PyroModule | None = None
        elif global_family == "full_rank":
            self.rest = FullRank(rest, init_scale)
        else:
            self.rest = MeanField("globals", rest, init_scale)

    def prepare(self, problem: Problem, *, seed: int) -> None:
        """Scales what the encoder reads. A fit keeps what this changes: one that was saved before reads as it was fitted."""
        self.features.even(problem)

    def encode(self, indices: Any, args: Any, kwargs: Any) -> list[Tensor]:
        """What the encoder says of the rows of this call: location and scale ``(b, d)``, and what else the family takes."""
        loc, log_scale, *more = self.encoder(self.features(indices, args, kwargs)).split(self.cuts, dim=-1)
        return [loc, log_scale.exp(), *more]

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples all latent sites, and returns the draw by site name."""
        plates = self.layout.open_plates(rows={self.plate: self.features.count(args, kwargs)})
        with plates[self.plate] as indices:
            pass
        rows = self.rows(plates, self.encode(indices, args, kwargs), indices)
        joint = self.rest.unconstrained(plates, args, kwargs) if isinstance(self.rest, FullRank) else {}
        draw = {}
        for latent in self.layout.latents:
            if latent.name in self.local:
                with inside(plates, latent):
                    draw[latent.name] = pyro.sample(latent.name, rows[latent.name])
            elif isinstance(self.rest, MeanField):
                draw[latent.name] = self.rest.sample(latent, plates)
            else:
                with inside(plates, latent):
                    draw[latent.name] = pyro.sample(latent.name, latent.point(joint[latent.name]))
        return draw

    def rows(
        self, plates: Mapping[str, pyro.plate], encoded: Sequence[Tensor], numbers: Tensor | None = None
    ) -> dict[str, dist.TorchDistribution]:
        """The distribution of every local site; of a family that joins sites, point masses at a draw of all of them.

        Args:
            plates: the opened plates.
            encoded: what the encoder says of the rows.
            numbers: of the rows among all, shape ``(b,)``.
        """
        local = [latent for latent in self.layout.latents if latent.name in self.local]
        loc, scale = encoded[:2]
        if self.posterior == "diagonal":
            blocks = zip(loc.split(self.sizes, dim=-1), scale.split(self.sizes, dim=-1), strict=True)
            return {
                latent.name: latent.distribution(*(self._shape(latent, part) for part in block))
                for latent, block in zip(local, blocks, strict=True)
            }
        law: dist.TorchDistribution
        if self.posterior == "full_rank":
            law = dist.MultivariateNormal(loc, scale_tril=self._tril(scale, encoded[2]))
        elif self.posterior == "mixture":
            locs, scales = self.components(loc, scale, encoded[2])
            law = RowMixture(locs, scales, numbers=numbers)
        else:
            layers: list[Any] = list(self.flows)
            flow = Conditioned(loc, scale, encoded[2], layers)
            law = PushForward(flow, loc.shape[-1], loc, batch_shape=loc.shape[:-1])
        if self.posterior not in ROW_FLOWS and len(local) == 1 and _is_real_vector(local[0]):
            return {local[0].name: law}
        with inside(plates, local[0]):
            z = pyro.sample("_amortized_z", law, infer={"is_auxiliary": True})
        return {
            latent.name: latent.point(u.reshape(*u.shape[:-1], *latent.u_shape[1:]))
            for latent, u in zip(local, z.split(self.sizes, dim=-1), strict=True)
        }

    def _tril(self, scale: Tensor, below: Tensor) -> Tensor:
        """The Cholesky factor of each row, ``(b, d, d)``: rows of a unit triangular matrix in units of the scales."""
        row, column = self.below
        size = scale.shape[-1]
        place = torch.zeros(len(row), size * size, dtype=below.dtype, device=below.device)
        place[torch.arange(len(row)), row * size + column] = 1.0
        unit = (below @ place).reshape(*below.shape[:-1], size, size) + torch.eye(size).to(below)
        return scale[..., :, None] * unit

    def _shape(self, latent: Latent, block: Tensor) -> Tensor:
        axis = _axis(latent, self.layout, self.plate)
        rest = [n for i, n in enumerate(latent.u_shape) if i != axis % len(latent.u_shape)]
        return block.reshape(len(block), *rest).movedim(0, axis)


def _is_real_vector(latent: Latent) -> bool:
    real = latent.support
    while isinstance(real, torch.distributions.constraints.independent):
        real = real.base_constraint
    return latent.event_dim == latent.u_event_dim == 1 and real is torch.distributions.constraints.real


def _check_one_axis(local: Sequence[Latent], layout: Layout, plate: str, posterior: str) -> None:
    """Refuses local sites whose rows are not the only batch dimension.

    Raises:
        GuideError: naming the site.
    """
    for latent in local:
        if latent.plates != (plate,) or _axis(latent, layout, plate) % len(latent.u_shape):
            raise GuideError(
                f"posterior={posterior!r} joins the latent variables of a row, and site {latent.name!r} has more batch dimensions "
                f'than that of plate {plate!r}. Fix: use posterior="diagonal".'
            )


def _axis(latent: Latent, layout: Layout, plate: str) -> int:
    return layout.plates[plate].dim - latent.u_event_dim


def _rows_of(u: Tensor, local: Sequence[Latent], layout: Layout, plate: str) -> list[Tensor]:
    """The part of each local site in a vector of all unknowns, rows first."""
    parts = [(latent, u[latent.start : latent.stop].reshape(latent.u_shape)) for latent in local]
    return [part.movedim(_axis(latent, layout, plate), 0) for latent, part in parts]


def _mean_row(parts: Sequence[Tensor]) -> Tensor:
    """The mean over rows, all sites one after the other."""
    return torch.cat([part.mean(0).reshape(-1) for part in parts])


def _without(layout: Layout, plate: str) -> Layout:
    """The layout as if ``plate`` were not subsampled."""
    rows = layout.plates[plate]
    return replace(layout, plates={**layout.plates, plate: replace(rows, subsample_size=rows.size)})


@traits(richer="")
def amortized(
    problem: Problem,
    *,
    hidden: Sequence[int] = (64, 64),
    global_family: str = "mean_field",
    plate: str | None = None,
    posterior: str = "diagonal",
    transforms: int = 2,
    components: int | None = None,
    network: str = "mlp",
    image: Sequence[int] | None = None,
    init_scale: float = 0.1,
    init: Mapping[str, Any] | None = None,
) -> PyroModule:
    r"""A network that reads a row of data and gives the distribution of that row's latent variables.

    .. math:: q(z, \theta) = q(\theta)
        \prod_n \mathrm{Normal}\bigl(z_n;\ m_\phi(y_n), \mathrm{diag}\, s_\phi(y_n)^2\bigr)

    in unconstrained space, for local latent variables :math:`z_n` in one plate and global ones :math:`\theta`. The
    number of parameters does not grow with the data, minibatches need no bookkeeping, and new rows can be encoded.
    ``posterior`` makes the distribution of a row richer: with ``"full_rank"`` the network gives a covariance as well, and with a flow
    the Gaussian is bent by layers that are told of the row: inverse autoregressive (``"iaf"``), RealNVP (``"coupling"``) or planar.
    With ``"mixture"`` it is an equal mixture of diagonal Gaussians,

    .. math:: q(z_n) = \frac1A \sum_{a=1}^A \mathrm{Normal}\bigl(z_n;\ m_\phi(y_n, a), \mathrm{diag}\, s_\phi(y_n, a)^2\bigr)

    from one network whose last layer is told :math:`a`, so that a further component has hardly any parameters. The density is the
    marginal one. Several draws of a row in a step (``num_particles``) are of its components in turn, from one at random: of each once
    where there are as many. That has no bias whatever the number, and less noise than draws of random components. One draw a step is
    the cheapest: the decoder runs for each draw, and a further component costs little more than its density.

    The network reads every tensor argument of the model whose leading dimension is the plate's size, flattened and
    standardised with the mean and standard deviation of the data the guide was built for (clipped to 10 deviations); columns with two
    values, such as binary pixels, with half of the distance between them, so that a rare one is not far from all others.
    If no argument has one row for each element of the plate, it reads the observed sites inside the plate. Local
    sites are sampled directly, so under ``TraceMeanField_ELBO`` divergences from Normal priors are analytic.

    *It cannot represent* dependence among the latent variables of a row (unless ``posterior`` is another), between rows, or of a row
    on the globals; it is further from the posterior than ``mean_field`` with a location and scale of its own for every row, by what the
    network cannot express (the amortisation gap).

    Args:
        problem: the model with its data.
        hidden: sizes of the encoder's hidden layers.
        global_family: the family of latent variables outside the plate, ``"mean_field"`` or ``"full_rank"``.
        plate: the plate whose latent variables are encoded; the largest one with latent sites and data if not given.
        posterior: the family of a row: ``"diagonal"``, ``"full_rank"``, ``"mixture"``, ``"iaf"``, ``"coupling"`` or ``"planar"``.
        transforms: layers of a flow.
        components: Gaussians :math:`A` of a row's mixture; 4 if not given.
        network: ``"mlp"``, ``"gated"``, or ``"convolutional"`` where a row is an image whose sides are multiples of 4; its number of
            channels is an eighth of the last of ``hidden``.
        image: height and width of a row; by default it is square.
        init_scale: the initial standard deviation of every unknown.
        init: constrained values to start at, by site name; other sites start near their prior median.

    Returns:
        A guide called like the model.

    Raises:
        ArgumentError: if an option is out of range.
        GuideError: if no plate has both latent sites and data, or its rows do not suit the network or the family.

    References:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, https://arxiv.org/abs/1312.6114;
        Rezende and Mohamed, *Variational Inference with Normalizing Flows*, https://arxiv.org/abs/1505.05770;
        Kingma et al., *Improved Variational Inference with Inverse Autoregressive Flow*, https://arxiv.org/abs/1606.04934;
        Morningstar et al., *Automatic Differentiation Variational Inference with Mixtures*, https://arxiv.org/abs/2003.01687 (draws of
        each component in turn);
        Kviman et al., *Cooperation in the Latent Space*, https://arxiv.org/abs/2209.15514 (mixtures of encoders);
        Hotti, Kviman et al., *Efficient Mixture Learning in Black-Box Variational Inference*, https://arxiv.org/abs/2406.07083 (one
        network for all components)
    """
    parts = encoder_of(
        problem, "amortized", hidden=hidden, global_family=global_family, plate=plate, posterior=posterior, transforms=transforms,
        components=components, network=network, image=image, init_scale=init_scale, init=init,
    )  # fmt: skip
    return EmptyGuide("amortized") if parts is None else Amortized(*parts)


def encoder_of(
    problem: Problem,
    family: str,
    *,
    hidden: Sequence[int],
    global_family: str,
    plate: str | None,
    posterior: str,
    transforms: int,
    components: int | None,
    network: str,
    image: Sequence[int] | None,
    init_scale: float,
    init: Mapping[str, Any] | None,
) -> tuple[Any, ...] | None:
    """What :class:`Amortized` is made of, checked; ``None`` where the model has no continuous latent site.

    Raises:
        ArgumentError: if an option is out of range.
        GuideError: if no plate has both latent sites and data.
    """
    scale = positive("init_scale", init_scale)
    sizes = hidden_sizes("hidden", hidden)
    choice("global_family", global_family, ("mean_field", "full_rank"))
    choice("posterior", posterior, POSTERIORS)
    choice("network", network, ENCODERS)
    count = at_least("transforms", transforms)
    parts = at_least("components", COMPONENTS if components is None else components)
    if components is not None and posterior != "mixture":
        raise ArgumentError(
            f"components={components} is of a mixture, and posterior is {posterior!r}. "
            'Fix: pass posterior="mixture", or leave components out.'
        )
    layout = read_layout(problem, init=init)
    if not layout.latents:
        return None
    names = row_plates(layout, problem)
    if plate is not None and plate not in names:
        raise GuideError(
            f"plate {plate!r} does not have both latent sites and row-aligned data. "
            f'Fix: use one of {", ".join(map(repr, names)) or "(none)"}, or guide="mean_field".'
        )
    if not names:
        raise GuideError(
            f"guide {family!r} encodes latent sites of a plate from the data in that plate, and no plate has both "
            f"(latent sites: {', '.join(latent.name for latent in layout.latents)}). "
            'Fix: use guide="mean_field" or "full_rank".'
        )
    chosen = plate or names[0]
    read = Features(layout, problem, chosen)
    return layout, chosen, read, sizes, global_family, scale, network, image, posterior, count, parts
