"""Where a guide starts: near the prior's median in unconstrained space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions.transforms import Transform

from pyrolvm import GuideError
from pyrolvm.family import is_discrete, is_random, shape_before, support_of
from pyrolvm_guides._layout import bijection

__all__ = ["StartMessenger"]

_DRAWS = 100
_ELEMENTS = 4_000_000
_FAR = 5.0


class StartMessenger(Messenger):
    r"""Sets every continuous latent site to its prior median, and remembers the unconstrained value and spread.

    With :math:`m` the median and :math:`[q_{10}, q_{90}]` the central range of prior draws mapped to unconstrained
    space, the start is :math:`m`, pulled into :math:`[-5, 5]` where that stays within the range: a vague prior such as
    ``Normal(0, 1e6)`` says nothing about where to look, an informed one such as ``Normal(1000, 10)`` does. Where the
    prior cannot be sampled (``ImproperUniform``) the start is the origin of unconstrained space.

    Args:
        init: constrained values to use instead, by site name.
    """

    def __init__(self, init: Mapping[str, Any]) -> None:
        super().__init__()
        self.init = init
        self.starts: dict[str, tuple[Tensor, Tensor]] = {}

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["done"] or msg["is_observed"] or not is_random(msg) or is_discrete(fn):
            return
        transform = _bijection(msg["name"], fn)
        shape = shape_before(transform, fn.shape())
        given = self.init.get(msg["name"])
        if given is not None:
            start, spread = _given(msg["name"], given, fn, transform), _median(fn, transform, shape)[1]
        else:
            start, spread = _median(fn, transform, shape)
        self.starts[msg["name"]] = (start, spread.to(start))
        msg["value"] = transform(start)
        msg["done"] = True


def _bijection(name: str, fn: Any) -> Transform:
    try:
        return bijection(support_of(fn))
    except NotImplementedError:
        raise GuideError(
            f"site {name!r} ({type(fn).__name__}) has support {_describe(fn)}, to which no bijection from the real "
            "line is registered. Fix: write the site through one that has, such as a normalised Normal vector for a "
            "direction, or register a transform with torch.distributions.biject_to."
        ) from None


def _describe(fn: Any) -> str:
    try:
        return str(fn.support)
    except NotImplementedError:
        return "that is not declared"


def _given(name: str, given: Any, fn: Any, transform: Transform) -> Tensor:
    value = torch.as_tensor(given)
    expected = torch.Size(fn.shape())
    if value.shape != expected:
        raise GuideError(
            f"init for site {name!r} has shape {tuple(value.shape)}, expected {tuple(expected)}. "
            "Fix: give one value of the site's own shape."
        )
    u = transform.inv(value.to(torch.get_default_dtype()) if not value.is_floating_point() else value)
    if not bool(torch.isfinite(u).all()):
        raise GuideError(
            f"init for site {name!r} lies outside its support {fn.support} or on its edge. "
            "Fix: give a value strictly inside."
        )
    return u.detach()


def _median(fn: Any, transform: Transform, shape: torch.Size) -> tuple[Tensor, Tensor]:
    count = max(1, min(_DRAWS, _ELEMENTS // max(1, shape.numel())))
    try:
        draws = fn.sample(torch.Size((count,)))
    except NotImplementedError:
        return torch.zeros(shape), torch.ones(shape)
    u = transform.inv(draws).detach()
    ordered = torch.where(torch.isfinite(u), u, torch.zeros_like(u)).sort(dim=0).values
    low, middle, high = (ordered[int(share * (count - 1) + 0.5)] for share in (0.1, 0.5, 0.9))
    near = middle.clamp(-_FAR, _FAR)
    start = torch.where((low <= near) & (near <= high), near, middle)
    return start, (high - low) / 2.563
