"""Private parts of Pyro's NUTS: what its kernel computes and throws away. All were checked with pyro-ppl 1.9.1 and 1.9.2."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from pyro.infer.mcmc import NUTS
from torch import Tensor

__all__ = ["RecordingNUTS"]


class RecordingNUTS(NUTS):
    """Pyro's NUTS, which keeps what Pyro computes and throws away. Seen in pyro-ppl 1.9.1 and 1.9.2.

    Args:
        potential: of the one site ``"z"``.
        options: of Pyro's kernel.

    Attributes:
        evaluations: how often it asked for the potential: once a leapfrog step.
        energy: where the last transition began, momentum included.
    """

    def __init__(self, potential: Callable[[Tensor], Tensor], **options: Any) -> None:
        super().__init__(potential_fn=self._count(potential), **options)
        self.evaluations = 0
        self.energy = math.nan

    @property
    def divergences(self) -> int:
        """How many transitions diverged after the warmup."""
        return len(self._divergences)

    @property
    def mean_accept_prob(self) -> float:
        """The mean acceptance probability, of the warmup until it has ended, and from then on of the draws."""
        return float(self._mean_accept_prob)

    def restart_step_size(self, z: Mapping[str, Tensor]) -> None:
        """Looks for a step size anew, at a place."""
        self._adapter.reset_step_size_adaptation(z)

    def sample(self, params: object) -> Any:
        """One transition."""
        self._fresh = True
        return super().sample(params)

    def _count(self, potential: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], Tensor]:
        def counted(z: dict[str, Tensor]) -> Tensor:
            self.evaluations += 1
            return potential(z["z"])

        return counted

    def _kinetic_energy(self, r_unscaled: object) -> object:
        kinetic = super()._kinetic_energy(r_unscaled)
        if getattr(self, "_fresh", False):  # the first call of a transition: momentum just drawn, position current
            self.energy = float(kinetic + self._potential_energy_last)
            self._fresh = False
        return kinetic
