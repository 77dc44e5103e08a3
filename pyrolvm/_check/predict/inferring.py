r"""Latents of new rows given the observations of these rows, at each draw of what all rows share.

In turn: exactly, where the density of a row is Gaussian in its latents; exactly, where they are discrete and can be summed over; by
the fit's own encoder; and by a normal approximation at the mode of each row. The last two propose values, of which one is chosen by
:math:`w_k = p(x, z_k) / q(z_k)`; the mean of these weights estimates the density of the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._base import randomness
from pyrolvm._check.predict.members import Kept
from pyrolvm._check.predict.onward import is_real
from pyrolvm._check.predict.running import Given, Tree
from pyrolvm._check.predict.setting import Setting
from pyrolvm._program.batching import Batch
from pyrolvm._program.density import Joint, modes
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import Plate, is_observation
from pyrolvm._program.traces import Message
from pyrolvm._results import Fit, Posterior

__all__ = ["Inferring", "inferring"]

NEAR = 2e-3
"""By how much, relative and in nats, a density may fall otherwise than a Gaussian one: more than float32 does, less than a bent one."""

UNITS = 64
"""Latents of a row up to which its second derivatives are taken."""

STEPS = 8
"""Newton's steps to the mode of a row."""

PROPOSALS = 16
"""Values of which one is chosen by its weight."""

WIDER = 1.15
"""How much wider proposals are than the normal approximation."""


@dataclass(frozen=True)
class Rows:
    """What is inferred: latents in one plate, from the observations in it."""

    plate: Plate
    latents: tuple[str, ...]
    seen: tuple[str, ...]


class Inferring:
    """Draws the latents of new rows from their posterior; inside a session.

    Attributes:
        how: ``"Gaussian"``, ``"summed"``, ``"encoder"`` or ``"mode"``.
        rows: what is inferred.
    """

    def __init__(self, setting: Setting, rows: Rows, how: str, encoder: Callable[..., Any] | None = None) -> None:
        self.how, self.rows, self._encoder = how, rows, encoder
        self._problem, self._predicted = setting.new, setting.predicted
        self._batch = Batch.of(setting.new, None)
        self._joint = Joint(_unseen(setting)) if how == "summed" else None

    def __call__(self, values: Tree) -> tuple[Tree, Tensor | None]:
        """Latents of rows by name, and the log density of each row's observations.

        Args:
            values: of all latents; those of rows are where it begins.
        """
        if self._joint is not None:
            return self._summed(values)
        if self.how == "encoder":
            drawn, weight = zip(*(self._encoded(values) for _ in range(PROPOSALS)), strict=True)
            return self._one_of(
                {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}, torch.stack(weight)
            )
        middle, factor = self.normal(values, 1 if self.how == "Gaussian" else STEPS)
        if self.how == "Gaussian":
            unit = torch.randn_like(middle)
            found = middle + torch.linalg.solve_triangular(factor.mT, unit[..., None], upper=True)[..., 0]
            half = 0.5 * middle.shape[-1] * math.log(2 * math.pi) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            return self._unflat(found, values), self.density(middle, values) + half
        return self._weighed(middle, factor, values)

    # --- one density by row ----------------------------------------------------------------------------------------------

    def density(self, flat: Tensor, values: Tree) -> Tensor:
        """The log density of each row's latents and observations. Shape ``(rows,)``."""
        return self.by_row({**values, **self._unflat(flat, values)})

    def by_row(self, values: Tree) -> Tensor:
        """The same at values by name."""
        kept = {name: Kept({}) for name in values}
        with self._batch.active(), Given(values, kept, self._predicted), poutine.trace() as tracer:
            self._problem.program(*self._batch.args, **self._batch.kwargs)
        nodes: Mapping[str, Any] = tracer.trace.nodes
        return _sum([self._term(nodes[name]) for name in (*self.rows.latents, *self.rows.seen)])

    def _term(self, node: Any) -> Tensor:
        term = torch.as_tensor(node["fn"].log_prob(node["value"]))
        term = torch.as_tensor(scale_and_mask(term, 1.0, node["mask"]))
        return _per_row(term, self.rows.plate)

    # --- Gaussian, or nearly -----------------------------------------------------------------------------------------------

    def normal(self, values: Tree, steps: int) -> tuple[Tensor, Tensor]:
        """The mode of each row, ``(rows, units)``, and the Cholesky factor of the precision there."""
        flat = self._flat(values)
        start = torch.zeros_like(flat) if steps == 1 else flat
        return modes(lambda z: self.density(z, values), start, steps)

    def _flat(self, values: Tree) -> Tensor:
        return torch.cat([self._units(values[name], name) for name in self.rows.latents], -1)

    def _units(self, value: Tensor, name: str) -> Tensor:
        axis = self._axis(name)
        moved = value.movedim(axis, 0)
        return moved.reshape(moved.shape[0], -1)

    def _axis(self, name: str) -> int:
        assert self.rows.plate.dim is not None
        return self.rows.plate.dim - self._problem.sites[name].event_dim

    def _unflat(self, flat: Tensor, values: Tree) -> Tree:
        found, start = {}, 0
        for name in self.rows.latents:
            axis = self._axis(name)
            shape = values[name].movedim(axis, 0).shape
            size = math.prod(shape[1:])
            found[name] = flat[..., start : start + size].reshape(shape).movedim(0, axis)
            start += size
        return found

    def _weighed(self, middle: Tensor, factor: Tensor, values: Tree) -> tuple[Tree, Tensor]:
        units = middle.shape[-1]
        found, weight = [], []
        for _ in range(PROPOSALS):
            unit = torch.randn_like(middle)
            flat = middle + WIDER * torch.linalg.solve_triangular(factor.mT, unit[..., None], upper=True)[..., 0]
            log_q = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 0.5 * unit.square().sum(-1)
            log_q = log_q - units * (0.5 * math.log(2 * math.pi) + math.log(WIDER))
            found.append(self._unflat(flat, values))
            weight.append(self.density(flat, values) - log_q)
        return self._one_of({name: torch.stack([one[name] for one in found]) for name in found[0]}, torch.stack(weight))

    def _one_of(self, found: Tree, weight: Tensor) -> tuple[Tree, Tensor]:
        """One of some values of each row, chosen by their weights, ``(values, rows)``; and the mean of the weights."""
        noise = -torch.empty_like(weight).exponential_().log()
        best = (weight + noise).argmax(0)
        chosen = {}
        for name, value in found.items():
            rows = value.movedim(self._axis(name), 1)
            index = best.reshape(1, -1, *[1] * (rows.dim() - 2)).expand(1, *rows.shape[1:])
            chosen[name] = rows.gather(0, index)[0].movedim(0, self._axis(name))
        return chosen, weight.logsumexp(0) - math.log(len(weight))

    # --- discrete ----------------------------------------------------------------------------------------------------------

    def _summed(self, values: Tree) -> tuple[Tree, Tensor | None]:
        assert self._joint is not None
        given = {name: value for name, value in values.items() if name not in self.rows.latents}
        terms = self._joint.terms(given)
        each = [terms.get(f"log_likelihood/{name}") for name in self.rows.seen]
        drawn = {name: value for name, value in self._joint.discrete(given).items() if name in self.rows.latents}
        known = [_per_row(term, self.rows.plate) for term in each if term is not None]
        return drawn, _sum(known) if len(known) == len(each) else None

    # --- an encoder --------------------------------------------------------------------------------------------------------

    def _encoded(self, values: Tree) -> tuple[Tree, Tensor]:
        shared = {name: value for name, value in values.items() if name not in self.rows.latents}
        found, log_q = self._guide(shared, self._batch)
        return found, self.by_row({**values, **found}) - log_q

    def _guide(self, given: Tree, batch: Batch) -> tuple[Tree, Tensor]:
        """The encoder's draw, or what is given, and its log density by row."""
        assert self._encoder is not None
        kept = {name: Kept({}) for name in given}
        with batch.active(), Given(given, kept, frozenset()), poutine.trace() as tracer:
            self._encoder(*batch.args, **batch.kwargs)
        nodes: Mapping[str, Any] = tracer.trace.nodes
        return {name: nodes[name]["value"] for name in self.rows.latents}, _sum(
            [self._term(nodes[name]) for name in self.rows.latents]
        )

    def knows_rows(self, values: Tree) -> bool:
        """Whether the encoder goes by a row's data and not by its number: rows in another order have their latents in that order."""
        with randomness.random_state(5, self._problem.device), torch.no_grad():
            found, here = self._guide({n: v for n, v in values.items() if n not in self.rows.latents}, self._batch)
            size = self.rows.plate.size
            rolled = {**values, **{name: value.roll(1, self._axis(name)) for name, value in found.items()}}
            args = tuple(_rolled(value, size) for value in self._batch.args)
            kwargs = {name: _rolled(value, size) for name, value in self._batch.kwargs.items()}
            _, there = self._guide(rolled, Batch(args, kwargs, self._batch.plates))
        return bool(here.shape == (size,) and torch.allclose(here.roll(1, 0), there, rtol=1e-3, atol=1e-3))


def inferring(posterior: Posterior, setting: Setting, values: Tree) -> Inferring | None:
    """How latents of new rows are inferred from the observations that are given; ``None`` where there are none, or nothing can.

    Args:
        posterior: what was fitted.
        setting: what runs.
        values: all latents at one draw, those of rows from their prior.
    """
    rows = _rows(setting)
    if rows is None:
        return None
    discrete = {site.name for site in setting.new.discrete}
    with setting.new.session(seed=0, params=posterior.params):
        if set(rows.latents) <= discrete:
            return _first(setting, rows, "summed", values)
        if discrete & set(rows.latents):
            return None
        exact = Inferring(setting, rows, "Gaussian")
        with torch.no_grad():
            exact.by_row(values)  # learnable parameters come into being in a plain run
        smooth = all(is_real(setting.new.sites[name].support) for name in rows.latents)
        small = smooth and exact._flat(values).shape[-1] <= UNITS
        if small and _is_gaussian(exact, values):
            return exact
        encoder = _encoder(posterior, setting, rows, values)
        return encoder or (_first(setting, rows, "mode", values) if small else None)


def _rows(setting: Setting) -> Rows | None:
    """The plate of new rows with latents of their own and observations that are given."""
    new = setting.new
    if setting.behind is not None or not setting.fresh:
        return None
    fresh = [site for site in new.latents if site.name not in setting.kept or not setting.kept[site.name].whole]
    seen = [site for site in new.observed if site.name not in setting.predicted]
    for name, plate in new.plates.items():
        inside = tuple(site.name for site in fresh if name in site.plates)
        given = tuple(site.name for site in seen if name in site.plates)
        if inside and given and plate.dim is not None and not plate.subsampled:
            return Rows(plate, inside, given)
    return None


def _first(setting: Setting, rows: Rows, how: str, values: Tree) -> Inferring | None:
    """A way, if it runs."""
    found = Inferring(setting, rows, how)
    try:
        with torch.no_grad():
            latents, density = found(values)
    except (RuntimeError, ValueError, NotImplementedError, KeyError):  # then they are drawn from their prior
        return None
    fine = all(latents[name].shape == values[name].shape for name in rows.latents if name in latents)
    return found if fine and len(latents) == len(rows.latents) and density is not None else None


def _encoder(posterior: Posterior, setting: Setting, rows: Rows, values: Tree) -> Inferring | None:
    """The fit's guide, where it encodes rows that it has not seen and needs nothing that was left out."""
    if not isinstance(posterior, Fit) or posterior.guide is None or setting.asked.left_out:
        return None
    found = Inferring(setting, rows, "encoder", posterior.guide_fn())
    try:
        return found if found.knows_rows(values) else None
    except (
        RuntimeError,
        ValueError,
        NotImplementedError,
        KeyError,
        IndexError,
    ):  # a guide with parameters for each row
        return None


def _is_gaussian(found: Inferring, values: Tree) -> bool:
    """Whether the density of each row is that of a Gaussian, at points on both sides of the mean."""
    try:
        middle, factor = found.normal(values, 1)
    except (RuntimeError, ValueError, NotImplementedError):  # no second derivatives
        return False
    if not bool(torch.isfinite(factor).all() and torch.isfinite(middle).all()):
        return False
    with torch.no_grad():
        top = found.density(middle, values)
        unit = torch.ones_like(middle) * torch.tensor([1.0, -0.5]).repeat(middle.shape[-1])[: middle.shape[-1]].to(
            middle
        )
        for times in (1.0, -2.0, 3.0):
            step = times * torch.linalg.solve_triangular(factor.mT, unit[..., None], upper=True)[..., 0]
            fall = 0.5 * times**2 * unit.square().sum(-1)
            if not torch.allclose(top - found.density(middle + step, values), fall, rtol=NEAR, atol=NEAR):
                return False
    return True


def _per_row(term: Tensor, plate: Plate) -> Tensor:
    assert plate.dim is not None
    moved = term.movedim(plate.dim, 0)
    return moved.reshape(moved.shape[0], -1).sum(1)


def _sum(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum(0)


def _rolled(value: object, size: int) -> object:
    return value.roll(1, 0) if isinstance(value, Tensor) and value.dim() and len(value) == size else value


class _Masked(Messenger):
    """Says nothing of observations that are to be predicted."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self.names and is_observation(msg):
            msg["mask"] = False


def _unseen(setting: Setting) -> Problem:
    """The problem without the densities of what stands for observations that were left out."""
    if not setting.predicted:
        return setting.new
    handler = _Masked(setting.predicted)
    return setting.new.replace(model=handler(setting.new.program))
