"""``lvm.compare_models``: leave-one-out cross-validation of several models side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.habits import verb
from pyrolvm._base.numerics import Array
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._check.elpd.result import COLUMNS, ModelComparison
from pyrolvm._check.elpd.stacking import stacking_weights
from pyrolvm._program.names import variable
from pyrolvm._results import Posterior
from pyrolvm._results.elpd import LOO

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare_models"]

SMALL = 4.0
"""Nats of difference below which models predict about as well, and the normal approximation of the error is poor."""

FEW_ROWS = 100
"""Rows below which the error of a difference is likely too small."""

MANY_MODELS = 11
"""Models from which on the best one of them is likely to be so by chance."""


@verb
def compare_models(posteriors: Mapping[str, Posterior], *, site: str | None = None) -> ModelComparison:
    r"""Compares models of the same rows by how well each predicts rows that it has not seen.

        >>> lvm.compare_models({"linear": fit, "quadratic": other}).table

    The elpd of each is that of :meth:`pyrolvm.Posterior.loo`, right for draws of chains, guides and particles alike. The difference of
    two models has the standard error :math:`\sqrt{n}\,\mathrm{sd}_i(\mathrm{elpd}_{1,i} - \mathrm{elpd}_{2,i})`. The stacking weights
    maximise the log score of the mixture of the models' predictions.

    When not to trust it: the verdict says so where a posterior is not trusted or k-hat is high; ``advice`` where a difference is within
    two of its errors or below 4 nats, or rows are fewer than 100, since errors of differences are then too small. Evidence is shown
    beside it, and may order models otherwise: it asks how well the prior predicts the data, not the posterior.

    Args:
        posteriors: two or more results by the names to show.
        site: the observed site whose rows are left out, where models have several.

    Returns:
        The comparison.

    Raises:
        ArgumentError: if there are fewer than two, or they are of other rows.

    References:
        Vehtari, Gelman and Gabry (2017), https://arxiv.org/abs/1507.04544; Magnusson et al. (2019), https://arxiv.org/abs/1904.10679;
        Yao et al. (2018), "Using stacking to average Bayesian predictive distributions", https://arxiv.org/abs/1704.02030;
        Sivula et al. (2020), "Uncertainty in Bayesian leave-one-out cross-validation based model comparison",
        https://arxiv.org/abs/2008.10296
    """
    if not isinstance(posteriors, Mapping) or len(posteriors) < 2:
        given = len(posteriors) if isinstance(posteriors, Mapping) else type(posteriors).__name__
        raise ArgumentError(
            f'compare_models needs a dict of at least two results, got {given}. Fix: lvm.compare_models({{"a": fit, "b": other}}).'
        )
    for name, one in posteriors.items():
        if not isinstance(one, Posterior):
            raise ArgumentError(
                f"{name!r} is a {type(one).__name__}, expected a result of fit, nuts, smc, exact, infer or load. Fix: pass the result."
            )
    found = {str(name): one.loo(site=site) for name, one in posteriors.items()}
    _check_same_rows(posteriors, found)
    table = _table(posteriors, found)
    verdict = Verdict.of(_reasons(posteriors, found), _steps(found))
    return ModelComparison(table, found, tuple(_advice(table, found)), verdict)


def _check_same_rows(posteriors: Mapping[str, Posterior], found: Mapping[str, LOO]) -> None:
    """Refuses models of other data: the sums over their rows are no differences of anything."""
    (first, own), *rest = found.items()
    seen = _observed(posteriors[first], own)
    for name, one in rest:
        if one.rows["elpd"].size != own.rows["elpd"].size:
            raise ArgumentError(
                f"{name!r} has {one.rows['elpd'].size} rows of {one.site} and {first!r} has {own.rows['elpd'].size} of {own.site}: "
                "they are no models of the same data. Fix: compare models of the same rows; mask rows that one of them lacks in all."
            )
        there = _observed(posteriors[name], one)
        if (
            seen is not None
            and there is not None
            and (seen.shape != there.shape or not np.allclose(seen, there, equal_nan=True))
        ):
            raise ArgumentError(
                f"{name!r} and {first!r} observe other values ({one.site}, {own.site}): densities of other quantities, "
                "such as y and log y, cannot be compared. Fix: write both for the same y, with the transform in the distribution."
            )


def _observed(posterior: Posterior, loo: LOO) -> Array | None:
    """The observed values of what was left out, flat, site after site; ``None`` where there are none."""
    names = [variable(site) for site in loo.sites]
    if "observed_data" not in posterior.data.children:
        return None
    group = posterior.data["observed_data"]
    if any(name not in group.data_vars or group[name].dtype.kind not in "fiub" for name in names):
        return None
    return np.concatenate([np.asarray(group[name].values).astype(np.float64).reshape(-1) for name in names])


def _table(posteriors: Mapping[str, Posterior], found: Mapping[str, LOO]) -> pd.DataFrame:
    import pandas as pd

    by_row = {name: np.asarray(one.rows["elpd"].values).reshape(-1) for name, one in found.items()}
    order = sorted(found, key=lambda name: -found[name].elpd)
    weights = dict(zip(order, stacking_weights(np.stack([by_row[name] for name in order], 1)), strict=True))
    best, rows = by_row[order[0]], []
    for name in order:
        one, posterior = found[name], posteriors[name]
        gap = best - by_row[name]
        evidence = posterior.evidence
        rows.append(
            {
                "elpd": one.elpd, "elpd_error": one.error, "elpd_diff": float(gap.sum()),
                "diff_error": float(math.sqrt(gap.size) * gap.std(ddof=1)) if gap.size > 1 else math.nan,
                "weight": weights[name], "p": one.p, "rows_above": one.bad,
                "evidence": math.nan if evidence is None else evidence.value,
                "evidence_error": math.nan if evidence is None else evidence.error,
                "verdict": posterior.verdict.status,
            }
        )  # fmt: skip
    return pd.DataFrame(rows, index=pd.Index(order, name="model"), columns=list(COLUMNS))


def _reasons(posteriors: Mapping[str, Posterior], found: Mapping[str, LOO]) -> Iterator[Reason]:
    for name, one in found.items():
        for reason in one.verdict.reasons:
            if reason.status != "trusted":
                yield Reason(reason.status, f"{name}: {reason.text}", reason.figures)
        verdict = posteriors[name].verdict
        grave = next((reason.text for reason in verdict.reasons if reason.status == verdict.status), "")
        if not verdict.trusted:
            yield Reason("doubtful", f"{name}: the posterior itself is {verdict.status}. {grave}")


def _steps(found: Mapping[str, LOO]) -> Iterator[str]:
    for name, one in found.items():
        yield from (f"{name}: {step}" for step in one.verdict.next_steps)


def _advice(table: pd.DataFrame, found: Mapping[str, LOO]) -> Iterator[str]:
    best, size = str(table.index[0]), next(iter(found.values())).rows["elpd"].size
    for name, row in list(table.iterrows())[1:]:
        gap, error = float(row["elpd_diff"]), float(row["diff_error"])
        told = f"{gap:.1f} +- {error:.1f} nats"
        if gap < SMALL:
            yield f"{best} and {name} predict about equally well ({told}): take the one that makes more sense."
        elif gap < 2 * error:
            yield f"{best} is ahead of {name} by {told}, which is within two errors: these rows do not tell."
        else:
            yield f"{best} predicts better than {name}, by {told}."
    if size < FEW_ROWS:
        yield f"There are {size} rows: errors of differences are likely too small, up to twice."
    if len(table) >= MANY_MODELS:
        yield f"Of {len(table)} models the best one is so in part by chance: mix them by their weights instead."
    known = table["evidence"].dropna()
    if len(known) == len(table) and str(known.idxmax()) != best:
        yield (
            f"The evidence is highest for {known.idxmax()}: it judges the prior's predictions of all rows, and depends on how wide "
            "priors are."
        )
