r"""Model and guide run as programs that push and pop their sites.

A block of rows x is pushed by

.. math:: z \leftarrow \text{pop } q(z \mid x), \qquad \text{push } p(x \mid z), \qquad \text{push } p(z),

which makes the stack longer by :math:`\log q(z \mid x) - \log p(x, z)`, on average minus the ELBO; sites in the reverse of the order in
which the model draws them. What pops a block is the model drawing from the stack instead of a random generator, and the guide, run on
the rows that come out, pushing its latents back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._base import runtime
from pyrolvm._base.errors import ArgumentError
from pyrolvm._check.compress.laws import Grid, draw, in_order, push, under
from pyrolvm._check.compress.stack import Stack
from pyrolvm._program.peeling import innermost, own_masks
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_deterministic, is_random

__all__ = ["Coder", "grids"]

Visit = Callable[[str, TorchDistribution, bool, Tensor | None], Tensor]
"""Of a site's name, distribution, whether it is observed, and what it has: its value."""

COARSEST, FINEST = -2, -20
"""Exponents of the steps of a grid."""
SHARE = 0.01
"""The share of scales that may be below two steps of the grid."""
ROOM = 1.5
"""How much wider a grid is than what was seen of its site."""
MOST_PLACES = 2**21
"""Half the places of a grid, at most: each is left a frequency of at least one in 2**24."""


class _Visiting(Messenger):
    """Gives each sample site the value that a function finds."""

    def __init__(self, visit: Visit) -> None:
        super().__init__()
        self._visit = visit

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not is_random(msg) or is_deterministic(msg):
            return
        if any(mask is not None and mask is not True for mask in (msg["mask"], *own_masks(msg["fn"]))):
            raise ArgumentError(
                f"site {msg['name']!r} is masked, so that nothing says what its rows hold. Fix: fit without a mask."
            )
        msg["value"] = self._visit(msg["name"], msg["fn"], bool(msg["is_observed"]), msg["value"])
        msg["done"] = True


@dataclass
class _Kept:
    """Parts of sites with their values, in the order in which they are drawn."""

    grids: Mapping[str, Grid]
    parts: list[tuple[TorchDistribution, Tensor, str]] = field(default_factory=list)
    log_density: float = 0.0

    def add(self, name: str, fn: TorchDistribution, value: Tensor) -> Tensor:
        self.log_density += float(fn.log_prob(value).sum())
        whole, fn, value = value, *under(fn, value, name)
        steps = in_order(fn, name)
        try:
            part = next(steps)
            for j in range(value.shape[-1] if value.dim() else 1):
                at_once = tuple(part.batch_shape + part.event_shape) == tuple(value.shape)
                now = value if at_once else value[..., j]
                self.parts.append((part, now, name))
                part = steps.send(now)
        except StopIteration:
            pass
        return whole

    def push(self, stack: Stack) -> None:
        for part, value, name in reversed(self.parts):
            push(stack, part, value, name, self.grids.get(name))


class Coder:
    """Pushes and pops blocks of rows; to be used inside the session of a problem whose parameters are the fitted ones.

    Args:
        problem: the problem, in double precision on the CPU.
        guide: its fitted guide; ``None`` where nothing is latent.
        plate: the plate of the rows.
        argument: the argument that is observed as it is, row by row.
        site: the site that observes it.

    Attributes:
        grids: where values of continuous latents lie, by site.
        log_p: log p(x, z) of all that was pushed.
        log_q: log q(z | x) of it.
    """

    def __init__(
        self, problem: Problem, guide: Callable[..., object] | None, plate: str, argument: str, site: str
    ) -> None:
        self.problem, self.guide, self.plate, self.argument, self.site = problem, guide, plate, argument, site
        self.grids: Mapping[str, Grid] = {}
        self.log_p = self.log_q = 0.0

    def push(self, stack: Stack, rows: Tensor) -> None:
        """Pushes rows ``(b, ...)``."""
        latents: dict[str, Tensor] = {}
        drawn = _Kept(self.grids)

        def encode(name: str, fn: TorchDistribution, observed: bool, value: Tensor | None) -> Tensor:
            latents[name] = drawn.add(name, fn, draw(stack, fn, name, self.grids.get(name)))
            return latents[name]

        if self.guide is not None:
            self._run(self.guide, rows, encode)
        kept = _Kept(self.grids)

        def density(name: str, fn: TorchDistribution, observed: bool, value: Tensor | None) -> Tensor:
            found = value if observed else latents[name]
            assert isinstance(found, Tensor)
            return kept.add(name, fn, found)

        self._run(self.problem.program, rows, density)
        self.log_p += kept.log_density
        self.log_q += drawn.log_density
        kept.push(stack)

    def pop(self, stack: Stack, count: int) -> Tensor:
        """Pops as many rows."""
        found: dict[str, Tensor] = {}

        def decode(name: str, fn: TorchDistribution, observed: bool, value: Tensor | None) -> Tensor:
            found[name] = draw(stack, fn, name, self.grids.get(name))
            return found[name]

        own = self.problem.arguments[self.argument]
        assert isinstance(own, Tensor)
        blank = own[:1].expand(count, *own.shape[1:]).contiguous()
        self._run(self.problem.program, blank, decode)
        rows = found[self.site].to(own.dtype).reshape(blank.shape)
        if self.guide is not None:
            kept = _Kept(self.grids)
            self._run(self.guide, rows, lambda name, fn, seen, value: kept.add(name, fn, found[name]))
            kept.push(stack)
        return rows

    def scales(self, rows: Tensor) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """Locations and scales of the guide's Gaussians for some rows, by site."""
        found: dict[str, list[tuple[Tensor, Tensor]]] = {}

        def look(name: str, fn: TorchDistribution, observed: bool, value: Tensor | None) -> Tensor:
            steps = in_order(fn, name)
            parts = []
            try:
                part = next(steps)
                while True:
                    inner = innermost(part)
                    if isinstance(inner, torch.distributions.Normal):
                        found.setdefault(name, []).append((inner.loc, inner.scale.expand(inner.loc.shape)))
                    parts.append(inner.mean if isinstance(inner, torch.distributions.Normal) else part.sample())
                    part = steps.send(parts[-1])
            except StopIteration:
                pass
            return parts[0] if parts[0].shape == fn.batch_shape + fn.event_shape else torch.stack(parts, -1)

        if self.guide is not None:
            self._run(self.guide, rows, look)
        return found

    def _run(self, program: Callable[..., object], rows: Tensor, visit: Visit) -> None:
        values = {name: rows if name == self.argument else value for name, value in self.problem.arguments.items()}
        args = list(values.values())[: len(self.problem.args)]
        rest = {name: values[name] for name in self.problem.kwargs}
        whole = runtime.Subsample(len(rows), torch.arange(len(rows)))
        with runtime.plates({self.plate: whole}), runtime.validation(False), torch.no_grad(), _one_thread():
            with _Visiting(visit):
                program(*args, **rest)


def grids(scales: Mapping[str, list[tuple[Tensor, Tensor]]]) -> dict[str, Grid]:
    """Grids that are fine enough for what a guide says of its sites, and wide enough."""
    found = {}
    for name, parts in scales.items():
        sd = torch.cat([scale.reshape(-1) for _, scale in parts])
        reach = max(float((loc.abs() + 8 * scale).max()) for loc, scale in parts)
        low = float(sd.quantile(SHARE) if len(sd) < 2**24 else sd[:: 1 + len(sd) // 2**24].quantile(SHARE))
        if not math.isfinite(reach):
            raise ArgumentError(
                f"the guide's Gaussians of site {name!r} are not finite for some rows. Fix: fit again, with a lower learning_rate=."
            )
        exponent = max(FINEST, min(COARSEST, math.floor(math.log2(low / 2)))) if low > 0 else FINEST
        while reach * ROOM / 2.0**exponent > MOST_PLACES:
            exponent += 1
        found[name] = Grid(exponent, math.ceil(reach * ROOM / 2.0**exponent))
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in the same order whatever the number of processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
