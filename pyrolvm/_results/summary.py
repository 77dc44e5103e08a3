"""What a posterior says, as tables: a row for each quantity, or for each draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.errors import unknown_name
from pyrolvm._base.importance import khat_of_variance
from pyrolvm._base.numerics import Array
from pyrolvm._results.points import read_points
from pyrolvm._results.reading import Block, blocks, independent, is_exact, log_weights
from pyrolvm._results.tables import chain_rows, independent_rows, levels

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["chosen", "dataframe", "quantities", "summarised"]

CHAIN_COLUMNS = ("mcse_mean", "ess_bulk", "ess_tail", "rhat")


def quantities(data: xr.DataTree, group: str | None) -> list[Block]:
    """The variables of a group; without one, what is to be judged of a posterior.

    Raises:
        ArgumentError: if there is no such group of draws.
    """
    known = [name for name, part in data.children.items() if {"chain", "draw"} <= set(part.sizes)]
    if group is not None and group not in known:
        raise unknown_name("group of draws", group, known)
    return list(blocks(data, group))


def summarised(data: xr.DataTree, *, interval: float, group: str | None, limit: int) -> pd.DataFrame:
    """The table of :meth:`pyrolvm.Posterior.summary`."""
    import pandas as pd

    quantiles = levels(interval)
    parts = quantities(data, group)
    posterior = data["posterior"].sizes
    points, corrected = bool(read_points(data)), "proposal_stats" in data.children
    worth = float(posterior["chain"] * posterior["draw"]) if points else independent(data)
    weights = None if points or corrected or is_exact(data) else log_weights(data)
    rows = [_rows(part, quantiles, worth, weights) for part in _shared(parts, limit)]
    table = pd.concat(rows) if rows else pd.DataFrame(index=pd.Index([], name="quantity"))
    table.attrs["left_out"] = sum(len(part.labels) for part in parts) - len(table)
    return table


def _rows(part: Block, quantiles: dict[str, float], worth: float | None, weights: Array | None) -> pd.DataFrame:
    """Rows by what made the draws: chains, or draws that are worth so many independent ones, with weights or without."""
    draws = part.draws.shape[0] * part.draws.shape[1]
    shown = ["mean", "sd", *quantiles]
    if worth is None and draws > 1:
        return chain_rows(part, quantiles)[[*shown, *CHAIN_COLUMNS]]
    worth = min(worth or 1.0, float(draws))  # of thinned groups their own number
    rows = independent_rows(part, worth, quantiles).assign(ess=worth)
    if weights is not None and len(weights) == draws > 1:  # thinned groups have no weight for each of their draws
        rows["khat"] = [_khat(weights, column) for column in part.draws.astype(np.float64).reshape(draws, -1).T]
    return rows[[*shown, "mcse_mean", *rows.columns.intersection(["ess", "khat"])]]


def _khat(weights: Array, values: Array) -> float:
    """The k-hat of a quantity's variance; NaN of one that does not vary."""
    return khat_of_variance(weights, values) if np.ptp(values) > 0 else math.nan


def _shared(parts: list[Block], limit: int) -> list[Block]:
    """The first elements of each variable, so many that there are ``limit`` in all and small variables are whole."""
    room, left, taken = limit, len(parts), {}
    for place in sorted(range(len(parts)), key=lambda place: len(parts[place].labels)):
        taken[place] = min(len(parts[place].labels), room // left)
        room, left = room - taken[place], left - 1
    return [part.take(np.arange(taken[place])) for place, part in enumerate(parts) if taken[place]]


def dataframe(data: xr.DataTree, group: str) -> pd.DataFrame:
    """The draws of a group, a row for each draw and a column for each scalar quantity."""
    import pandas as pd

    columns: dict[str, Array] = {}
    for part in quantities(data, group):
        flat = part.draws.reshape(-1, part.draws.shape[2])
        columns |= dict(zip(part.labels, flat.T.astype(int) if part.discrete else flat.T, strict=True))
    own = data[group]
    index = pd.MultiIndex.from_product([own["chain"].values, own["draw"].values], names=["chain", "draw"])
    return pd.DataFrame(columns, index=index)


def chosen(data: xr.DataTree, names: str | Iterable[str] | None, limit: int) -> dict[str, tuple[Array, bool]]:
    """Draws to be shown by label, each of shape ``(chain, draw)``, and whether they are integers.

    Args:
        data: a result's tree.
        names: labels, such as ``theta[3]``, or names of whole variables; ``None`` for the first of each variable.
        limit: how many, where it is left to us.

    Raises:
        UnknownNameError: if there is nothing of a name.
    """
    parts = quantities(data, None)
    if names is None:
        return dict(_each(_shared(parts, limit)))
    known = dict(_each(parts))
    variables = {part.variable: part for part in parts}
    found: dict[str, tuple[Array, bool]] = {}
    for name in [names] if isinstance(names, str) else names:
        if name in known:
            found[name] = known[name]
        elif name in variables:
            found |= dict(_each([variables[name]]))
        else:
            raise unknown_name("quantity", name, [*variables, *known])
    return found


def _each(parts: Iterable[Block]) -> Iterator[tuple[str, tuple[Array, bool]]]:
    for part in parts:
        for place, label in enumerate(part.labels):
            yield label, (part.draws[:, :, place], part.discrete)
