"""Gaussians that depend on each other as the model's plates do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, pi, prod
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm import GuideError, Problem
from pyrolvm.family import traits
from pyrolvm_guides._checks import positive
from pyrolvm_guides._frame import best_gaussian, wants_frame
from pyrolvm_guides._joint import EmptyGuide
from pyrolvm_guides._layout import Latent, Layout, inside
from pyrolvm_guides._params import learnable, learnable_positive
from pyrolvm_guides._reading import read_layout
from pyrolvm_guides.mean_field import refuse_unindexed

__all__ = ["structured"]

MOST_COUPLED = 100
"""Up to so many unknowns of outer plates a row depends on them, with two matrices of its own."""

MOST_TRIANGULAR = 500
"""Up to so many unknowns in a row they have a full covariance."""

AT_ONCE = 20_000_000
"""Numbers of draws that are gathered at a time."""


@dataclass(frozen=True)
class _Group:
    """The sites inside one and the same set of plates.

    Attributes:
        key: its number, for names.
        latents: the sites, in model order.
        batch: the plates' sizes along their dimensions, ones between them.
        sizes: how many unknowns each site has in a row.
        outer: the groups whose plates are some of its plates, the outermost first.
    """

    key: int
    latents: tuple[Latent, ...]
    batch: tuple[int, ...]
    sizes: tuple[int, ...]
    outer: tuple[_Group, ...]

    @property
    def width(self) -> int:
        """How many unknowns a row has."""
        return sum(self.sizes)

    @property
    def coupled(self) -> int:
        """On how many unknowns of outer groups a row depends."""
        total = sum(group.width for group in self.outer)
        return total if total <= MOST_COUPLED else 0

    @property
    def triangular(self) -> bool:
        """Whether the unknowns of a row have a covariance matrix."""
        return 1 < self.width <= MOST_TRIANGULAR

    def places(self) -> Tensor:
        """Where the unknowns of each row are in the unconstrained vector, shape ``(*batch, width)``."""
        return torch.cat([torch.arange(one.start, one.stop).reshape(*self.batch, -1) for one in self.latents], dim=-1)


class _Structured(PyroModule):
    scores_cheaply = True

    def __init__(self, layout: Layout, init_scale: float, framed: bool) -> None:
        super().__init__("structured")
        self.layout = layout
        self.framed = framed
        self.modes = 0
        self.groups = _groups(layout)
        for group in self.groups:
            loc = layout.start[group.places()]
            self._set(group, "loc", learnable(loc, event_dim=1))
            self._set(group, "scale", learnable_positive(torch.full_like(loc, init_scale), event_dim=1))
            if group.triangular:
                self._set(group, "tril", learnable(loc.new_zeros(*loc.shape, group.width), event_dim=2))
            if group.coupled:
                for name in ("shift", "stretch"):
                    self._set(group, name, learnable(loc.new_zeros(*loc.shape, group.coupled), event_dim=2))

    def _set(self, group: _Group, name: str, value: Any) -> None:
        setattr(self, f"{name}_{group.key}", value)

    def _get(self, group: _Group, name: str) -> Tensor:
        value: Tensor = getattr(self, f"{name}_{group.key}")
        return value

    def prepare(self, problem: Problem, *, seed: int) -> None:
        """Starts at the conditional Gaussians of the posterior's best Gaussian."""
        found = best_gaussian(problem, seed=seed) if self.framed else None
        if found is None:
            return
        self.modes = found[0]
        mean, covariance = (torch.as_tensor(one).to(self.layout.start) for one in found[1:])
        for group in self.groups:
            both = self._with_outer(group)
            self._condition(group, mean[group.places()], covariance[both[..., :, None], both[..., None, :]])

    def take_draws(self, draws: Tensor) -> None:
        """Becomes the Gaussian of this form with the moments of draws of the unconstrained vector, shape ``(D, n)``."""
        mean = draws.mean(0)
        away = draws - mean
        for group in self.groups:
            both = self._with_outer(group)
            rows = both.reshape(-1, both.shape[-1])
            parts = rows.split(max(1, AT_ONCE // (len(draws) * rows.shape[1])))
            covariance = torch.cat([_covariance(away[:, part]) for part in parts])
            self._condition(group, mean[group.places()], covariance.reshape(*both.shape, both.shape[-1]))

    def _with_outer(self, group: _Group) -> Tensor:
        """Where the unknowns are that a row depends on, and its own, shape ``(*batch, coupled + width)``."""
        own = group.places()
        outer = group.outer if group.coupled else ()
        return torch.cat([*(one.places().expand(*group.batch, -1) for one in outer), own], dim=-1)

    def _condition(self, group: _Group, mean: Tensor, covariance: Tensor) -> None:
        """Sets a group to the law of its rows given those around, of which these are the moments."""
        lower, failed = torch.linalg.cholesky_ex(covariance)
        if failed.any():
            return
        before = covariance.shape[-1] - group.width
        within = lower[..., before:, before:]
        scale = within.diagonal(dim1=-2, dim2=-1)
        self._copy(group, "loc", mean)
        self._copy(group, "scale", scale.log(), suffix="_unconstrained")
        if group.triangular:
            self._copy(group, "tril", within / scale[..., None])
        if group.coupled:
            self._copy(group, "shift", lower[..., before:, :before] / scale[..., None])

    @torch.no_grad()
    def _copy(self, group: _Group, name: str, value: Tensor, suffix: str = "") -> None:
        getattr(self, f"{name}_{group.key}{suffix}").copy_(value)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples all latent sites.

        Raises:
            GuideError: if a slice of the data comes without the indices of its rows.
        """
        plates = self.layout.open_plates()
        refuse_unindexed("structured", self.layout, plates, args, kwargs)
        noises: dict[int, Tensor] = {}
        values: dict[str, Tensor] = {}
        for group in self.groups:
            with inside(plates, group.latents[0]):
                law = self._law(group, noises)
                u = pyro.sample(f"_structured_{group.key}", law, infer={"is_auxiliary": True})
            noises[group.key] = law.noise(u)
            for latent, part in zip(group.latents, u.split(group.sizes, -1), strict=True):
                event = latent.u_shape[len(latent.u_shape) - latent.u_event_dim :]
                values[latent.name] = part.reshape(part.shape[:-1] + event)
        draw = {}
        for latent in self.layout.latents:
            with inside(plates, latent):
                draw[latent.name] = pyro.sample(latent.name, latent.point(values[latent.name]))
        return draw

    def _law(self, group: _Group, noises: Mapping[int, Tensor]) -> _Rows:
        """The law of a group's rows given the noise of those around them."""
        loc, scale = self._get(group, "loc"), self._get(group, "scale")
        if group.coupled:
            above = _joined([noises[outer.key] for outer in group.outer])[..., None]
            loc = loc + scale * (self._get(group, "shift") @ above)[..., 0]
            scale = scale * (self._get(group, "stretch") @ above)[..., 0].exp()
        return _Rows(loc, scale, self._get(group, "tril").tril(-1) if group.triangular else None)


class _Rows(dist.TorchDistribution):
    r"""The law of :math:`m + s \odot (I + T) \epsilon` in each row.

    Args:
        loc: m, shape ``(..., d)``.
        scale: s, the same shape.
        lower: T, strictly lower triangular, shape ``(..., d, d)``, or ``None`` for zero.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, lower: Tensor | None) -> None:
        self.loc, self.scale, self.lower = loc, scale, lower
        self._drawn: list[tuple[Tensor, Tensor]] = []
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Rows:
        """The same law for another number of independent copies, which knows of the same draw."""
        batch = torch.Size(batch_shape)
        if batch == self.batch_shape:
            return self
        loc, scale = (part.expand(batch + self.event_shape) for part in (self.loc, self.scale))
        other = _Rows(loc, scale, self.lower)
        other._drawn = self._drawn
        return other

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        """Draws ``(*sample_shape, *batch_shape, d)``."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        bent = noise if self.lower is None else noise + (self.lower @ noise[..., None])[..., 0]
        value = self.loc + self.scale * bent
        self._drawn[:] = [(value, noise)]
        return value

    def noise(self, value: Tensor) -> Tensor:
        """The noise that a value is the image of, shape ``(..., d)``."""
        for drawn, noise in self._drawn:
            if drawn is value:
                return noise
        bent = (value - self.loc) / self.scale
        if self.lower is None:
            return bent
        unit = self.lower + torch.eye(bent.shape[-1], dtype=bent.dtype, device=bent.device)
        solved: Tensor = torch.linalg.solve_triangular(unit, bent[..., None], upper=False, unitriangular=True)[..., 0]
        return solved

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, shape ``(...)`` for values of shape ``(..., d)``."""
        squares = self.noise(value) ** 2 + log(2 * pi)
        return -(0.5 * squares + self.scale.log()).sum(-1)


def _covariance(away: Tensor) -> Tensor:
    """The covariance in each row of what draws are away from their mean, shape ``(R, k, k)`` of ``(D, R, k)``."""
    return torch.einsum("dri,drj->rij", away, away) / (len(away) - 1)


def _joined(noises: Sequence[Tensor]) -> Tensor:
    """Noises of nested plates side by side: rows of an outer plate are repeated for those of an inner one."""
    if len(noises) == 1:
        return noises[0]
    batch = np.broadcast_shapes(*[noise.shape[:-1] for noise in noises])
    return torch.cat([noise.expand(*batch, noise.shape[-1]) for noise in noises], dim=-1)


def _groups(layout: Layout) -> tuple[_Group, ...]:
    """The sites by the plates around them, outer plates first."""
    by_plates: dict[frozenset[str], list[Latent]] = {}
    for latent in layout.latents:
        by_plates.setdefault(frozenset(latent.plates), []).append(latent)
    found: dict[frozenset[str], _Group] = {}
    for plates in sorted(by_plates, key=len):
        rows = {layout.plates[name].dim: layout.plates[name].size for name in plates}
        batch = tuple(rows.get(dim, 1) for dim in range(min(rows, default=0), 0))
        latents = by_plates[plates]
        for latent in latents:
            if latent.numel % prod(batch) or prod(latent.u_shape[: len(latent.u_shape) - latent.u_event_dim]) != prod(
                batch
            ):
                raise GuideError(
                    f"site {latent.name!r} has shape {latent.shape}, of which a batch dimension is in no plate, so that guide "
                    "'structured' cannot tell its rows. Fix: declare it by .to_event(), or by a pyro.plate around the site."
                )
        outer = tuple(group for other, group in found.items() if other < plates)
        sizes = tuple(latent.numel // prod(batch) for latent in latents)
        found[plates] = _Group(len(found), tuple(latents), batch, sizes, outer)
    return tuple(found.values())


@traits(one_mode=True)
def structured(
    problem: Problem, *, init_scale: float = 0.1, precondition: str = "auto", init: Mapping[str, Any] | None = None
) -> PyroModule:
    r"""Gaussians that depend on each other as the model's plates do.

    .. math::
        g &= m + S\, T \epsilon_0 \\
        z_n &= m_n + S_n \bigl(B_n \epsilon_0 + e^{C_n \epsilon_0} \odot T_n \epsilon_n\bigr),
        \qquad \epsilon_0, \epsilon_n \sim \mathrm{Normal}(0, I)

    in unconstrained space, for global unknowns :math:`g` and those :math:`z_n` of row :math:`n` of a plate: given the globals, rows are
    independent, as they are in the posterior of a hierarchical model; the mean of a row moves with the globals, and the logarithms
    of its scales do, which is a funnel. Rows of inner plates depend on those of the plates around them likewise. The number of
    parameters grows in proportion to the rows. Plates may be subsampled: the rows of a minibatch are picked by its indices.

    *It cannot represent* dependence between rows given the outer unknowns (time series, crossed plates), skewness, other tails, or
    several modes. A row with more than 100 unknowns around it does not depend on them.

    Args:
        problem: the model with its data.
        init_scale: the initial standard deviation of every unknown.
        precondition: ``"frame"`` starts at the conditionals of the posterior's best Gaussian, found by ascents and natural
            gradients; ``"none"`` near the prior's median; ``"auto"`` takes the former up to 500 unknowns (for a sample of
            rows beyond 50,000 observed numbers), unless ``init`` says where to start or the model has parameters to
            learn.
        init: constrained values to start at, by site name; other sites start near their prior median.

    Returns:
        A guide called like the model.

    Raises:
        ArgumentError: if an option is out of range.
        GuideError: if a site has batch dimensions that are in no plate.

    References:
        Tan, Bhaskaran, Nott, *Conditionally structured variational Gaussian approximation with importance weights*,
        https://arxiv.org/abs/1904.09591;
        Agrawal and Domke, *Amortized Variational Inference for Simple Hierarchical Models*, https://arxiv.org/abs/2111.03144
    """
    scale = positive("init_scale", init_scale)
    layout = read_layout(problem, init=init)
    framed = wants_frame(precondition, problem, init)
    return _Structured(layout, scale, framed) if layout.latents else EmptyGuide("structured")
