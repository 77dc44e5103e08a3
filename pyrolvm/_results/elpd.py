r"""Leave-one-out cross-validation from the draws of one posterior, whatever made them.

The log predictive density of each row given all others is estimated by importance sampling from the draws: with weights
:math:`1 / p(y_i \mid \theta_s)` where they are from the posterior, and with
:math:`p(y, \theta_s) / q(\theta_s) / p(y_i \mid \theta_s)` where they are from a guide. Both are Pareto smoothed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # its parts are imported when they are first used

from pyrolvm._base.errors import ArgumentError, unknown_name
from pyrolvm._base.importance import FEW_DRAWS, khat_threshold
from pyrolvm._base.numerics import Array
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._base.wording import named, shortened
from pyrolvm._compat.notebooks import html
from pyrolvm._program.names import variable
from pyrolvm._report.webpage import in_notebook
from pyrolvm._results.integrating import Integrated
from pyrolvm._results.matching import Matched, smoothed_weights
from pyrolvm._results.points import read_points
from pyrolvm._results.reading import is_exact, log_weights

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["LOO", "left_out"]

SHOWN = 3
"""Observed sites that are named, of several: a program in a loop has one for each step."""

OWN = 0.5
"""The k-hat from which on the weights of a row have no variance."""


@dataclass(frozen=True, repr=False)
class LOO:
    """How well a model predicts each row from all others, in nats.

    Attributes:
        name: the posterior's name.
        sites: the observed site, or those whose rows are left out together.
        elpd: the expected log predictive density of as many new rows: the sum over rows.
        error: its standard error, by the rows' differences.
        p: the effective number of parameters.
        rows: the log predictive density of each row, ``elpd``, and the tail shape of its weights, ``khat``; dims of the data.
        threshold: the k-hat up to which the estimate of a row can be relied on.
        corrected: whether the draws are of a guide and were weighed by log p - log q.
        verdict: whether it can be believed, why, and what to do next.
        matched: for how many rows the draws were moved to where leaving them out puts the posterior.
        refitted: how many rows were left out of a fit of their own.
        integrated: the latents of rows, or of few rows together, that were integrated out.
    """

    name: str
    sites: tuple[str, ...]
    elpd: float
    error: float
    p: float
    rows: xr.Dataset
    threshold: float
    corrected: bool
    verdict: Verdict = field(compare=False)
    matched: int = 0
    refitted: int = 0
    integrated: tuple[str, ...] = ()

    @property
    def site(self) -> str:
        """The observed site, or the first of several and how many there are more."""
        return shortened(self.sites, SHOWN) if len(self.sites) > SHOWN else " and ".join(self.sites)

    @property
    def bad(self) -> int:
        """How many rows have a k-hat above the threshold."""
        return _above(np.asarray(self.rows["khat"].values), self.threshold)

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each row of the data: ``elpd`` and ``khat``."""
        return self.rows.to_dataframe()

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON types."""
        return {
            "name": self.name, "sites": list(self.sites), "elpd": self.elpd, "error": self.error, "p": self.p,
            "rows": int(self.rows["elpd"].size), "rows_above": self.bad, "threshold": self.threshold, "corrected": self.corrected,
            "matched": self.matched, "refitted": self.refitted, "integrated": list(self.integrated), "verdict": self.verdict.as_dict(),
        }  # fmt: skip

    def __str__(self) -> str:
        return f"elpd {self.elpd:.2f} +- {self.error:.2g} nats of {self.rows['elpd'].size} rows of {self.site}, p {self.p:.3g}"

    def __repr__(self) -> str:
        return f"<LOO of {self.name}: {self}, {self.verdict.status}>"

    def _repr_html_(self) -> str:
        return in_notebook(f"<b>{escape(f'{self.name}: {self}')}</b> {html(self.verdict)}")


Better = Callable[[tuple[str, ...], Array, Array | None, Array, float], Mapping[int, Matched]]
"""Leaves out rows that weights alone cannot: of some sites, from the draws of these numbers with these ratios, up to a k-hat."""

Without = Callable[[tuple[str, ...], Array, Array | None], Integrated]
"""Integrates latents of rows out, of some sites, from the draws of these numbers with these ratios."""

Refit = Callable[[Array], Mapping[int, float]]
"""Gives the log predictive densities of rows, each by a fit without it."""


def left_out(
    name: str,
    data: xr.DataTree,
    factors: tuple[str, ...],
    site: str | None,
    better: Better | None = None,
    refit: Refit | None = None,
    without: Without | None = None,
) -> LOO:
    """Leave-one-out cross-validation of a tree of draws.

    Args:
        name: the posterior's name.
        data: its tree.
        factors: the model's factors, where it has any.
        site: the observed site whose rows are left out; ``None`` for the only one, or all those of the same rows together.
        better: leaves out rows whose k-hat is too high in another way.
        refit: leaves out those by fits without them that are left then.
        without: integrates latents out that rows have of their own.

    Raises:
        ArgumentError: if there are no draws of a posterior, no log likelihood by row, or several sites that have other rows.
    """
    _check_posterior(name, data)
    sites, rows = _by_row(name, data, factors, site)
    draws = rows.stack(sample=("chain", "draw")).transpose("sample", ...)
    values = np.asarray(draws.values, dtype=np.float64).reshape(draws.sizes["sample"], -1)
    ratios, absent = _ratios(data, rows)
    taken = np.flatnonzero(np.isin(np.asarray(data["posterior"]["draw"].values), np.asarray(rows["draw"].values)))
    places = (np.arange(data["posterior"].sizes["chain"])[:, None] * data["posterior"].sizes["draw"] + taken).reshape(
        -1
    )
    if ratios is not None:
        places = places[np.isfinite(ratios)]
        values, ratios = values[np.isfinite(ratios)], ratios[np.isfinite(ratios)]
    _check_finite(name, named(sites), values)
    elpd, khat, whole = _psis(values, ratios)
    corrected = ratios is not None
    told = Integrated(()) if without is None else without(sites, places, ratios)
    if told.values is not None:
        values, ratios = told.values, told.ratios
        elpd, khat, _ = _psis(values, ratios)
        khat = khat if told.known is None else np.where(told.known, khat, math.inf)
    threshold, first = khat_threshold(len(values)), khat.copy()
    matched = refitted = 0
    bad = np.flatnonzero(~(khat <= threshold))
    if better is not None and len(bad) and told.values is None:
        for row, one in better(sites, places, ratios, bad, threshold).items():
            elpd[row], khat[row], matched = one.elpd, one.khat, matched + 1
        bad = np.flatnonzero(~(khat <= threshold))
    if refit is not None and len(bad):
        for row, value in refit(bad).items():
            elpd[row], khat[row], refitted = value, 0.0, refitted + 1
    dims = [str(dim) for dim in rows.dims if dim not in ("chain", "draw")]
    shape = [rows.sizes[dim] for dim in dims]
    coords = {dim: rows.coords[dim] for dim in dims if dim in rows.coords}
    dataset = _dataset({"elpd": elpd.reshape(shape), "khat": khat.reshape(shape)}, dims, coords)
    error = float(math.sqrt(elpd.size) * elpd.std(ddof=1)) if elpd.size > 1 else math.nan
    verdict = _judged(khat, threshold, len(values), factors, corrected, absent)
    if told.latents:
        text = f"The latents {shortened(told.latents, 5)}, which few rows share or which tie rows together, were integrated out."
        verdict = verdict.and_also(Verdict.of([Reason("trusted", text, {"draws": float(len(values))})], ()))
    elif told.owned is not None and not refitted:
        verdict = verdict.and_also(_doubted(told.owned, first))
    if matched or refitted:
        verdict = verdict.and_also(_by_other_ways(matched, refitted, len(values)))
    return LOO(
        name,
        sites,
        float(elpd.sum()),
        error,
        float((whole - elpd).sum()),
        dataset,
        threshold,
        corrected,
        verdict,
        matched,
        refitted,
        told.latents,
    )


def _dataset(values: Mapping[str, Array], dims: list[str], coords: Mapping[str, Any]) -> xr.Dataset:
    import xarray as xr

    return xr.Dataset({name: (dims, value) for name, value in values.items()}, coords=coords)


def _check_posterior(name: str, data: xr.DataTree) -> None:
    if read_points(data) or data["posterior"].attrs.get("inference_method") == "maximum_likelihood":
        raise ArgumentError(
            f"{name} has one value where a posterior has a density, so no draws say what other data would make of it. "
            'Fix: fit a guide with a density, such as "full_rank", or use lvm.nuts; lvm.predict scores rows that are held out.'
        )


def _by_row(
    name: str, data: xr.DataTree, factors: tuple[str, ...], site: str | None
) -> tuple[tuple[str, ...], xr.DataArray]:
    """The sites that it is of, and the log likelihood of each row."""
    if "log_likelihood" not in data.children or not data["log_likelihood"].data_vars:
        why = "its draws have no log likelihood by row"
        fix = "observe each row at a site in a plate, pyro.sample(..., obs=y)"
        if factors:
            why = f"the likelihood is the factor {', '.join(map(repr, factors))}, which is one number for all rows"
            fix = "put the factor into a plate of the rows with one value for each, or write it as an observed site"
        raise ArgumentError(f"{name} cannot leave rows out: {why}. Fix: {fix}.")
    known = dict(data["log_likelihood"].to_dataset().data_vars)
    if site is not None:
        if variable(site) not in known:
            raise unknown_name("site with a log likelihood by row", site, [str(one) for one in known])
        return (site,), known[variable(site)]
    if len({(one.dims, one.shape) for one in known.values()}) > 1:
        shapes = ", ".join(f"{one!r} has {' x '.join(map(str, v.shape[2:])) or 'one'}" for one, v in known.items())
        raise ArgumentError(
            f"{name} has observed sites with other rows ({shapes}): nothing says what one row is. "
            f"Fix: name the site whose rows are left out, loo(site={str(next(iter(known)))!r})."
        )
    first, *rest = known.values()
    sites = tuple(map(str, known))
    if rest and not set(first.dims) - {"chain", "draw"}:  # sites of one value each, as loops make them, are a row each
        import xarray as xr

        return sites, xr.concat(list(known.values()), dim="site").assign_coords(site=list(sites))
    return sites, sum(rest, first)


def _ratios(data: xr.DataTree, rows: xr.DataArray) -> tuple[Array | None, int]:
    """Log p - log q of the draws that rows are of, where those are a guide's; and how many draws have no weight."""
    if is_exact(data) or (weights := log_weights(data)) is None:
        return None, 0
    sizes = data["posterior"].sizes
    every = weights.reshape(sizes["chain"], sizes["draw"]).astype(np.float64)
    kept = np.isin(np.asarray(data["posterior"]["draw"].values), np.asarray(rows["draw"].values))
    taken = every[:, kept].reshape(-1)
    return taken, int((~np.isfinite(taken)).sum())


def _check_finite(name: str, site: str, values: Array) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.flatnonzero(bad.any(axis=0))[0])
        raise ArgumentError(
            f"the log likelihood of {site} of {name} is not finite at {int(bad[:, row].sum())} of {len(values)} draws of row {row}. "
            "Fix: look at that row; a guide must draw where the model has a density, and a row that is missing must be masked."
        )
    if len(values) < 2:
        raise ArgumentError(f"{name} has {len(values)} draws, too few to leave rows out. Fix: take more draws.")


def _psis(values: Array, ratios: Array | None) -> tuple[Array, Array, Array]:
    """By row: the log predictive density given the others, the k-hat of its weights, and the log density given all rows."""
    size = len(values)
    elpd, khat, whole = (np.empty(values.shape[1]) for _ in range(3))
    own = np.full(size, -math.log(size)) if ratios is None else smoothed_weights(ratios)[1]
    for row, terms in enumerate(values.T):
        khat[row], log_weight = smoothed_weights(-terms if ratios is None else ratios - terms)
        elpd[row] = scipy.special.logsumexp(terms + log_weight)
        whole[row] = scipy.special.logsumexp(terms + own)
    return elpd, khat, whole


def _above(khat: Array, bound: float) -> int:
    """How many lie above a bound, or are not known."""
    return int((~(khat <= bound)).sum())


def _by_other_ways(matched: int, refitted: int, draws: int) -> Verdict:
    told = []
    if matched:
        text = f"Draws of {matched} rows were moved to where leaving them out puts the posterior."
        told.append(Reason("trusted", text, {"matched": float(matched)}))
    if refitted:
        told.append(
            Reason("trusted", f"{refitted} rows were left out by fits without them.", {"refitted": float(refitted)})
        )
    return Verdict.of(told, ())


def _doubted(owned: Array, khat: Array) -> Verdict:
    """That draws of latents which follow a single row say little of what is left without it, whatever k-hat moved draws have."""
    rows = owned & ~(khat <= OWN) if owned.shape == khat.shape else np.zeros(0, dtype=bool)
    if not rows.any():
        return Verdict.of((), ())
    text = (
        f"{int(rows.sum())} rows have latents of their own and weights with a k-hat above {OWN:g}, which have no variance: their "
        "estimates are likely too high, by nats, moved draws or not."
    )
    step = "Let loo integrate them out, from a plate of rows that are independent given the rest, or fit again, loo(refit=True)."
    return Verdict.of([Reason("doubtful", text, {"rows": float(rows.sum())})], (step,))


def _judged(
    khat: Array, threshold: float, draws: int, factors: tuple[str, ...], corrected: bool, absent: int
) -> Verdict:
    return Verdict.of(_reasons(khat, threshold, draws, factors, corrected, absent), _steps(khat, threshold, corrected))


def _reasons(
    khat: Array, threshold: float, draws: int, factors: tuple[str, ...], corrected: bool, absent: int
) -> Iterator[Reason]:
    bad, worst = _above(khat, threshold), float(np.max(khat))
    figures = {"rows above": float(bad), "largest khat": worst, "threshold": threshold, "draws": float(draws)}
    if draws < FEW_DRAWS:
        yield Reason("doubtful", f"{draws} draws are too few to judge the weights; {FEW_DRAWS} is the least.", figures)
    elif bad:
        lost = _above(khat, 1.0)
        text = f"k-hat of {bad:,} of {khat.size:,} rows is above {threshold:.2f} (the largest is {worst:.2f}): their estimates are off."
        yield Reason("failed" if 10 * lost > khat.size else "doubtful", text, figures)
    else:
        text = f"k-hat is at most {worst:.2f} for all {khat.size:,} rows (bound {threshold:.2f})."
        yield Reason("trusted", text, figures)
    if corrected:
        text = "The draws are the guide's; they were weighed by log p - log q."
        yield Reason("trusted", text, {"draws without weight": float(absent)})
    if factors:
        text = f"What the factor {', '.join(map(repr, factors))} says of data is in the posterior, and not in what is left out."
        yield Reason("doubtful", text, {"factors": float(len(factors))})


def _steps(khat: Array, threshold: float, corrected: bool) -> Iterator[str]:
    bad = _above(khat, threshold)
    if not bad:
        return
    if corrected and 2 * bad > khat.size:
        yield "Use a guide that is closer to the posterior, or lvm.nuts: most rows are off since the guide is."
        return
    yield "Fit again without those rows, loo(refit=True): .rows names them by their k-hat."
    if 10 * bad > khat.size:
        yield "Rows with latents of their own cannot be left out by weights: hold parts of them out, lvm.cross_validate(problem)."
