"""Distributions without what is wrapped around them: the one place that knows the wrappers of Pyro and torch."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch

from pyrolvm._compat.pyro import mask_of

__all__ = ["along", "innermost", "own_masks", "unmasked", "untransformed"]

_SHAPES = (dist.Independent, torch.distributions.Independent, dist.ExpandedDistribution)
"""What declares that dimensions of a batch are one event, or repeats a batch."""


def innermost(fn: Any) -> Any:
    """A distribution without what declares its shape or masks it alone; transforms stay."""
    while isinstance(fn, (*_SHAPES, dist.MaskedDistribution)):
        fn = fn.base_dist
    return fn


def along(fn: Any, axis: int) -> Any:
    """A distribution without what is around it, until a dimension of its values is one of its batch or of its own event.

    Args:
        fn: the distribution.
        axis: the dimension, from the right.
    """
    wrappers = (dist.Independent, torch.distributions.Independent, dist.MaskedDistribution)
    while -axis <= len(fn.event_shape) and isinstance(fn, wrappers):
        fn = fn.base_dist
    return fn


def own_masks(fn: Any) -> list[Any]:
    """The masks on the way to the innermost distribution, outermost first: tensors or truth values."""
    found = []
    while isinstance(fn, (*_SHAPES, dist.MaskedDistribution)):
        if isinstance(fn, dist.MaskedDistribution):
            found.append(mask_of(fn))
        fn = fn.base_dist
    return found


def unmasked(fn: Any) -> tuple[Any, list[Any]]:
    """A distribution of the same shape without the masks outside of all else, and those masks, outermost first."""
    found = []
    while isinstance(fn, dist.MaskedDistribution):
        found.append(mask_of(fn))
        fn = fn.base_dist
    return fn, found


def untransformed(fn: Any) -> tuple[Any, list[Any]]:
    """What a distribution is of a transform of, and the transforms in order, without masks and what declares shapes."""
    transforms: list[Any] = []
    while True:
        fn = innermost(fn)
        if not isinstance(fn, torch.distributions.TransformedDistribution):
            return fn, transforms
        transforms = [*fn.transforms, *transforms]
        fn = fn.base_dist
