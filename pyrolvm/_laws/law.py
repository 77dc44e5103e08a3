"""What every exact posterior is to the rest: a law that can be drawn from, with its normalised density and its evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Law"]


@dataclass(frozen=True)
class Law:
    """An exact posterior.

    Attributes:
        family: what it is, such as ``"Gaussian"``.
        because: why it is that, in a sentence.
        evidence: log p(data), in nats.
        draw: from a number of draws and inside a seeded session, values by latent site, each of shape ``(draws, ...)``, and
            their log posterior density, shape ``(draws,)``. Discrete latents are left out where there are continuous ones:
            the density is then of those alone.
        marginals: probabilities of the values of discrete latents by site, shape ``(*batch, K)``.
    """

    family: str
    because: str
    evidence: float
    draw: Callable[[int], tuple[dict[str, Tensor], Tensor]] = field(repr=False)
    marginals: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
