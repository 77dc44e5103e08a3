"""Reads a posterior as arrays of scalar quantities: the one room here that knows the names of groups."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.importance import weigh, worth_of_chosen
from pyrolvm._base.numerics import Array
from pyrolvm._results.copies import view

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Block",
    "PosteriorLike",
    "blocks",
    "draws_group",
    "independent",
    "is_exact",
    "keep_worst",
    "labels",
    "log_weights",
    "stat",
    "tree",
]


LOOKED_AT = 64
"""Numbers that may tell already that a variable is continuous."""


@runtime_checkable
class PosteriorLike(Protocol):
    """What a comparison or a diagnosis needs of a result: its DataTree.

    ``name``, ``seconds``, ``engine``, ``evidence`` and ``verdict`` are read too where they exist.
    """

    @property
    def data(self) -> xr.DataTree:
        """The groups ``posterior``, ``sample_stats`` and so on, by ArviZ's names."""


def tree(posterior: PosteriorLike | xr.DataTree, what: str = "posterior") -> xr.DataTree:
    """Returns the DataTree of a result, or the tree itself where one was handed over.

    Raises:
        ArgumentError: if there is no tree, or it has no group ``posterior`` with dims ``chain`` and ``draw``.
    """
    import xarray as xr

    data = posterior if isinstance(posterior, xr.DataTree) else getattr(posterior, "data", None)
    if not isinstance(data, xr.DataTree):
        raise ArgumentError(
            f"{what} is a {type(posterior).__name__}, expected a result of fit, nuts, infer, exact or load, "
            "or an ArviZ DataTree. Fix: pass the result itself, for example lvm.diagnose(lvm.fit(problem))."
        )
    if "posterior" not in data.children:
        raise ArgumentError(
            f"{what} has no group 'posterior' (it has: {', '.join(data.children) or 'none'}). "
            "Fix: pass a DataTree with posterior draws, for example made by arviz_base.from_dict."
        )
    missing = {"chain", "draw"} - set(data["posterior"].sizes)
    if missing:
        raise ArgumentError(
            f"group 'posterior' of {what} lacks the dimension(s) {', '.join(sorted(missing))}. "
            "Fix: give every draw the dimensions (chain, draw), chain of length 1 for independent draws."
        )
    return data


def draws_group(data: xr.DataTree) -> str:
    """Returns the group to judge: ``quantities`` where the model names identified ones, else ``posterior``."""
    return "quantities" if "quantities" in data.children and data["quantities"].data_vars else "posterior"


def stat(data: xr.DataTree, name: str) -> Array | None:
    """Returns a variable of ``sample_stats`` shaped (chain, draw), or None where it was not recorded."""
    if "sample_stats" not in data.children or name not in data["sample_stats"].data_vars:
        return None
    values = data["sample_stats"][name]
    if not {"chain", "draw"} <= set(values.dims):
        return None
    return np.asarray(values.transpose("chain", "draw", ...).values)


def is_exact(data: xr.DataTree) -> bool:
    """Whether draws come with the evidence itself, so that log p - log q is known to be that at each of them."""
    return "sample_stats" in data.children and "log_evidence" in data["sample_stats"].data_vars


def log_weights(data: xr.DataTree) -> Array | None:
    """Returns log p - log q of every draw, flat, or None where the posterior has no importance weights."""
    weights = stat(data, "log_weight")
    if weights is None:
        log_p, log_q = stat(data, "lp"), stat(data, "log_q")
        if log_p is None or log_q is None:
            return None
        with np.errstate(invalid="ignore"):
            weights = log_p - log_q
    return weights.reshape(-1)


def independent(data: xr.DataTree) -> float | None:
    """How many independent draws those of a posterior are worth; ``None`` of Markov chains, whose own correlation tells.

    Draws that were chosen by weights are worth no more than the draws that they were chosen from, nor than their own number.
    """
    draws = data["posterior"].sizes["chain"] * data["posterior"].sizes["draw"]
    if "proposal_stats" in data.children:
        _, weights = weigh(np.asarray(data["proposal_stats"]["log_weight"].values))
        return worth_of_chosen(weights, draws)
    return float(draws) if log_weights(data) is not None else None


@dataclass(frozen=True)
class Block:
    """All elements of one variable: draws of shape (chain, draw, n), labels of length n."""

    variable: str
    labels: list[str]
    draws: Array
    discrete: bool

    def take(self, index: Array) -> Block:
        """Returns the block with the elements of the index only."""
        return replace(self, labels=[self.labels[i] for i in index], draws=self.draws[:, :, index])


def labels(values: xr.DataArray) -> list[str]:
    """Returns one label for each element of a variable with dims (chain, draw, ...): ``theta[Choate]``, ``z[0, 3]``."""
    dims = [dim for dim in values.dims if dim not in ("chain", "draw")]
    if not dims:
        return [str(values.name)]
    axes = [
        [str(v) for v in np.asarray(values.coords[d].values)] if d in values.coords else _range(values, d) for d in dims
    ]
    names = axes[0]
    for axis in axes[1:]:
        names = [f"{left}, {right}" for left in names for right in axis]
    return [f"{values.name}[{name}]" for name in names]


def _range(values: xr.DataArray, dim: Hashable) -> list[str]:
    return [str(i) for i in range(values.sizes[dim])]


def block(values: xr.DataArray) -> Block:
    """Returns one variable as a Block; draws keep their floating dtype, other numbers become float64."""
    ordered = values.transpose("chain", "draw", ...)
    raw = np.asarray(ordered.values)
    flat = raw.reshape(*raw.shape[:2], -1)
    discrete = raw.dtype.kind in "iub" or _counts(raw)
    if raw.dtype.kind != "f":
        flat = flat.astype(np.float64)
    return Block(str(values.name), labels(ordered), flat, discrete)


def _counts(draws: Array) -> bool:
    """Whether floating numbers are whole ones of which there are several, as those of torch's Bernoulli, Binomial and Poisson are."""
    first = draws.reshape(-1)[:LOOKED_AT]
    return bool((first == np.rint(first)).all() and np.ptp(draws) > 0 and (draws == np.rint(draws)).all())


def blocks(data: xr.DataTree, group: str | None = None) -> Iterator[Block]:
    """Yields every numeric variable that has draws, in the order of declaration: of a group, or of what is to be judged."""
    for values in (view(data) if group is None else data[group]).data_vars.values():
        if {"chain", "draw"} <= set(values.dims) and values.dtype.kind in "fiub" and values.size:
            yield block(values)


def keep_worst(scores: list[Array], limit: int) -> list[Array]:
    """Picks the elements with the highest scores over all blocks together.

    Args:
        scores: one array of scores (n,) for each block.
        limit: how many elements to keep in all.

    Returns:
        For each block the indices kept, ascending; among equal scores the earlier ones.
    """
    flat = np.concatenate(scores) if scores else np.zeros(0)
    kept = np.zeros(flat.size, dtype=bool)
    kept[np.argsort(-flat, kind="stable")[:limit]] = True
    edges = np.cumsum([score.size for score in scores])[:-1]
    return [np.flatnonzero(part) for part in np.split(kept, edges)] if scores else []
