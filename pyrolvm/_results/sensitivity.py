"""How much prior and likelihood each decide a posterior: its move when one of them is raised to a power near one."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro import poutine
from pyro.ops.provenance import extract_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.importance import smooth
from pyrolvm._base.numerics import Array
from pyrolvm._base.passing import passed_over
from pyrolvm._program.names import variable
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_deterministic, is_random
from pyrolvm._program.starting import Start, around
from pyrolvm._program.traces import Message
from pyrolvm._results.points import read_points
from pyrolvm._results.reading import is_exact, log_weights

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["THRESHOLD", "psense"]

THRESHOLD = 0.05
"""From here on a sensitivity counts."""
FEWEST = 20
"""Draws that weights have to leave."""
MOST_SITES = 12
"""Prior sites that have a column of their own."""


def psense(data: xr.DataTree, problem: Problem | None, name: str) -> pd.DataFrame:
    """Power-scaling sensitivity of each quantity; see :meth:`pyrolvm.Posterior.psense`.

    Args:
        data: the tree of draws.
        problem: what they are of; without it all priors are taken together.
        name: the posterior's name.

    Raises:
        ArgumentError: if the draws have no densities of prior and likelihood.
    """
    import pandas as pd

    _check(data, name)
    prior, likelihood = data["log_prior"].to_dataset(), data["log_likelihood"].to_dataset()
    top = [site for site in _top(problem, [str(one) for one in prior.data_vars]) if site in prior]
    draws = [np.asarray(one["draw"].values) for one in (data["posterior"], prior, likelihood)]
    shared = draws[0][np.isin(draws[0], draws[1]) & np.isin(draws[0], draws[2])]
    posterior = data["posterior"].to_dataset()[_varied(data)].sel(draw=shared)
    totals = {site: _total(prior[[site]], shared) for site in top}
    groups = {"prior": sum(totals[site] for site in top), "likelihood": _total(likelihood, shared)}
    if 1 < len(top) <= MOST_SITES:
        groups |= {f"prior of {site}": totals[site] for site in top}
    columns = {}
    chosen = _resampled(data, shared)
    if chosen is not None and len(np.unique(chosen)) < FEWEST:
        raise ArgumentError(
            f"{name} is far from the posterior: log p - log q leaves {len(np.unique(chosen))} of its {len(chosen)} draws, of which "
            "nothing can be told. Fix: fit longer, take another guide, or use lvm.nuts."
        )
    for group, density in groups.items():
        tree = _tree(posterior, density, chosen)
        with np.errstate(divide="ignore", invalid="ignore"):  # of weights that are ties
            found = import_module("arviz_stats").psense(tree, group="prior", group_var_names=["density"])
        columns[group] = _listed(found["sensitivity"] if "sensitivity" in getattr(found, "children", {}) else found)
    table = pd.DataFrame(columns)
    table.index.name = "quantity"
    table["diagnosis"] = [_said(row["prior"], row["likelihood"]) for _, row in table.iterrows()]
    table.attrs["prior_sites"] = top
    return table


def _check(data: xr.DataTree, name: str) -> None:
    if read_points(data) or data["posterior"].attrs.get("inference_method") == "maximum_likelihood":
        raise ArgumentError(
            f"{name} has one value where a posterior has a density. Fix: fit a guide with a density, or use lvm.nuts."
        )
    for group in ("log_prior", "log_likelihood"):
        if group not in data.children or not data[group].data_vars:
            raise ArgumentError(
                f"{name} has no {group} by site, so nothing says what a power of it would change. Fix: observe data at sites "
                "(obs=y), give latents priors by pyro.sample, and take a result that keeps its groups."
            )


def _varied(data: xr.DataTree) -> list[str]:
    """The variables that vary from draw to draw, and are numbers."""
    return [
        str(name)
        for name, values in data["posterior"].data_vars.items()
        if values.dtype.kind in "fiu" and np.ptp(values.values) > 0
    ]


def _total(densities: xr.Dataset, draws: Array) -> Any:
    """The log density of all, by chain and draw."""
    parts = [
        one.sum([dim for dim in one.dims if dim not in ("chain", "draw")])
        for one in densities.sel(draw=draws).data_vars.values()
    ]
    return sum(parts[1:], parts[0]).astype(float)


def _resampled(data: xr.DataTree, draws: Array) -> Array | None:
    """Of a guide's draws, which ones to take, each as often as its weight says; ``None`` of draws of the posterior."""
    if is_exact(data) or (weights := log_weights(data)) is None:
        return None
    sizes = data["posterior"].sizes
    taken = weights.reshape(sizes["chain"], sizes["draw"])[
        :, np.isin(np.asarray(data["posterior"]["draw"].values), draws)
    ]
    flat = np.where(np.isfinite(taken.reshape(-1)), taken.reshape(-1), -np.inf).astype(float)
    smoothed = smooth(np.where(np.isfinite(flat), flat, flat[np.isfinite(flat)].min() - 50))[1]
    share = np.exp(smoothed - smoothed.max())  # of thousands of rows all weights are beyond what a number holds
    edges = np.cumsum(share / share.sum())
    return np.searchsorted(edges, (np.arange(len(flat)) + 0.5) / len(flat)).clip(max=len(flat) - 1)


def _tree(posterior: xr.Dataset, density: Any, chosen: Array | None) -> xr.DataTree:
    import xarray as xr

    prior = density.to_dataset(name="density")
    if chosen is not None:
        posterior, prior = (
            one.stack(every=("chain", "draw")).isel(every=chosen).drop_vars(["every", "chain", "draw"]).rename(every="draw")
            .expand_dims("chain").assign_coords(chain=[0], draw=np.arange(len(chosen)))
            for one in (posterior, prior)
        )  # fmt: skip
    return xr.DataTree.from_dict({"posterior": posterior, "log_prior": prior})


def _listed(found: Any) -> dict[str, float]:
    from arviz_base import xarray_var_iter

    dataset = found.to_dataset() if hasattr(found, "to_dataset") else found
    listed = {}
    for name, place, _, value in xarray_var_iter(dataset, skip_dims=set()):
        where = ", ".join(map(str, place.values()))
        listed[f"{name}[{where}]" if where else str(name)] = float(value)
    return listed


def _said(prior: float, likelihood: float) -> str:
    if prior >= THRESHOLD and likelihood >= THRESHOLD:
        return "prior and likelihood may disagree"
    if prior >= THRESHOLD:
        return "the prior decides; the data say little"
    return ""


# --- which priors stand at the top ------------------------------------------------------------------------------------


class _Track(Messenger):
    """Marks each latent with its name."""

    def _pyro_post_sample(self, msg: Message) -> None:
        if isinstance(msg["value"], Tensor) and is_random(msg) and not is_deterministic(msg) and not msg["is_observed"]:
            msg["value"] = track_provenance(extract_provenance(msg["value"])[0], frozenset({msg["name"]}))


def _top(problem: Problem | None, known: list[str]) -> Iterator[str]:
    """The priors that no other latent sets: a power of the others would be one of the model, and not of what is put into it."""
    if problem is None:
        yield from known
        return
    with problem.session(seed=0), torch.no_grad():
        try:
            with poutine.trace() as tracer, _Track(), Start(around):
                problem.model(*problem.args, **problem.kwargs)
            tracer.trace.compute_log_prob()
        except Exception:
            passed_over("whatever marked tensors cannot do")
            yield from known
            return
    for site in problem.latents:
        node = tracer.trace.nodes.get(site.name)
        if node is not None and site.name not in problem.absent and get_provenance(node["log_prob"]) <= {site.name}:
            yield variable(site.name)
