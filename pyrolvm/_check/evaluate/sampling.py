"""``lvm.generate``: new data from a fitted model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro import poutine

from pyrolvm._base.errors import ArgumentError, checked_seed, positive_int
from pyrolvm._base.explain import at_the_door
from pyrolvm._base.habits import verb
from pyrolvm._check.evaluate.decoding import mean_or_none
from pyrolvm._program.batching import slice_rows
from pyrolvm._program.density import Joint
from pyrolvm._program.names import variable
from pyrolvm._program.rows import plate_of_independent_rows
from pyrolvm._results import Posterior
from pyrolvm._results.datasets import storable

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["generate"]

AT_ONCE = 1_000
"""Rows that the model is run on at once."""


@verb
@at_the_door
def generate(fit: Posterior, rows: int = 100, *, seed: int = 0) -> xr.DataTree:
    """Draws new rows from a fitted model: latents from the prior, data from the likelihood, parameters as fitted.

        >>> encoder = lvm.fit(lvm.problem("vae", images=100), "amortized", max_steps=200)
        >>> lvm.generate(encoder, rows=5)["prior_predictive"]

    Where the model takes arguments with a row for each data point (covariates, say), rows of the fit's own are taken, the first ones
    again where there are too few.

    Args:
        fit: a fit whose latents, if it has any, are all in the plate of the data.
        rows: how many.
        seed: makes it repeatable.

    Returns:
        A tree with groups ``prior`` (the latents), ``prior_predictive`` (the data) and ``likelihood_mean`` (its mean given the latents,
        for sites whose distribution knows one), dims ``(sample, ...)``.

    Raises:
        ArgumentError: if it is no result of an inference.
        ProblemError: if all rows share a latent, so that the prior of a row is not that of the model.
    """
    import xarray as xr

    if not isinstance(fit, Posterior):
        raise ArgumentError(f"generate takes a Fit, got {type(fit).__name__}. Fix: pass what lvm.fit returns.")
    rows = positive_int("rows", rows)
    seed = checked_seed(seed)
    problem = fit.attached
    plate = problem.plates[plate_of_independent_rows(problem)]
    names = [site.name for site in (*problem.latents, *problem.observed)]
    drawn: dict[str, list[Any]] = {name: [] for name in names}
    means: dict[str, list[Any]] = {site.name: [] for site in problem.observed}
    assert plate.dim is not None
    with problem.session(seed=seed, params=fit.params), torch.no_grad():
        for start in range(0, rows, AT_ONCE):
            index = torch.arange(start, min(start + AT_ONCE, rows), device=problem.device) % plate.size
            batch = slice_rows(problem, plate, index)
            new = Joint(problem, batch).predictive({})
            given = {site.name: new[site.name] for site in problem.latents}
            with poutine.condition(data=given), batch.active():
                trace = poutine.trace(problem.model).get_trace(*batch.args, **batch.kwargs)
            for name in names:
                drawn[name].append(_row_first(new[name], problem.sites[name].event_dim, plate.dim))
            for name, parts in means.items():
                middle = mean_or_none(trace.nodes[name]["fn"])
                if middle is not None:
                    parts.append(_row_first(middle, problem.sites[name].event_dim, plate.dim))

    def dataset(values: dict[str, list[Any]]) -> Any:
        joined = {name: np.concatenate(parts) for name, parts in values.items() if parts}
        variables = {}
        for name, array in joined.items():
            dims = ["sample", *(f"{variable(name)}_dim_{i}" for i in range(array.ndim - 1))]
            variables[variable(name)] = (dims, array)
        attrs = storable({"inference_library": "pyrolvm", "pyrolvm_problem": problem.name, "seed": seed})
        return xr.Dataset(variables, coords={"sample": np.arange(rows)}, attrs=attrs)

    latent = {site.name for site in problem.latents}
    groups = {
        "prior": dataset({name: parts for name, parts in drawn.items() if name in latent}),
        "prior_predictive": dataset({name: parts for name, parts in drawn.items() if name not in latent}),
        "likelihood_mean": dataset(means),
    }
    return xr.DataTree.from_dict({name: group for name, group in groups.items() if group.data_vars})


def _row_first(value: torch.Tensor, event_dim: int, dim: int) -> object:
    return value.movedim(value.dim() - event_dim + dim, 0).cpu().numpy()
