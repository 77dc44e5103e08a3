"""The groups of a prediction, as ArviZ names them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.numerics import Array
from pyrolvm._check.predict.running import TOGETHER, observed_values
from pyrolvm._check.predict.scores import scores, totals
from pyrolvm._check.predict.setting import Setting
from pyrolvm._results.datasets import described, named_dims, site_dataset
from pyrolvm._results.unmasked import counted

__all__ = ["groups"]

UNORDERED = ("Categorical", "OneHotCategorical", "Multinomial")
"""Distributions whose values have no order."""

DRAWN = ("predictions", "log_score", "reconstructions")
"""Groups with draws."""


def groups(setting: Setting, found: Mapping[str, Tensor], chains: int, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The groups of the result."""
    new = setting.new
    dims, coords = named_dims(new), setting.labels()
    found_groups = {}
    taken: set[int] = set()
    for group in DRAWN:
        values = {
            name.removeprefix(f"{group}/"): _own(value, taken).reshape(chains, -1, *value.shape[1:])
            for name, value in found.items()
            if name.startswith(f"{group}/")
        }
        if values:
            named = {name: dims[name][: value.ndim - 2] for name, value in values.items() if name in dims}
            found_groups[group] = described(
                site_dataset(values, named, attrs=attrs, coords=coords, given_away=True), new, setting.asked.codes
            )
    scored = _scores(setting, found, attrs, drawn=attrs["kind"] == "draws")
    if scored is not None:
        found_groups["scores"] = scored
    constant = {
        name: value.cpu().numpy()
        for name, value in setting.arguments().items()
        if isinstance(value, Tensor) and name not in setting.asked.left_out
    }
    if constant:
        told = site_dataset(constant, {}, attrs=attrs, sample_dims=())
        found_groups["predictions_constant_data"] = described(told, new, setting.asked.codes)
    return found_groups


def _own(value: Tensor, taken: set[int]) -> Array:
    """Draws as an array that nobody else holds: themselves where they are, as all are that many runs wrote, or else a copy."""
    storage = value.untyped_storage()
    whole = len(value) > 1 and value.is_contiguous() and storage.nbytes() == value.numel() * value.element_size()
    if not whole or storage.data_ptr() in taken:
        return np.array(value.cpu().numpy())
    taken.add(storage.data_ptr())
    return value.cpu().numpy()


def _scores(setting: Setting, found: Mapping[str, Tensor], attrs: Mapping[str, Any], *, drawn: bool) -> Any:
    """The scores of what is given, by row; ``None`` where nothing is."""
    new = setting.new
    seen, dims, told = observed_values(new), named_dims(new), dict(attrs)
    values: dict[str, Any] = {}
    named: dict[str, list[str]] = {}
    with new.session(seed=0), torch.no_grad():
        counts = counted(new)
    rows_seen: list[Array] = []
    for key, term in found.items():
        if not key.startswith("log_score/"):
            continue
        name = key.removeprefix("log_score/")
        ordered = drawn and new.sites[name].distribution not in UNORDERED
        draws = found[f"predictions/{name}"].cpu().numpy() if ordered else None
        here = setting.shown(name, seen[name], False)
        assert here is not None
        density = term.cpu().numpy()
        each = scores(density, draws, here.cpu().numpy())
        if name in counts:
            rows_seen.append(_without_unseen(setting, name, counts[name], each))
        told |= totals(name, each, density)
        for what, value in each.items():
            values[f"{name}_{what}"], named[f"{name}_{what}"] = value, dims[name][: value.ndim]
    if not values:
        return None
    together = _together(found)
    if together is not None:
        each = {name: value for name, value in scores(together, None, together[0]).items() if name.startswith("lpd")}
        if len(rows_seen) == len({name for name in found if name.startswith("log_score/")}) > 0:
            for value in each.values():
                value[~np.any(rows_seen, axis=0)] = np.nan
        told |= {name.removeprefix("_"): value for name, value in totals("", each, together).items()}
        rows = next(dims for name, dims in named.items() if name.endswith("_lpd"))
        values |= each
        named |= {name: rows[: value.ndim] for name, value in each.items()}
    return site_dataset(values, named, attrs=told, coords=setting.labels(), sample_dims=())


def _without_unseen(setting: Setting, name: str, counts: Array, each: dict[str, Array]) -> Array:
    """Takes scores of what is masked out or missing away, and says of which rows anything is seen."""
    shown = setting.shown(name, torch.as_tensor(counts), False)
    assert shown is not None
    seen: Array = shown.numpy()
    event = setting.new.sites[name].event_dim
    rows = np.asarray(seen.reshape(*seen.shape[: seen.ndim - event], -1).any(-1))
    for value in each.values():
        for where in (seen, rows):
            if value.shape == where.shape:
                value[~where] = np.nan
                break
    return rows


def _together(found: Mapping[str, Tensor]) -> Array | None:
    """The log density of all sites by draw and row; ``None`` where there is one, or they are of other rows."""
    if TOGETHER in found:
        return found[TOGETHER].cpu().numpy()
    terms = [value.cpu().numpy() for key, value in found.items() if key.startswith("log_score/")]
    if len(terms) < 2 or len({term.shape for term in terms}) > 1:
        return None
    return np.asarray(reduce(np.add, terms))
