"""The path of the parameters: whether it has settled, and its average there.

At a constant learning rate the parameters end up circling the optimum. Once they do, their average over the last steps is nearer to
it than any one of them, and more steps would only circle on. Whether they do is read as from chains of MCMC: by R-hat of the
two halves of the last steps.

References:
    Polyak and Juditsky, *Acceleration of stochastic approximation by averaging*, https://doi.org/10.1137/0330046;
    Dhaka, Catalina, Andersen, Magnusson, Huggins, Vehtari, *Robust, accurate stochastic optimization for variational inference*,
    https://arxiv.org/abs/2009.00666;
    Welandawe, Andersen, Vehtari, Huggins, *A framework for improving the reliability of black-box variational inference*,
    https://arxiv.org/abs/2203.15945
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.numerics import Array

__all__ = ["Iterates", "split_rhat"]

MOST_NUMBERS = 50_000
"""Parameters of more numbers, those of networks, are not followed."""

MOST_RECORDS = 400
"""Beyond so many records every second one is forgotten."""

FEWEST_RECORDS = 24
"""Records in the last half of the steps from which on R-hat tells anything."""

JUDGED = 2_000
"""R-hat is taken of so many numbers at most."""

STATIONARY, SHARE = 1.1, 0.95
"""R-hat below which a number has settled, and the share of the numbers that must have."""


class Iterates:
    """The parameters at regular steps.

    Args:
        parameters: the tensors to follow, which change in place.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.stride = 10
        self._records: list[Array] = []
        self._calm = 0

    @classmethod
    def of(cls, parameters: Sequence[Tensor]) -> Iterates | None:
        """What follows these parameters; ``None`` if they are too many."""
        followed = 0 < sum(p.numel() for p in parameters) <= MOST_NUMBERS
        return cls(parameters) if followed and all(p.is_floating_point() for p in parameters) else None

    def note(self, step: int) -> None:
        """Records the parameters, if it is time to."""
        if step % self.stride:
            return
        self._records.append(np.concatenate([p.detach().cpu().double().numpy().reshape(-1) for p in self.parameters]))
        if len(self._records) > MOST_RECORDS:
            self._records = self._records[1::2]  # those of the multiples of twice the stride
            self.stride *= 2

    def state(self) -> dict[str, Any]:
        """The records so far."""
        return {"stride": self.stride, "calm": self._calm, "records": np.array(self._records)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.stride, self._calm, self._records = state["stride"], state["calm"], list(state["records"])

    @property
    def window(self) -> Array:
        """The records of the last half of the steps, shape ``(records, numbers)``."""
        return np.array(self._records[len(self._records) // 2 :])

    def rhat(self) -> float:
        """The R-hat that 95% of the numbers are below, over the last half of the steps; infinite if they are too few to tell."""
        window = self.window
        if len(window) < FEWEST_RECORDS:
            return float("inf")
        every = -(-window.shape[1] // JUDGED)
        return float(np.quantile(split_rhat(window[:, ::every]), SHARE, method="higher"))

    def settled(self) -> bool:
        """Whether R-hat is low, now and when this was asked last."""
        self._calm = self._calm + 1 if self.rhat() < STATIONARY else 0
        return self._calm > 1

    def average(self) -> list[Tensor]:
        """The mean over the last half of the steps, in the shapes of the parameters."""
        flat = torch.from_numpy(self.window.mean(axis=0))
        parts = flat.split([p.numel() for p in self.parameters])
        return [part.view(p.shape).to(p) for part, p in zip(parts, self.parameters, strict=True)]


def split_rhat(values: Array) -> Array:
    """R-hat of each column from the two halves of the rows; infinite where halves are constants that differ."""
    half = len(values) // 2
    parts = np.stack([values[-2 * half : -half], values[-half:]])
    within = parts.var(axis=1, ddof=1).mean(axis=0)
    between = parts.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.sqrt((half - 1) / half + between / within)
    return np.where(within > 0, found, np.where(between > 0, np.inf, 1.0))
