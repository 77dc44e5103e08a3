"""``lvm.check``: is what a model makes like the data that there are, before inference and after it?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm import _runs as runs
from pyrolvm._base import runtime
from pyrolvm._base.errors import ArgumentError, ProblemError, checked_seed, positive_int
from pyrolvm._base.explain import at_the_door
from pyrolvm._base.habits import verb
from pyrolvm._base.numerics import Array
from pyrolvm._check.discrepancy.judging import judged
from pyrolvm._check.discrepancy.result import CODEC, COMMAND, Check
from pyrolvm._check.discrepancy.statistics import Sample, Statistic, chosen, compared
from pyrolvm._program.labels import Levels
from pyrolvm._program.names import variable
from pyrolvm._program.origin import origin_of
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm._report.origin import read
from pyrolvm._results import Posterior, store
from pyrolvm._results.build import prior_groups
from pyrolvm._results.datasets import data_groups, named_dims
from pyrolvm._results.sensitivity import psense
from pyrolvm._results.unmasked import present, present_groups

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["check"]

UNORDERED = ("Categorical", "OneHotCategorical", "Multinomial")
"""Distributions whose values are labels."""
MOST_GROUPS = 200
"""Groups that features are told of."""
ROW = ["site", "group", "statistic"]

By = str | Sequence[object]


@verb
@at_the_door
def check(
    posterior: Posterior | Problem,
    *,
    by: By | None = None,
    statistics: Mapping[str, Statistic] | None = None,
    draws: int = 500,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
) -> Check:
    """Compares data that the model makes with the data that there are: after inference, and before it.

        >>> lvm.check(problem)  # data sets from the prior: does it make anything like these data?
        >>> lvm.check(fit, by="school")  # data sets from the posterior as well: what of the data does the model not reproduce?

    Features of the data (mean, sd, ends, quantiles, zeros of counts, autocorrelation along the rows, shares of labels) are looked up
    among those of replicated data sets. The Bayesian p-value is the share of these above, those equal counted by half.

    When not to trust it: replicated data come from a posterior that has seen the data, so that p-values gather around 1/2 even where
    the model is wrong, above all of features that it fits (a mean). An extreme one says that the model does not make what is there; a
    moderate one does not say that the model is right, and only that this feature gives no reason to doubt it.

    Args:
        posterior: any result, or a problem, of which the prior alone is checked.
        by: rows in groups, each looked at by itself: a column or argument of the model (labels or whole numbers), or a label for each
            row.
        statistics: further features by name: functions of an array ``(draws, rows, ...)`` that return ``(draws,)``.
        draws: replicated data sets, at most.
        seed: of those from the prior, where a problem is checked.
        out: a folder to save the check in.
        resume: with ``out``: return the finished check that is there, if it is of the same result, data, options and seed; one that was
            killed is run again. ``"any-version"`` under other versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this one is finished.

    Returns:
        Tables of both comparisons, the prior's sensitivity where it is known, a verdict, pictures, and one page.

    Raises:
        ArgumentError: if there are no observed data, no replicated ones, or groups do not go with the rows.
        ProblemError: if the prior of a problem cannot be sampled.
        StoreError: if ``out`` holds something else.

    References:
        Gelman, Meng and Stern (1996), "Posterior predictive assessment of model fitness via realized discrepancies"; Gabry et al.
        (2019), "Visualization in Bayesian workflow", https://arxiv.org/abs/1709.01449
    """
    given = dict(locals())
    positive_int("draws", draws)
    checked_seed(seed)
    asked = runs.order(out, resume, overwrite)
    saved = isinstance(posterior, Posterior)
    problem = posterior.problem if isinstance(posterior, Posterior) else check_problem(posterior)
    words = {"of": posterior if saved else "prior", **store.counted(check, given)}
    about = {} if out is None else store.identity("Check", problem, None, seed, words)
    return runs.run(asked, COMMAND, about, CODEC, lambda _: _checked(posterior, by, statistics or {}, draws, seed))


def _checked(
    posterior: Posterior | Problem, by: By | None, further: Mapping[str, Statistic], draws: int, seed: int
) -> Check:
    if isinstance(posterior, Posterior):
        name, data, problem = posterior.name, posterior.data, posterior.problem
        title, quick = str(data["posterior"].attrs.get("pyrolvm_problem", "")), _sensitivity(posterior)
    else:
        name, data, problem, title, quick = "prior", _of_prior(posterior, draws, seed), posterior, posterior.name, None
    if "observed_data" not in data.children:
        raise ArgumentError(f"{name} has no observed data, so there is nothing to compare. Fix: observe data, obs=y.")
    tables: dict[str, pd.DataFrame] = {}
    samples: dict[str, dict[str, Sample]] = {}
    for kind in ("posterior_predictive", "prior_predictive"):
        if kind in data.children:
            samples[kind] = {one.name: one for one in _samples(data, kind, problem, draws)}
            after = kind == "posterior_predictive"  # no prior says how rows follow each other
            tables[kind] = _table(samples[kind].values(), problem, by, further, ordered=after)
    if not any(len(table) for table in tables.values()):
        raise ArgumentError(
            f"{name} has no replicated data: its observations cannot be drawn. Fix: give the likelihood and the prior distributions "
            "that can be sampled."
        )
    verdict = judged(tables, by is not None)
    of = origin_of(posterior) if isinstance(posterior, Problem) else read(data["posterior"].attrs)
    return Check(name, title, tables, quick, samples, verdict, of)


def _of_prior(problem: Problem, draws: int, seed: int) -> xr.DataTree:
    """Data sets from the prior, and the data.

    Raises:
        ProblemError: if a prior has no draws.
    """
    import xarray as xr

    with runtime.undisturbed(), problem.session(seed=seed):
        dims = named_dims(problem)
        groups = prior_groups(problem, dims, {"pyrolvm_problem": problem.name}, draws)
        if not groups:
            raise ProblemError(
                f"{problem.name} has a prior that cannot be sampled, an improper one or one without a sampler. "
                "Fix: give it a proper one, or check a posterior."
            )
        groups |= data_groups(problem, dims, {})
        return xr.DataTree.from_dict(present_groups(groups, present(problem)))


def _samples(data: xr.DataTree, kind: str, problem: Problem | None, draws: int) -> Iterator[Sample]:
    """Observed and replicated data of each site, of the rows that are there."""
    seen, replicated = data["observed_data"].to_dataset(), data[kind].to_dataset()
    for name in map(str, seen.data_vars):
        if name not in replicated:
            continue
        values = seen[name]
        made = replicated[name].stack(each_draw=("chain", "draw"))
        made = made.isel(
            each_draw=np.arange(min(draws, made.sizes["each_draw"]))
            * made.sizes["each_draw"]
            // min(draws, made.sizes["each_draw"])
        )
        made = _same_rows(made, values).transpose("each_draw", *values.dims, ...)
        if made.shape[1:] != values.shape:
            continue
        flat, drawn = np.asarray(values.values), np.asarray(made.values)
        if drawn.dtype.kind == "f":
            drawn = np.where(np.isnan(flat.astype(float)), np.nan, drawn)
        if not flat.ndim:
            flat, drawn = flat[None], drawn[:, None]
        first = values.dims[0] if values.dims else ""
        rows = values.coords[first].values if first in values.coords else np.arange(len(flat))
        yield Sample(name, flat, drawn, _labels(name, values, drawn, problem), np.asarray(rows))


def _same_rows(made: xr.DataArray, values: xr.DataArray) -> xr.DataArray:
    """Replicated data of the rows that are observed: a masked row is in one and not in the other."""
    stacked = next((str(dim) for dim in values.dims if dim not in made.dims and str(dim).endswith("_seen")), None)
    if stacked is not None:
        return made.sel({dim: values.coords[dim] for dim in made.dims if dim != "each_draw" and dim in values.coords})
    for dim in values.dims:
        whole = str(dim).removeprefix(f"{values.name}_")
        if dim not in made.dims and whole in made.dims:
            made = made.rename({whole: dim})
        if dim in made.dims and made.sizes[dim] != values.sizes[dim]:
            known = dim in made.coords
            made = made.sel({dim: values.coords[dim]}) if known else made.isel({dim: values.coords[dim].values})
    return made


def _labels(name: str, values: xr.DataArray, drawn: Array, problem: Problem | None) -> tuple[str, ...] | None:
    told = values.attrs.get("levels")
    if isinstance(told, str):
        return tuple(map(str, json.loads(told)))
    sites = {variable(one): site for one, site in (problem.sites.items() if problem is not None else ())}
    if name in sites and sites[name].distribution in UNORDERED and sites[name].event_dim == 0:
        return tuple(str(code) for code in range(int(max(drawn.max(), values.max())) + 1))
    return None


def _table(
    samples: Iterable[Sample],
    problem: Problem | None,
    by: By | None,
    further: Mapping[str, Statistic],
    *,
    ordered: bool,
) -> pd.DataFrame:
    import pandas as pd

    lines = []
    for sample in samples:
        features = chosen(sample, ordered=ordered) | dict(further)
        parts: list[tuple[str, Sample]] = [("", sample)]
        if by is not None:
            parts += _parts(sample, by, problem)
        for group, part in parts:
            for statistic, figures in compared(part, features).items():
                lines.append({"site": sample.name, "group": group, "statistic": statistic, **figures})
    return pd.DataFrame(lines, columns=[*ROW, "observed", "mean", "sd", "q5", "q95", "p"]).set_index(ROW)


def _parts(sample: Sample, by: By, problem: Problem | None) -> list[tuple[str, Sample]]:
    """The rows of each group; none of a site of other rows.

    Raises:
        ArgumentError: if there is no such column, or its length is that of no site.
    """
    codes, labels = _groups(by, problem)
    rows = np.asarray(sample.rows)
    if rows.dtype.kind in "iu" and len(rows) and int(rows.max()) < len(codes) and len(codes) >= len(rows):
        codes = codes[rows]  # rows that are masked are not there
    if len(codes) != len(rows):
        raise ArgumentError(
            f"by has {len(codes)} rows, and {sample.name!r} has {len(rows)}. Fix: give a label for each row of the data."
        )
    each = np.unique(codes)
    if len(each) > MOST_GROUPS:
        raise ArgumentError(
            f"by has {len(each)} groups, expected at most {MOST_GROUPS}. Fix: group by something coarser."
        )
    return [
        (labels[int(code)] if labels is not None else str(code), sample.part(np.flatnonzero(codes == code)))
        for code in each
    ]


def _groups(by: By, problem: Problem | None) -> tuple[Array, list[str] | None]:
    if not isinstance(by, str):
        return np.asarray([str(one) for one in by]), None
    found: dict[str, Any] = {} if problem is None else problem.columns
    if by not in found:
        raise ArgumentError(
            f"by={by!r} is no column of the model's data ({', '.join(found) or 'the result was loaded without its problem'}). "
            "Fix: name one, or give a label for each row."
        )
    value: Tensor = found[by]
    if value.dim() != 1 or (value.is_floating_point() and not torch.equal(value, value.round())):
        raise ArgumentError(f"by={by!r} holds no labels or whole numbers for each row. Fix: give a label for each row.")
    code = None if problem is None else problem.code_of(by)
    labels = [str(one) for one in code.labels] if isinstance(code, Levels) else None
    return value.cpu().numpy().astype(np.int64), labels


def _sensitivity(posterior: Posterior) -> pd.DataFrame | None:
    """The prior's sensitivity, where draws and densities say it."""
    try:
        return psense(posterior.data, posterior.problem, posterior.name)
    except ArgumentError:  # it says why where it is asked for by itself
        return None
