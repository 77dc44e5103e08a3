"""Values at which a program is run before anything is known of its latents."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import transform_to
from torch.distributions.constraints import Constraint

from pyrolvm._base.bijections import Image, bijection, of_components, shape_before, shown
from pyrolvm._base.errors import ProblemError
from pyrolvm._compat.pyro import is_subsample
from pyrolvm._program.peeling import innermost
from pyrolvm._program.traces import Message

__all__ = ["Start", "Supported", "around", "centre", "is_circle", "is_discrete", "support_of"]

_ANGLES = (dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)
"""Distributions of angles that declare all real numbers, over which their densities repeat for ever."""

CIRCLE = constraints.interval(-math.pi, math.pi)


def centre(message: Mapping[str, Any]) -> Tensor:
    """A value for a latent site: the image of zero where its support is continuous, a prior draw where it is not."""
    return _from_real(message["fn"], torch.zeros)


class Start(Messenger):
    """Gives latent sites the values that ``choose`` finds for them, out of sight of the gradient.

    Unlike Pyro's ``InitMessenger`` it sees a site as the program leaves it: one that is reparameterised inside a plate, by
    ``with poutine.reparam(...)``, only once the plate has given it its rows.
    """

    def __init__(self, choose: Callable[[Mapping[str, Any]], Tensor]) -> None:
        super().__init__()
        self.choose = choose

    def _pyro_sample(self, msg: Message) -> None:
        if msg["value"] is None and not is_subsample(msg["fn"]):
            with torch.no_grad():
                msg["value"] = self.choose(msg)


class Supported(Messenger):
    """Has distributions of latent sites declare the supports that they have, for guides that ask them, as Pyro's own do."""

    def _pyro_sample(self, msg: Message) -> None:
        fn = msg["fn"]
        if msg["is_observed"] or is_subsample(fn):
            return
        support = _around(fn) or _image(fn)
        if support is not None:
            msg["fn"] = _declaring(fn, support)


def _declaring(fn: dist.TorchDistribution, support: Constraint) -> dist.TorchDistribution:
    """The same distribution with a support that it does not declare by itself."""
    kind: Any = type(fn)
    other = copy.copy(fn)
    other.__class__ = type(kind)(kind.__name__, (kind,), {"support": support})
    return other


def around(message: Mapping[str, Any]) -> Tensor:
    """A random value for a latent site, uniform in (-2, 2) on the unconstrained scale."""
    return _from_real(message["fn"], lambda shape: 4 * torch.rand(shape) - 2)


def _from_real(fn: dist.TorchDistribution, make: Callable[[Any], Tensor]) -> Tensor:
    support = support_of(fn)
    if support is not None and not is_discrete(fn):
        try:
            transform = bijection(support)
        except NotImplementedError:
            return _drawn(fn, support)  # enough to run the model; as an unknown, the site is refused
        return transform(make(shape_before(transform, fn.shape())))
    return _drawn(fn, None)


def _drawn(fn: dist.TorchDistribution, support: Constraint | None) -> Tensor:
    """A value of a support that no bijection reaches."""
    try:
        return fn.sample()
    except NotImplementedError:
        if support is None:
            name = type(innermost(fn)).__name__
            raise NotImplementedError(f"{name} draws nothing: its sample() is not implemented") from None
        try:
            transform = transform_to(support)
        except NotImplementedError:
            raise ProblemError(
                f"a latent site ({type(innermost(fn)).__name__}) has support {shown(support)}, which no bijection maps to the real "
                "line, and no draws. Fix: compute it from sites that have them, by pyro.deterministic."
            ) from None
        return transform(torch.zeros(shape_before(transform, fn.shape())))


def support_of(fn: dist.TorchDistribution) -> Any:
    """The support of a distribution; ``None`` where it tells none.

    That of a mixture is that of its components. That of a transformed distribution is the image of what is transformed, where it
    declares all real numbers, as behind an affine transform. That of an angle is once around the circle, where its draws are.
    """
    try:
        return _around(fn) or _image(fn) or of_components(fn.support)
    except (NotImplementedError, AttributeError):
        return None


def is_discrete(fn: Any) -> bool:
    """Whether a distribution lives on a discrete set, such as that of all matchings, which does not say so of itself."""
    try:
        declared = bool(fn.support.is_discrete)
    except (NotImplementedError, AttributeError):
        declared = False
    return declared or bool(getattr(innermost(fn), "has_enumerate_support", False))


def is_circle(support: object) -> bool:
    """Whether a support is that of angles."""
    return getattr(support, "base_constraint", support) is CIRCLE


def _around(fn: dist.TorchDistribution) -> Constraint | None:
    """Once around the circle in each dimension, of angles."""
    if not isinstance(innermost(fn), _ANGLES):
        return None
    return constraints.independent(CIRCLE, fn.event_dim) if fn.event_dim else CIRCLE


def _image(fn: dist.TorchDistribution) -> Constraint | None:
    """What transforms make of the support of a distribution; ``None`` where the one that it declares says it."""
    inner = innermost(fn)
    if type(inner) not in (dist.TransformedDistribution, torch.distributions.TransformedDistribution):
        return None
    below = support_of(inner.base_dist)
    if (
        below is None
        or _is_real(below)
        or not _is_real(inner.support)
        or not all(t.bijective for t in inner.transforms)
    ):
        return None
    image = Image(below, inner.transforms)
    beside = fn.event_dim - image.event_dim
    return constraints.independent(image, beside) if beside > 0 else image


def _is_real(support: Constraint) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.real))
