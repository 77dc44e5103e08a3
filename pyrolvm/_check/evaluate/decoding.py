"""What a model makes of latents: reconstructions, samples, interpolations and traversals, as the means of its likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._base.bijections import bijection
from pyrolvm._program.batching import slice_rows
from pyrolvm._program.density import Joint
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_deterministic, is_random
from pyrolvm._program.traces import Message

__all__ = ["Decoder", "interpolated", "spherical", "traversed"]

Array = NDArray[np.float64]
Draw = Mapping[str, Tensor]


class _Middle(Messenger):
    """Gives every latent that has no value the mean of its conditional prior, or a draw where it has none."""

    def __init__(self, given: Draw) -> None:
        super().__init__()
        self.given = given

    def _pyro_sample(self, msg: Message) -> None:
        if msg["is_observed"] or is_deterministic(msg) or not is_random(msg):
            return
        if msg["name"] in self.given:
            msg["value"] = self.given[msg["name"]]
        elif not getattr(msg["fn"].support, "is_discrete", False):
            middle = mean_or_none(msg["fn"])
            if middle is not None:
                msg["value"] = middle


def mean_or_none(fn: Any) -> Tensor | None:
    """A distribution's mean, where it knows one."""
    try:
        value: Tensor = fn.mean
    except (NotImplementedError, AttributeError, TypeError):
        return None
    return value if value.shape == fn.shape() and bool(torch.isfinite(value).all()) else None


class Decoder:
    """The model as a decoder of rows; to be used inside the session of the problem, parameters fitted.

    Args:
        problem: the data.
        plate: the plate whose rows are data points.
        site: the observed site that is shown.
    """

    def __init__(self, problem: Problem, plate: str, site: str) -> None:
        self.problem, self.plate, self.site = problem, problem.plates[plate], site
        self.sampled = False

    def rows(self, count: int, start: int = 0) -> Tensor:
        """So many rows to run the model on, the first ones again where there are too few."""
        return torch.arange(start, start + count, device=self.problem.device) % self.plate.size

    def observed(self, rows: Tensor) -> Array:
        """The data of those rows, row first."""
        with torch.no_grad():
            return self._row_first(Joint(self.problem, self._batch(rows)).observations()[self.site])

    def decode(self, rows: Tensor, given: Draw) -> Array:
        """The likelihood's mean given latents, those not given at the mean of their conditional prior; row first.

        Where a likelihood knows no mean, a draw of it; ``sampled`` then says so.
        """
        with _Middle(given), torch.no_grad():
            trace = self.trace(rows)
        fn = trace.nodes[self.site]["fn"]
        middle = mean_or_none(fn)
        if middle is None:
            self.sampled = True
            with torch.no_grad():
                middle = fn.sample()
        return self._row_first(middle)

    def sample(self, count: int) -> tuple[Array, Array]:
        """New rows: the likelihood's mean given latents from the prior, and draws of the data themselves."""
        rows = self.rows(count)
        with torch.no_grad(), poutine.block():
            trace = self.trace(rows)
            fn = trace.nodes[self.site]["fn"]
            drawn = fn.sample()
        middle = mean_or_none(fn) if self.problem.latents else None
        return self._row_first(drawn if middle is None else middle), self._row_first(drawn)

    def values(self, rows: Tensor, units: Mapping[str, Array]) -> dict[str, Tensor]:
        """Latents of rows as the model takes them, from their units ``(rows, n)``."""
        found = {}
        for name, flat in units.items():
            site = self.problem.sites[name]
            dim = self.plate.dim
            assert dim is not None
            axis = len(site.batch_shape) + dim
            shape = [n for i, n in enumerate(site.shape) if i != axis]
            value = torch.as_tensor(flat, dtype=self.problem.dtype, device=self.problem.device)
            found[name] = value.reshape(len(rows), *shape).movedim(0, axis)
        return found

    def unconstrained(self, name: str, units: Array) -> Array:
        """The units of a site on the real line, as far as its support has the same shape there."""
        transform = self._transform(name)
        if transform is None:
            return units
        return np.asarray(transform.inv(torch.as_tensor(units)).numpy())

    def constrained(self, name: str, units: Array) -> Array:
        """What :meth:`unconstrained` undoes."""
        transform = self._transform(name)
        return units if transform is None else np.asarray(transform(torch.as_tensor(units)).numpy())

    def _transform(self, name: str) -> Any:
        site = self.problem.sites[name]
        if site.unconstrained_shape != site.shape:
            return None
        try:
            return bijection(site.support)
        except NotImplementedError:
            return None

    def _batch(self, rows: Tensor) -> Any:
        return slice_rows(self.problem, self.plate, rows)

    def trace(self, rows: Tensor) -> Any:
        """The trace of a run of the model on those rows."""
        batch = self._batch(rows)
        with batch.active():
            return poutine.trace(self.problem.model).get_trace(*batch.args, **batch.kwargs)

    def _row_first(self, value: Tensor) -> Array:
        dim = self.plate.dim
        assert dim is not None
        axis = value.dim() - self.problem.sites[self.site].event_dim + dim
        return np.asarray(value.movedim(axis, 0).double().cpu().numpy())


def spherical(one: Array, other: Array, steps: int) -> Array:
    """Points between two, ``(steps, n)``: straight for one unit or parallel vectors, else along the arc, whose length a Gaussian keeps.

    References:
        White, *Sampling generative networks*, https://arxiv.org/abs/1609.04468
    """
    share = np.linspace(0.0, 1.0, steps)[:, None]
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    angle = float(np.arccos(np.clip(one @ other / lengths, -1, 1))) if lengths > 0 else 0.0
    if np.sin(angle) < 1e-6:
        return np.asarray((1 - share) * one + share * other)
    return np.asarray((np.sin((1 - share) * angle) * one + np.sin(share * angle) * other) / np.sin(angle))


def interpolated(decoder: Decoder, means: Mapping[str, Array], pairs: Sequence[tuple[int, int]], steps: int) -> Array:
    """Decoded points between the latents of pairs of rows, ``(pairs, steps, ...)``; on the real line, along arcs."""
    found = []
    for one, other in pairs:
        units = {}
        for name, values in means.items():
            real = decoder.unconstrained(name, values)
            units[name] = decoder.constrained(name, spherical(real[one], real[other], steps))
        rows = decoder.rows(1, one).expand(steps)
        found.append(decoder.decode(rows, decoder.values(rows, units)))
    return np.stack(found)


def traversed(
    decoder: Decoder,
    means: Mapping[str, Array],
    name: str,
    units: Sequence[int],
    row: int,
    scale: Array,
    centre: Array,
    steps: int,
) -> Array:
    """One row decoded with single units of a site moved from -3 to 3 sds of the prior, ``(units, steps, ...)``.

    Sites before it in the program keep the row's values; those after it take the mean of their conditional prior.
    """
    names = [site.name for site in decoder.problem.continuous]
    kept = names[: names.index(name) + 1]
    rows = decoder.rows(1, row).expand(steps)
    found = []
    for unit in units:
        values = {other: np.repeat(means[other][row : row + 1], steps, axis=0) for other in kept}
        real = decoder.unconstrained(name, values[name])
        real[:, unit] = centre[unit] + scale[unit] * np.linspace(-3, 3, steps)
        values[name] = decoder.constrained(name, real)
        found.append(decoder.decode(rows, decoder.values(rows, values)))
    return np.stack(found)
