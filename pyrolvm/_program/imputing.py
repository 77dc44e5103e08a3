"""Observations that are missing: left out of the density where nothing else depends on them, latents where something does.

Missing values are NaN in the arguments. A site that observes some leaves them out of its density, which is their marginal where nothing
depends on them; they are then drawn after inference. Where something does (lags, covariates that have a distribution), those of
continuous sites are latents: the program runs with their values in the place of the NaN, so that its density is that of data and
missing values together.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._base.errors import DataError
from pyrolvm._program.binding import Wrapped
from pyrolvm._program.data import mapped
from pyrolvm._program.traces import Message

__all__ = ["Absent", "Entries", "Impute", "elementwise", "partly"]


@dataclass(frozen=True)
class Absent:
    """The missing values of one observed site.

    Attributes:
        site: the observed site.
        name: the site of the missing values.
        shape: the shape of the observed site.
        index: where they are, in the flattened value. Shape ``(m,)``.
        placeholder: a value of the site that stands in their place where they have no density.
        sources: for latents, the arguments that hold them, with where each one is: ``(place of the argument, index in it, which
            ones, its length when flat)``. Empty for those that nothing depends on.
        constraint: the support of each latent; ``None`` for those that nothing depends on.
    """

    site: str
    name: str
    shape: tuple[int, ...]
    index: Tensor
    placeholder: float
    sources: tuple[tuple[str, Tensor, Tensor, int], ...] = ()
    constraint: constraints.Constraint | None = None

    @property
    def latent(self) -> bool:
        """Whether they are latents of the model."""
        return bool(self.sources)

    def labels(self, rows: list[object] | None) -> list[object]:
        """What the values are called: the label or number of the row, and the further indices."""
        places = torch.stack(torch.unravel_index(self.index.cpu(), self.shape), -1).tolist() if self.shape else [[]]
        named = [[rows[place[0]] if rows is not None else place[0], *place[1:]] for place in places]
        return [one[0] if len(one) == 1 else ", ".join(map(str, one)) for one in named]

    @property
    def mask(self) -> Tensor:
        """Which values are missing, in the shape of the site."""
        flat = torch.zeros(self.shape, dtype=torch.bool, device=self.index.device).reshape(-1)
        return flat.index_fill(0, self.index, True).reshape(self.shape)


class Entries(dist.TorchDistribution):
    """Some entries of the values of a distribution whose rows are independent: all of a row, or single values of it."""

    def __init__(self, fn: dist.TorchDistribution, absent: Absent) -> None:
        super().__init__(torch.Size(), torch.Size((len(absent.index),)), validate_args=False)
        self.fn, self.absent = fn, absent

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """That of a single value."""
        base = elementwise(self.fn)
        return constraints.independent(constraints.real if base is None else base.support, 1)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """None: what it is made of has its own."""
        return {}

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The entries of a draw."""
        value: Tensor = self.fn.sample(torch.Size(sample_shape))
        return value.reshape(*sample_shape, -1)[..., self.absent.index]

    def log_prob(self, value: Tensor) -> Tensor:
        """The density of the entries alone."""
        full = torch.full(self.absent.shape, self.absent.placeholder, dtype=value.dtype, device=value.device)
        full = full.reshape(-1).scatter(0, self.absent.index, value).reshape(self.absent.shape)
        base = elementwise(self.fn)
        if base is not None:
            return base.log_prob(full).reshape(-1)[self.absent.index].sum()
        rows = self.absent.mask.reshape(*self.fn.batch_shape, -1).all(-1)
        return torch.where(rows, self.fn.log_prob(full), torch.zeros((), dtype=value.dtype)).sum()

    def expand(self, batch_shape: object, _instance: object = None) -> Entries:
        """Itself, which has no batch."""
        return self


def elementwise(fn: Any) -> Any:
    """The distribution of single values, where those of an event are independent; ``None`` where they are not."""
    masked = isinstance(fn, dist.MaskedDistribution)
    if masked or isinstance(fn, dist.Independent | torch.distributions.Independent | dist.ExpandedDistribution):
        return elementwise(fn.base_dist)
    return fn if fn.event_dim == 0 else None


def partly(absent: Tensor, event_dim: int) -> bool:
    """Whether of some event a part is missing, and not all."""
    rows = absent.reshape(*absent.shape[: absent.dim() - event_dim], -1)
    return bool((rows.any(-1) & ~rows.all(-1)).any())


class _Sites(Messenger):
    """Leaves missing values out of the density of the sites that observe them, and keeps the distributions of these sites."""

    def __init__(self, absent: Mapping[str, Absent]) -> None:
        super().__init__()
        self.absent = {one.site: one for one in absent.values() if not one.latent}
        self.found: dict[str, dist.TorchDistribution] = {}

    def _pyro_sample(self, msg: Message) -> None:
        one = self.absent.get(msg["name"])
        if one is None or not msg["is_observed"]:
            return
        value, fn = msg["value"], msg["fn"]
        missing = torch.isnan(value)
        batch = value.shape[: value.dim() - fn.event_dim]
        if tuple(value.shape) == one.shape:
            self.found[one.name] = fn.expand(torch.Size(np.broadcast_shapes(fn.batch_shape, batch)))
        msg["value"] = torch.where(missing, torch.full_like(value, one.placeholder), value)
        if fn.event_dim and elementwise(fn) is not None:
            msg["fn"] = fn.base_dist.mask(~missing).to_event(fn.reinterpreted_batch_ndims)
            return
        seen = ~missing.reshape(*batch, -1).all(-1) if fn.event_dim else ~missing
        msg["mask"] = seen if msg["mask"] is None else msg["mask"] & seen


class Impute(Wrapped):
    """A program whose missing observations are sites of their own.

    Args:
        inner: the program as it was written.
        absent: the missing values, by the name of their site.
        names: the names of its arguments, in their order.
    """

    def __init__(self, inner: Callable[..., object], absent: Mapping[str, Absent], names: tuple[str, ...]) -> None:
        self.inner, self.absent, self.names = inner, dict(absent), names
        self.__name__ = str(getattr(inner, "__name__", type(inner).__name__))
        self.__doc__ = inspect.getdoc(inner)
        try:
            self.__signature__ = inspect.signature(inner)
        except (TypeError, ValueError):
            pass

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Latents first, then the program at their values, then what is drawn from its distributions."""
        filled: list[tuple[str, Tensor, Tensor, int]] = []
        for one in self.absent.values():
            if one.latent:
                flat = dist.ImproperUniform(one.constraint, (), (len(one.index),))
                value = pyro.sample(one.name, flat)
                filled += [(place, index, value[..., which], size) for place, index, which, size in one.sources]
        if filled:
            args, kwargs = self._with(filled, args, kwargs)
        sites = _Sites(self.absent)
        with sites:
            result = self.inner(*args, **kwargs)
        for name, fn in sites.found.items():
            pyro.sample(name, Entries(fn, self.absent[name]))
        return result

    def _with(
        self, filled: Sequence[tuple[str, Tensor, Tensor, int]], args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        """Arguments with latents in the place of what is missing."""

        def put(label: str, leaf: Any) -> object:
            for _, index, value, size in (one for one in filled if one[0] == label):
                if leaf.numel() != size:
                    raise DataError(
                        f"missing values of argument {label!r} are latents, so that its rows cannot be taken in parts. "
                        "Fix: leave batch_size out."
                    )
                leaf = leaf.reshape(-1).scatter(0, index, value.to(leaf.dtype)).reshape(leaf.shape)
            return leaf

        positional = tuple(mapped(value, name, put) for name, value in zip(self.names, args, strict=False))
        return positional, {name: mapped(value, name, put) for name, value in kwargs.items()}
