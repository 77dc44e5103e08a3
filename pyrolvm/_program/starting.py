"""Values at which a program is run before anything is known of its latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to, transform_to

from pyrolvm._compat.pyro import is_subsample
from pyrolvm._program.traces import Message

__all__ = ["Start", "around", "centre", "support_of"]


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


def around(message: Mapping[str, Any]) -> Tensor:
    """A random value for a latent site, uniform in (-2, 2) on the unconstrained scale."""
    return _from_real(message["fn"], lambda shape: 4 * torch.rand(shape) - 2)


def _from_real(fn: dist.TorchDistribution, make: Callable[[Any], Tensor]) -> Tensor:
    support = support_of(fn)
    if support is not None and not support.is_discrete:
        try:
            transform = biject_to(support)
        except NotImplementedError:
            transform = transform_to(support)  # enough to run the model; as an unknown, the site is refused
        return transform(make(transform.inverse_shape(fn.shape())))
    return fn.sample()


def support_of(fn: dist.TorchDistribution) -> Any:
    """The support of a distribution; ``None`` where it tells none."""
    try:
        return fn.support
    except (NotImplementedError, AttributeError):
        return None
