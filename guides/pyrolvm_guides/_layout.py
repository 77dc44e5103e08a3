"""What a guide must know of a model: its continuous latent sites, laid out in one unconstrained vector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions.transforms import ExpTransform, Transform

from pyrolvm import family

__all__ = ["Latent", "Layout", "Rows", "argument_shapes", "bijection", "inside"]


@dataclass(frozen=True)
class Rows:
    """A vectorised plate: ``size`` rows along batch dimension ``dim``, of which the model takes ``subsample_size``."""

    name: str
    size: int
    dim: int
    subsample_size: int

    def open(self) -> pyro.plate:
        """The plate as the guide declares it; the guide runs first, so here its rows are drawn."""
        return pyro.plate(self.name, self.size, subsample_size=self.subsample_size, dim=self.dim)


@dataclass(frozen=True)
class Latent:
    r"""One continuous latent site.

    Its value :math:`x` of shape ``shape`` is :math:`x = t(u)` with :math:`u` of shape ``u_shape`` free on the real
    line; :math:`t` is ``biject_to(support)``.

    Attributes:
        name: the site's name.
        shape: its shape on full data, batch then event dimensions.
        event_dim: how many of them are event dimensions.
        support: the constraint on its value.
        plates: the names of the plates around it.
        transform: the bijection :math:`t`.
        u_shape: the unconstrained shape on full data.
        u_event_dim: the event dimensions among ``u_shape``.
        start: where its block begins in the unconstrained vector.
    """

    name: str
    shape: tuple[int, ...]
    event_dim: int
    support: Any
    plates: tuple[str, ...]
    transform: Transform
    u_shape: tuple[int, ...]
    u_event_dim: int
    start: int

    @property
    def numel(self) -> int:
        """The number of unconstrained coordinates."""
        return prod(self.u_shape)

    @property
    def stop(self) -> int:
        """Where its block ends in the unconstrained vector."""
        return self.start + self.numel

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """The law of :math:`t(u)` for independent normal coordinates of :math:`u`, with its exact density.

        Where the support is the real line this is a plain ``Normal``, so that Pyro finds analytic divergences.

        Args:
            loc: means of :math:`u`, shape ``u_shape`` up to its batch dimensions.
            scale: standard deviations, same shape.
        """
        base_support = self.support
        while isinstance(base_support, torch.distributions.constraints.independent):
            base_support = base_support.base_constraint
        normal = dist.Normal(loc, scale)
        if base_support is torch.distributions.constraints.real:
            return normal.to_event(self.event_dim)
        transform = bijection(base_support).with_cache(1)
        pushed = dist.TransformedDistribution(normal.to_event(transform.domain.event_dim), [transform])
        return pushed.to_event(self.event_dim - transform.codomain.event_dim)

    def point(self, u: Tensor, log_slope: Tensor | None = None) -> dist.Delta:
        r"""A point mass at :math:`t(u)` that carries :math:`-\log|\det \partial t/\partial u|` as its log density.

        Together with a density on :math:`u` elsewhere in the guide this makes the sum of the guide's log
        probabilities the exact log density on the constrained scale.

        Args:
            u: the unconstrained value.
            log_slope: the logarithms of the slopes of ``u`` itself, elementwise, where it is the image of other coordinates.
        """
        value = self.transform(u)
        log_det = self.transform.log_abs_det_jacobian(u, value)
        log_det = sum_rightmost(log_det, log_det.dim() - (u.dim() - self.u_event_dim))
        if log_slope is not None:
            log_det = log_det + sum_rightmost(log_slope.expand_as(u), self.u_event_dim)
        return dist.Delta(value, log_density=-log_det, event_dim=self.event_dim)


@dataclass(frozen=True)
class Layout:
    """The continuous latent sites of a problem, in model order, and where a guide for them starts.

    Attributes:
        latents: the sites.
        plates: the plates around them, by name.
        start: the unconstrained start, shape ``(d,)``, in the problem's dtype and on its device.
        spread: the prior's standard deviation of each coordinate, from quantiles, shape ``(d,)``.
        arguments: the model's arguments at build time by position or name, those with a shape or an integer value.
        observed: for every observed site its value, its event dimension and the names of the plates around it.
        dtype: the floating dtype of the guide's parameters.
        device: where they live.
    """

    latents: tuple[Latent, ...]
    plates: Mapping[str, Rows]
    start: Tensor
    spread: Tensor
    arguments: Mapping[str, tuple[int, ...]]
    observed: Mapping[str, tuple[Tensor, int, tuple[str, ...]]]
    dtype: torch.dtype
    device: torch.device

    @property
    def size(self) -> int:
        """The length of the unconstrained vector."""
        return sum(latent.numel for latent in self.latents)

    def only(self, latents: Sequence[Latent]) -> Layout:
        """The layout of some of the sites, renumbered from zero."""
        kept, start = [], 0
        for latent in latents:
            kept.append(replace(latent, start=start))
            start += latent.numel
        index = [i for latent in latents for i in range(latent.start, latent.stop)]
        return replace(self, latents=tuple(kept), start=self.start[index], spread=self.spread[index])

    def split(self, z: Tensor) -> Iterator[tuple[Latent, Tensor]]:
        """Cuts unconstrained vectors into the sites' unconstrained values.

        Args:
            z: shape ``(..., d)``; leading dimensions are those of plates outside the model, such as Pyro's particles.
        """
        outer = z.shape[:-1]
        for latent in self.latents:
            shape = np.broadcast_shapes(latent.u_shape, outer + (1,) * latent.u_event_dim)
            yield latent, z[..., latent.start : latent.stop].reshape(shape)

    def open_plates(self, *, rows: Mapping[str, int] | None = None) -> dict[str, pyro.plate]:
        """The plates around any of the sites, opened in order of their dimension.

        Args:
            rows: other numbers of rows than at build time, by plate name.
        """
        names = {name for latent in self.latents for name in latent.plates}
        opened = {}
        for name, plate in self.plates.items():
            if name in names:
                size = (rows or {}).get(name, plate.size)
                opened[name] = (plate if size == plate.size else Rows(name, size, plate.dim, size)).open()
        return opened

    def rows_of(self, plate: str) -> dict[str, int]:
        """The arguments, by key, that had one row per element of ``plate`` when the guide was built."""
        size = self.plates[plate].size
        return {key: shape[0] for key, shape in self.arguments.items() if shape and shape[0] == size}


def bijection(support: Any) -> Transform:
    """Pyrolvm's bijection onto a support, as the plain exponential where the support is the positive half line.

    PyTorch adds an affine map by zero there, which hides that a guide and a LogNormal prior are of one kind.
    """
    bound = getattr(support, "lower_bound", None)
    half_line = (torch.distributions.constraints.greater_than, torch.distributions.constraints.greater_than_eq)
    if isinstance(support, half_line) and isinstance(bound, int | float) and bound == 0:
        return ExpTransform()
    return family.bijection(support)


def inside(plates: Mapping[str, pyro.plate], latent: Latent) -> ExitStack:
    """Enters the plates around a site."""
    stack = ExitStack()
    for name in latent.plates:
        stack.enter_context(plates[name])
    return stack


def argument_shapes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of tensors among the arguments, and ``(n,)`` for an integer ``n``, by position or name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for key, value in [*((str(i), a) for i, a in enumerate(args)), *kwargs.items()]:
        if isinstance(value, int) and not isinstance(value, bool):
            shapes[key] = (value,)
        elif isinstance(value, Tensor):
            shapes[key] = tuple(int(n) for n in value.shape)
    return shapes
