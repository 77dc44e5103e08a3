"""The result of a model without latents: log p(data) at the parameters that a fit reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyrolvm._base.numerics import Array
from pyrolvm._program.density import Joint, repeat
from pyrolvm._program.names import Dimensions
from pyrolvm._program.origin import with_origin
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import plate_of_rows
from pyrolvm._program.sites import is_deterministic, is_random
from pyrolvm._results.datasets import data_groups, named_dims, optimization_dataset, ordered, site_dataset
from pyrolvm._results.history import History

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["generated", "likelihood_tree"]

AT_ONCE = 500_000
"""Observed numbers whose density is computed at once."""


def likelihood_tree(
    problem: Problem, history: History, *, batch_size: int | None, attrs: Mapping[str, object]
) -> xr.DataTree:
    """Log p(data) in ``sample_stats`` (``lp``), by row in ``log_likelihood``, and the data; inside the fit's session.

    There is one draw of nothing: groups have ``chain`` and ``draw`` of length one, so that what reads other results reads this one.
    """
    import xarray as xr

    dims = named_dims(problem)
    base = {**attrs, "pyrolvm_problem": problem.name}
    total, rows, values = _densities(problem)
    one = {"chain": [0], "draw": [0]}
    posterior = site_dataset(
        {n: v[None, None] for n, v in values.items()},
        dims,
        attrs=with_origin(base, problem),
        coords=Dimensions(problem).coords(),
    )
    stats = site_dataset({"lp": np.full((1, 1), total)}, {}, attrs=attrs)
    groups = {"posterior": posterior.assign_coords(one), "sample_stats": stats}
    if rows:
        names = {n: dims[n][: v.ndim] for n, v in rows.items()}
        groups["log_likelihood"] = site_dataset(
            {n: v[None, None] for n, v in rows.items()}, names, attrs=base, coords=Dimensions(problem).coords()
        )
    groups |= data_groups(problem, dims, base)
    groups["optimization"] = optimization_dataset(history, 1, batch_size)
    return xr.DataTree.from_dict(ordered(groups))


def generated(problem: Problem, count: int) -> dict[str, Tensor]:
    """New observations of a model, latents from the prior, each of shape ``(count, ...)``; inside a session.

    In a model with a plate of rows a draw is a row, given the other arguments of the rows in turn; in another one it is a whole
    data set.
    """
    plate = plate_of_rows(problem)
    names = [site.name for site in problem.observed]
    with torch.no_grad():
        if plate is None:
            like = torch.zeros((), dtype=problem.dtype, device=problem.device)
            found = repeat(lambda: Joint(problem).predictive({}), count, like=like)
            return {name: found[name] for name in names}
        rows = torch.arange(count, device=problem.device) % plate.size
        found = Joint(problem, problem.batch(rows, plate=plate.name)).predictive({})
        sites = {name: problem.sites[name] for name in names if plate.name in problem.sites[name].plates}
        return {
            n: found[n].movedim(found[n].dim() - site.event_dim + (plate.dim or -1), 0) for n, site in sites.items()
        }


def _densities(problem: Problem) -> tuple[float, dict[str, Array], dict[str, Array]]:
    """Log p(data), the log density of each observation by site, and deterministic values, a part of the rows at a time."""
    plate = plate_of_rows(problem)
    size = sum(site.numel for site in problem.observed)
    chunk = None if plate is None else max(1, AT_ONCE * plate.size // max(size, 1))
    if plate is None or plate.subsampled or chunk is None or chunk >= plate.size:
        batches = [problem.whole]
    else:
        rows = torch.arange(plate.size, device=problem.device)
        batches = [problem.batch(part, plate=plate.name) for part in rows.split(chunk)]
    total = 0.0
    parts: dict[str, list[Array]] = {}
    shown: dict[str, Array] = {}
    for i, batch in enumerate(batches):
        with batch.active(), torch.no_grad():
            trace: Any = poutine.trace(problem.model).get_trace(*batch.args, **batch.kwargs)
            trace.compute_log_prob()
        for name, node in trace.nodes.items():
            if not is_random(node):
                continue
            if is_deterministic(node):
                if len(batches) == 1 and name in problem.sites and not problem.predicted:
                    shown[name] = node["value"].detach().cpu().numpy()
                continue
            term = torch.as_tensor(scale_and_mask(node["unscaled_log_prob"], 1.0, node["mask"]))
            inside = plate is not None and plate.name in {frame.name for frame in node["cond_indep_stack"]}
            if inside or i == 0:
                total += float(term.double().sum())
                if name in problem.sites and problem.sites[name].kind == "observed":
                    parts.setdefault(name, []).append(term.cpu().numpy())
    axis = None if plate is None else plate.dim
    rows_of = {n: found[0] if len(found) == 1 else np.concatenate(found, axis=axis or -1) for n, found in parts.items()}
    return total, rows_of, shown


def generated_dataset(problem: Problem, count: int) -> xr.Dataset:
    """New observations as a dataset of dims ``(chain=1, draw=count, ...)``; inside a session."""
    values = {name: value.detach().cpu().numpy()[None] for name, value in generated(problem, count).items()}
    dims = named_dims(problem)
    names = {name: dims[name][len(dims[name]) - (value.ndim - 2) :] for name, value in values.items()}
    return site_dataset(values, names, attrs={"pyrolvm_problem": problem.name}, coords=Dimensions(problem).coords())
