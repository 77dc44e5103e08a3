r"""Distributions of sites as integer frequencies: what is pushed onto the stack and popped from it.

Parameters are rounded to fixed point before frequencies are made of them, so that a last digit that came out otherwise changes none:

* probabilities of 0 or 1, or of a finite number of levels, to :math:`2^{-20}`, and none below that;
* locations and scales of Gaussians to :math:`2^{-16}` of a step of the grid that their values lie on.

The coder leaves each frequency at least one in 2**24. So that no far place of a large grid is drawn by that, a place is coded as one of
few wide cells, by the Gaussian's mass there, and then as a place in that cell.

The step of a grid is a power of two. It costs no rate, since what a finer one takes to push it also takes to pop; its bits only have to
be there once, at the beginning. A mixture of Gaussians is coded by one of its components, which is popped from its own distribution
given the value, so that on the whole the mixture's density is paid for.

References:
    Townsend, Bird, Barber, *Practical lossless compression with latent variables using bits back coding*, ICLR 2019,
    https://arxiv.org/abs/1901.04866
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import pyro.distributions as dist
import scipy  # its parts are imported when they are first used
import torch
from numpy.typing import NDArray
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, DataError
from pyrolvm._check.compress.stack import Stack
from pyrolvm._program.peeling import innermost

__all__ = ["Grid", "Steps", "draw", "in_order", "pop", "push", "under"]

Array = NDArray[np.float64]
Steps = Generator[TorchDistribution, Tensor, None]
"""Yields the distribution of some elements of all rows, and is sent their values, until there are no more."""

PROBABILITY = 2.0**20
PLACE = 2.0**16
"""Fixed point: of probabilities, and of places on a grid."""
CELLS = 64
"""Cells on each side of a grid, at most."""
MOST_LEVELS = 2**16
"""Levels of a number for which a table is made."""


@dataclass(frozen=True)
class Grid:
    """Where values of a continuous site lie: whole numbers from ``-half`` to ``half``, times two to the power of ``exponent``."""

    exponent: int
    half: int

    @property
    def step(self) -> float:
        """The distance of neighbours."""
        return math.ldexp(1.0, self.exponent)

    @property
    def cell(self) -> int:
        """Places of a cell, a power of two, so that there are at most twice ``CELLS``."""
        return 1 << max(1, math.ceil(math.log2(self.half / CELLS)))


def in_order(fn: TorchDistribution, site: str) -> Steps:
    """The distribution of a site in the parts that follow from one another.

    A distribution with a method ``in_order()`` yields its parts itself, element 0 first, then element 1 given that. A Gaussian with
    correlations is taken apart into conditionals. Any other has independent elements.
    """
    own = getattr(fn, "in_order", None)
    if own is not None:
        yield from own()
    elif isinstance(fn, torch.distributions.MultivariateNormal):
        yield from _conditionals(fn.loc, fn.scale_tril)
    elif _is_coded(fn):
        yield fn
    else:
        raise ArgumentError(
            f"site {site!r} is a {type(_base(fn)).__name__}, which is not coded. Fix: use one with finitely many levels, Gaussians, "
            "mixtures of these, or a distribution with a method in_order() or in_base()."
        )


def under(fn: TorchDistribution, value: Tensor, site: str) -> tuple[TorchDistribution, Tensor]:
    """What is coded of a value of a site: itself; or, where a distribution is one of values under a bijection, these.

    Such a distribution has a method ``in_base()``, which returns the distribution of these, and the maps to them and back.
    """
    own = getattr(fn, "in_base", None)
    if own is None:
        return fn, value
    law, to_base, _ = own()
    bounds = _levels(_base(law))
    if bounds is not None:
        _symbols(value, *bounds, site)
    return law, to_base(value)


def _conditionals(loc: Tensor, factor: Tensor) -> Steps:
    noise: list[Tensor] = []
    for j in range(loc.shape[-1]):
        mean = loc[..., j] + sum((factor[..., j, i] * noise[i] for i in range(j)), torch.zeros_like(loc[..., j]))
        value = yield dist.Normal(mean, factor[..., j, j])
        noise.append((value - mean) / factor[..., j, j])


def _base(fn: TorchDistribution) -> TorchDistribution:
    """The distribution of single elements, of the shape of all of them."""
    base, shape = innermost(fn), fn.batch_shape + fn.event_shape
    return base if base.event_dim or base.batch_shape == shape else base.expand(shape)


def _is_coded(fn: TorchDistribution) -> bool:
    return _is_blend(fn) or isinstance(_base(fn), torch.distributions.Normal) or _levels(_base(fn)) is not None


def _is_blend(fn: TorchDistribution) -> bool:
    """Whether it is a mixture of diagonal Gaussians as the zoo's priors are: weights ``(k,)``, locations and scales ``(k, d)``."""
    parts = (getattr(fn, name, None) for name in ("log_weight", "loc", "scale"))
    return all(isinstance(part, Tensor) for part in parts) and fn.loc.dim() == 2 and fn.event_dim == 1


def _levels(base: TorchDistribution) -> tuple[int, int] | None:
    """The lowest and highest value of a distribution over finitely many whole numbers; ``None`` of others."""
    support = base.support
    while isinstance(support, type(constraints.independent(constraints.real, 1))):
        support = support.base_constraint
    if support is constraints.boolean:
        return 0, 1
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if support is None or low is None or high is None or not support.is_discrete:
        return None
    if isinstance(high, Tensor):
        high = high.max()
    if isinstance(low, Tensor):
        low = low.min()
    return (int(low), int(high)) if int(high) - int(low) < MOST_LEVELS and base.event_dim == 0 else None


# --- pushing and popping ----------------------------------------------------------------------------------------------


def push(stack: Stack, fn: TorchDistribution, value: Tensor, site: str, grid: Grid | None) -> None:
    """Pushes a value of a part."""
    if _is_blend(fn):
        _push_blend(stack, fn, value, _of(grid, site))
    else:
        _move(stack, _base(fn), site, grid, value)


def pop(stack: Stack, fn: TorchDistribution, site: str, grid: Grid | None) -> Tensor:
    """Pops a value of a part: what was pushed, or a draw of it."""
    return _pop_blend(stack, fn, _of(grid, site)) if _is_blend(fn) else _move(stack, _base(fn), site, grid, None)


def draw(stack: Stack, fn: TorchDistribution, site: str, grid: Grid | None) -> Tensor:
    """Pops a value of all parts in order, shape ``fn.batch_shape + fn.event_shape``."""
    own = getattr(fn, "in_base", None)
    if own is not None:
        law, _, from_base = own()
        image: Tensor = from_base(draw(stack, law, site, grid))
        return image
    parts: list[Tensor] = []
    steps = in_order(fn, site)
    try:
        part = next(steps)
        while True:
            parts.append(pop(stack, part, site, grid))
            part = steps.send(parts[-1])
    except StopIteration:
        whole = parts[0] if len(parts) == 1 and parts[0].shape == fn.batch_shape + fn.event_shape else None
        return whole if whole is not None else torch.stack(parts, -1)


def _of(grid: Grid | None, site: str) -> Grid:
    if grid is None:
        raise ArgumentError(
            f"site {site!r} is continuous and observed. Fix: compress rows of whole numbers, under a likelihood of levels."
        )
    return grid


def _move(stack: Stack, base: TorchDistribution, site: str, grid: Grid | None, value: Tensor | None) -> Tensor:
    """Pops a value of independent elements, or pushes the one that is given."""
    if isinstance(base, torch.distributions.Normal):
        on = _of(grid, site)
        mean, sd = _gaussian(base.loc, base.scale, on)
        popped = _gaussians(stack, mean, sd, on, None if value is None else _places(value, on))
        return torch.from_numpy(popped.reshape(base.batch_shape)).to(base.loc) * on.step
    bounds = _levels(base)
    assert bounds is not None
    low, high = bounds
    like = torch.get_default_dtype()
    if isinstance(base, torch.distributions.Bernoulli):
        p = base.probs.detach().numpy().reshape(-1)
        p = np.clip(np.round(p * PROBABILITY), 1, PROBABILITY - 1) / PROBABILITY
        symbols = None if value is None else _symbols(value, low, high, site)
        popped = stack.coins(p, symbols)
    else:
        levels = torch.arange(low, high + 1).reshape(-1, *[1] * len(base.batch_shape))
        log_p = base.log_prob(levels if _whole(base) else levels.to(like))
        table = log_p.detach().exp().reshape(high - low + 1, -1).T.numpy()
        table = np.maximum(np.round(table * PROBABILITY), 1)
        symbols = None if value is None else _symbols(value, low, high, site)
        popped = stack.tables(table, symbols)
        like = torch.long if _whole(base) else like
    return (torch.from_numpy(popped.reshape(base.batch_shape).astype(np.int64)) + low).to(like)


def _whole(base: TorchDistribution) -> bool:
    """Whether values are of an integer type."""
    return isinstance(base, torch.distributions.Categorical)


def _gaussian(loc: Tensor, scale: Tensor, grid: Grid) -> tuple[Array, Array]:
    """Means and sds in steps of the grid, rounded; none is beyond what can be said of the grid."""
    far = 4.0 * grid.half
    mean = (loc.detach() / grid.step).clamp(-far, far).numpy().reshape(-1)
    sd = (scale.detach() / grid.step).expand(loc.shape).clamp(2.0**-4, far).numpy().reshape(-1)
    return np.round(mean * PLACE) / PLACE, np.round(sd * PLACE) / PLACE


def _gaussians(stack: Stack, mean: Array, sd: Array, grid: Grid, places: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """Pops a place for each mean and sd ``(m,)``, or pushes those given."""
    cell = grid.cell
    wide, half = ((mean + 0.5) / cell, sd / cell), math.ceil(grid.half / cell)
    cells = stack.gaussians(*wide, half) if places is None else (places + cell // 2) // cell
    first = cells * cell - cell // 2
    edges = (first[:, None] + np.arange(cell + 1) - 0.5 - mean[:, None]) / sd[:, None]
    # Masses of the lower tail, on whichever side the cell is, lose no digits.
    above = edges[:, :1] + edges[:, -1:] > 0
    mass = np.diff(scipy.special.ndtr(np.where(above, -edges[:, ::-1], edges)), axis=1)
    mass = np.where(above, mass[:, ::-1], mass)
    total = mass.sum(1, keepdims=True)
    share = np.divide(mass, total, out=np.full_like(mass, 1 / cell), where=total > 0)
    table = np.maximum(np.round(share * PROBABILITY), 1)
    if places is None:
        return (first + stack.tables(table)).astype(np.int32)
    stack.tables(table, (places - first).astype(np.int32))
    stack.gaussians(*wide, half, cells)
    return places


def _places(value: Tensor, grid: Grid) -> NDArray[np.int32]:
    return np.round(value.detach().numpy().reshape(-1) / grid.step).astype(np.int32)


def _symbols(value: Tensor, low: int, high: int, site: str) -> NDArray[np.int32]:
    """Levels from 0.

    Raises:
        DataError: if a value is none of the levels.
    """
    array = value.detach().double().numpy()
    bad = ~((array >= low) & (array <= high) & (array == np.round(array)))
    if bad.any():
        raise DataError(
            f"site {site!r}: a value is {array[bad][0]:g}, and {int(bad.sum()):,} are like it; expected whole numbers from {low} to "
            f"{high}. Fix: compress rows like those that the model was fitted to."
        )
    return (array - low).reshape(-1).astype(np.int32)


# --- mixtures ---------------------------------------------------------------------------------------------------------


def _blend(fn: TorchDistribution, value: Tensor) -> Array:
    """The distribution of the component given the value, rounded, ``(m, components)``."""
    each = dist.Normal(fn.loc, fn.scale).log_prob(value.reshape(-1, 1, value.shape[-1])).sum(-1) + fn.log_weight
    return np.maximum(np.round(each.softmax(-1).detach().numpy() * PROBABILITY), 1)


def _weights(fn: TorchDistribution, rows: int) -> Array:
    p = np.maximum(np.round(fn.log_weight.softmax(-1).detach().numpy() * PROBABILITY), 1)
    return np.tile(p, (rows, 1))


def _push_blend(stack: Stack, fn: TorchDistribution, value: Tensor, grid: Grid) -> None:
    chosen = stack.tables(_blend(fn, value))
    mean, sd = _gaussian(fn.loc[chosen], fn.scale[chosen], grid)
    _gaussians(stack, mean, sd, grid, _places(value, grid))
    stack.tables(_weights(fn, len(chosen)), chosen)


def _pop_blend(stack: Stack, fn: TorchDistribution, grid: Grid) -> Tensor:
    shape = fn.batch_shape + fn.event_shape
    chosen = stack.tables(_weights(fn, math.prod(fn.batch_shape)))
    mean, sd = _gaussian(fn.loc[chosen], fn.scale[chosen], grid)
    value = torch.from_numpy(_gaussians(stack, mean, sd, grid, None).reshape(shape)).to(fn.loc) * grid.step
    stack.tables(_blend(fn, value), chosen)
    return value
