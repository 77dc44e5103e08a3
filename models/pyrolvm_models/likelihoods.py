"""A module with a density as the distribution of a site, and the problem of fitting it to data by maximum likelihood."""

from __future__ import annotations

import functools
import math
from collections.abc import Generator
from typing import Any, Protocol

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

import pyrolvm as lvm

__all__ = ["Density", "InOrder", "ModuleDensity", "bits_per_dimension", "density_problem", "dequantize", "drawn"]

InOrder = Generator[dist.TorchDistribution, Tensor, None]
"""Yields the distribution of each element of rows given those before it, in all rows, and is sent its values."""


def drawn(steps: InOrder) -> Tensor:
    """New rows ``(n, d)``, element after element, in the dtype of binary values."""
    values = []
    step = next(steps, None)
    while step is not None:
        values.append(step.sample())
        try:
            step = steps.send(values[-1])
        except StopIteration:
            step = None
    return torch.stack(values, -1).to(torch.get_default_dtype())


class Density(Protocol):
    """What such a module has."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log densities of rows ``(n, ...)``, shape ``(n,)``, in nats."""

    def sample(self, count: int) -> Tensor:
        """New rows, shape ``(count, ...)``."""


class ModuleDensity(dist.TorchDistribution):
    """The distribution of a module: independent rows of the density that it has.

    Args:
        module: has ``log_prob(x)`` of rows and ``sample(count)``.
        event: the shape of a row.
        rows: how many.
        support: of a row's elements: ``constraints.real``, ``constraints.boolean``, ...
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, module: Any, event: torch.Size, rows: int, *, support: Any = constraints.real) -> None:
        self.module, self._support = module, constraints.independent(support, len(event))
        super().__init__(torch.Size([rows]), event, validate_args=False)

    @constraints.dependent_property
    def support(self) -> Any:
        """The support of a row."""
        return self._support

    def expand(self, batch_shape: Any, _instance: Any = None) -> ModuleDensity:
        """The same distribution, for as many rows."""
        batch = torch.Size(batch_shape)
        found = ModuleDensity(self.module, self.event_shape, math.prod(batch), support=self._support.base_constraint)
        super(ModuleDensity, found).__init__(batch, self.event_shape, validate_args=False)
        return found

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of each row."""
        batch = value.shape[: value.dim() - len(self.event_shape)]
        found: Tensor = self.module.log_prob(value.reshape(-1, *self.event_shape))
        return found.reshape(batch)

    def __getattr__(self, name: str) -> Any:
        """``in_order`` or ``in_base``, where the module has it: what codes rows (:func:`pyrolvm.compress`)."""
        own = getattr(self.__dict__.get("module"), name, None) if name in ("in_order", "in_base") else None
        if own is None:
            raise AttributeError(f"a {type(self).__name__} has no {name!r}")
        return functools.partial(own, math.prod(self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """New rows, shape ``sample_shape + batch_shape + event_shape``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        found: Tensor = self.module.sample(math.prod(shape))
        return found.reshape(shape + self.event_shape)


def density_problem(x: Tensor, module: nn.Module, *, support: Any = constraints.real) -> lvm.Problem:
    r"""Rows of data under a module's density: :math:`x_n \sim p_\theta`, independent, with :math:`\theta` to be fitted.

    Args:
        x: data, shape ``(n, ...)``.
        module: has ``log_prob(x)``, one value a row, and ``sample(count)``.
        support: of the elements of a row.

    Returns:
        The problem, without latents: ``lvm.fit`` maximises its likelihood.
    """

    @lvm.model(dims={"x": ["data", *(["pixel"] if x.dim() == 2 else [f"axis_{i}" for i in range(1, x.dim())])]})
    def density(x: Tensor, module: nn.Module) -> None:
        """Independent rows ``x`` ``(n, ...)`` of the density that ``module`` has."""
        pyro.module("density", module)
        with pyro.plate("data", len(x)):
            pyro.sample("x", ModuleDensity(module, x.shape[1:], len(x), support=support), obs=x)

    return lvm.Problem(density, x, module)


def dequantize(levels: int) -> Any:
    r"""The ``transform=`` of a fit to dequantised data: noise of a level's width that is drawn anew in each step.

    Data are :math:`x = (k + u) / L` with levels :math:`k = 0, \dots, L-1` and uniform :math:`u`, so that :math:`k` is seen in them.
    A density of them bounds the probability of the levels: :math:`E_u \log p(x) \le \log P(k) + d \log L`.

    Args:
        levels: the number :math:`L` of grey levels.

    References:
        Theis, van den Oord, Bethge (2016). A note on the evaluation of generative models. ICLR. https://arxiv.org/abs/1511.01844
    """

    def transform(x: Tensor, *rest: Any) -> dict[str, Tensor]:
        whole = (x * levels).floor().clamp(0, levels - 1)
        return {"x": (whole + torch.rand_like(x)) / levels}

    return transform


def bits_per_dimension(nats: float, dimensions: int, levels: int = 1) -> float:
    r"""Bits per dimension of a mean log density in nats: :math:`(-\log p / d + \log L) / \log 2`.

    Args:
        nats: mean log density of a row; of dequantised data where ``levels`` is above 1.
        dimensions: :math:`d`.
        levels: :math:`L`, if rows are levels divided by it; 1 for probabilities of discrete data.
    """
    return (-nats / dimensions + math.log(levels)) / math.log(2)
