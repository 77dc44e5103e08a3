"""Coordinates in which a posterior is nearly standard normal, for guides that are trained in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.score_parts import ScoreParts
from torch import Tensor

from pyrolvm import ArgumentError, Problem, PyrolvmError
from pyrolvm.family import Points, plain_moments, starting_frame, starting_frame_pays

__all__ = ["Framed", "best_gaussian", "wants_frame"]


def wants_frame(precondition: str, problem: Problem, init: Mapping[str, Any] | None) -> bool:
    """Whether a guide is trained in its posterior's frame.

    Args:
        precondition: ``"auto"``, ``"frame"`` or ``"none"``.
        problem: the model with its data.
        init: where the user wants it to start; ``"auto"`` then leaves it there.

    Raises:
        ArgumentError: if ``precondition`` is none of these.
    """
    if precondition not in ("auto", "frame", "none"):
        raise ArgumentError(
            f'precondition must be "auto", "frame" or "none", got {precondition!r}. Fix: leave it at "auto".'
        )
    if precondition != "auto":
        return precondition == "frame"
    return not init and starting_frame_pays(problem)


def best_gaussian(problem: Problem, *, seed: int) -> tuple[int, Points, Points] | None:
    """How many modes the ascents found apart, and mean and covariance of the posterior's best Gaussian in plain unconstrained space.

    ``None`` where there is no frame. Must be called inside a session.
    """
    try:
        frame = starting_frame(problem, seed=seed)
    except PyrolvmError:
        return None
    return len(frame.modes), *plain_moments(frame, seed=seed)


class Framed(dist.TorchDistribution):
    r"""The law of :math:`m + L y` for :math:`y` of a given law.

    Args:
        base: the law of y, with event shape ``(d,)``.
        loc: m, shape ``(d,)``.
        tril: L, lower triangular, shape ``(d, d)``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(self, base: dist.TorchDistribution, loc: Tensor, tril: Tensor) -> None:
        self.base, self.loc, self.tril = base, loc, tril
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """As the law within."""
        return bool(self.base.has_rsample)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Framed:
        """The same law for another number of independent copies."""
        return Framed(self.base.expand(batch_shape), self.loc, self.tril)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        """Draws ``(*sample_shape, *batch_shape, d)``."""
        within = self.base.rsample(sample_shape)
        value = self.loc + within @ self.tril.mT
        self._drawn = (value, within)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, shape ``(...)`` for values of shape ``(..., d)``."""
        return self.base.log_prob(self._within(value)) - self._log_det()

    def score_parts(self, x: Tensor, *args: Any, **kwargs: Any) -> ScoreParts:
        """As the law within states them."""
        parts = self.base.score_parts(self._within(x), *args, **kwargs)
        log_det = self._log_det()
        return ScoreParts(parts.log_prob - log_det, parts.score_function, parts.entropy_term - log_det)

    def _within(self, value: Tensor) -> Tensor:
        if self._drawn is not None and self._drawn[0] is value:
            return self._drawn[1]
        gap = (value - self.loc)[..., None]
        return torch.linalg.solve_triangular(self.tril, gap, upper=False)[..., 0]

    def _log_det(self) -> Tensor:
        return self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
