"""Rows left out of a posterior: by the weights of its draws, by latents integrated out, by draws moved, by fits without them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from pyrolvm._base.face import public
from pyrolvm._base.numerics import Array
from pyrolvm._program.problem import Problem
from pyrolvm._results.elpd import LOO, left_out
from pyrolvm._results.integrating import integrated
from pyrolvm._results.matching import matched

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["leave_out"]


def leave_out(
    name: str,
    data: xr.DataTree,
    problem: Problem | None,
    params: Mapping[str, Tensor],
    site: str | None,
    moment_match: bool,
    integrate: bool,
    again: object | None,
    seed: int,
) -> LOO:
    """Leave-one-out cross-validation of a result.

    Args:
        name: the result's.
        data: its tree.
        problem: its problem; ``None`` where it was loaded without.
        params: learnable parameters.
        site: the observed site whose rows are left out.
        moment_match: whether draws are moved.
        integrate: whether latents that few rows share are integrated out.
        again: the method that fits without rows; ``None`` to fit none.
        seed: of these fits.

    Raises:
        StoreError: if rows are to be fitted without, and there is no problem.
    """
    sites = () if problem is None else tuple(problem.sites.values())
    observed = any(one.kind == "observed" for one in sites)
    factors = tuple(one.name for one in sites if one.kind == "factor" and (observed or not one.shape))
    better = None
    if moment_match and problem is not None:
        better = partial(matched, problem, params, data["posterior"].to_dataset())
    without = None
    if problem is not None:
        without = partial(integrated, problem, params, data["posterior"].to_dataset(), integrate=integrate, seed=seed)
    refit = None if again is None else partial(_refitted, data, problem, again, seed)
    return left_out(name, data, factors, site, better, refit, without)


def _refitted(data: xr.DataTree, problem: Problem | None, again: object, seed: int, rows: Array) -> dict[int, float]:
    """The log predictive densities of rows, each by a fit without it."""
    sizes = data["posterior"].sizes
    options = {"chains": int(sizes["chain"]), "draws": int(sizes["draw"])} if again == "nuts" else {}
    found = public("cross_validate")(problem, again, rows=rows.tolist(), options=options, seed=seed, progress=False)
    densities: dict[int, float] = found.rows["elpd"].dropna().to_dict()
    return densities
