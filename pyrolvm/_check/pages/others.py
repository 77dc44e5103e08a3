"""Pages of calibrations, gaps, evidences, cross-validations, comparisons of models, sweeps and predictions."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._compat.notebooks import html
from pyrolvm._program.origin import origin_of
from pyrolvm._report.origin import read
from pyrolvm._report.posterior import draw as draw_draws
from pyrolvm._report.style import FAINT, INK, PALETTE, REFERENCE, plain, sheet, tidy
from pyrolvm._report.webpage import document, panels, picture, section, table

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from pyrolvm._check.calibrate.result import Calibration
    from pyrolvm._check.elpd.result import ModelComparison
    from pyrolvm._check.gaps.result import Gaps
    from pyrolvm._check.sweep.result import Sweep
    from pyrolvm._check.validating.result import CrossValidation
    from pyrolvm._methods.evidence.result import Evidences

__all__ = ["calibration", "cross_validation", "evidences", "gaps", "models", "predictions", "sweep"]

MOST, ROWS = 12, 40
FIGURES = {"value": 6, "low": 6, "high": 6, "elbo": 6, "evidence": 6, "error": 2, "elbo_error": 2, "seconds": 3}
"""Significant digits of columns that are large, and of those that are errors."""


def calibration(found: Calibration) -> str:
    """The page of a calibration."""
    statuses = ", ".join(f"{n} {status}" for status, n in found.fits["status"].value_counts().items())
    lead = f"{found.simulations:,} simulated data sets, ranks among {found.draws} draws, seed {found.seed}; fits: {statuses}"
    pictures = ""
    if found.successes:
        shown = found.statistics.sort_values("p", kind="stable").drop(columns=["finding"])
        pictures = section("Ranks, ECDF", picture("Ranks of true values against uniform ones", found.plot()))
        pictures += section("Ranks, histogram", picture("How many ranks are in each part", found.plot("histogram")))
    else:
        shown = found.fits
    notes = "".join(f"<p class=small>{escape(note)}</p>" for note in found.notes)
    failures = "".join(f"<dt>{n}</dt><dd>{escape(error)}</dd>" for error, n in found.failures.items())
    sections = [
        section("Estimates", table(shown, digits=3, most=200, what="statistics of ranks"), notes),
        section("Verdict", html(found.verdict)),
        pictures,
        section("Fits without a posterior", f"<dl>{failures}</dl>" if failures else ""),
        section(
            "How to read this",
            "<p>If a method draws from the posterior, the truth is as likely to be in any place among its draws. A line above the "
            "region at the left and below at the right: too narrow; the other way round: too wide; below throughout: too low; above: "
            "too high.</p>",
        ),
    ]
    return document(
        f"{found.method} on {found.problem}, calibrated",
        lead,
        sections,
        [read(found.data.attrs)],
        verdict=found.verdict,
    )


def gaps(found: Gaps) -> str:
    """The page of gaps."""
    import pandas as pd

    names = [name for name in found.figures if not name.endswith("_error")]
    rows = [[found.figures[name], found.figures.get(f"{name}_error", np.nan)] for name in names]
    figures = pd.DataFrame(rows, index=[name.replace("_", " ") for name in names], columns=["nats a row", "error"])
    sections = [
        section("Estimates", table(figures, what="gaps"), html(found.verdict)),
        section(
            "Pictures", picture("Evidence, the best ELBO and the fit's own; divergence of each unit", found.plot())
        ),
        section("Units", table(found.collapse.table, most=200, what="units of latents")),
        section("Rows", table(found.table, most=100, what="gaps of each row")),
    ]
    lead = f"{found.rows:,} rows, evidence by {found.method}, {found.seconds:.1f} s"
    return document(f"Gaps of {found.name}", lead, sections, [found.origin], verdict=found.verdict)


def evidences(found: Evidences) -> str:
    """The page of estimates of one evidence."""
    lead = f"log p(data) in nats by {', '.join(found.found)}"
    verdicts = [
        f"<div class=card><h3>{escape(name)}</h3>{html(one.verdict)}</div>" for name, one in found.found.items()
    ]
    course = any(one.trace is not None and len(one.trace) for one in found.found.values())
    alt = "Estimates with errors by the number of densities evaluated"
    origins = [one.origin for one in found.found.values()]
    sections = [
        section("Estimates", table(found.table, digits=FIGURES, what="evidences")),
        section("How they came about", picture(alt, found.plot()) if course else ""),
        section("Verdicts", *verdicts),
    ]
    name = origins[0].problem or "a model"
    return document(f"Evidence of {name}", lead, sections, origins)


def cross_validation(found: CrossValidation) -> str:
    """The page of a cross-validation."""
    sections = [
        section("Estimates", table(found.summary(), most=200, what="folds")),
        section("Verdict", html(found.verdict)),
        section("Rows", picture("The log predictive density of each row", _rows(found.rows["elpd"].to_numpy()))),
    ]
    return document(
        f"{found.name} on {found.problem}, cross-validated", str(found), sections, [found.origin], verdict=found.verdict
    )


def _rows(values: np.ndarray) -> Figure:
    figure = sheet(7.0, 2.4)
    axes = figure.subplots()
    axes.plot(np.arange(len(values)), values, "o", color=PALETTE[0], markersize=3, markeredgewidth=0)
    axes.axhline(float(np.nanmean(values)) if len(values) else 0.0, color=FAINT, linewidth=0.8)
    axes.set_xlabel("row", fontsize=8.5, color=INK)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("log density, nats", fontsize=8.5, color=INK)
    tidy(axes)
    return figure


def models(found: ModelComparison) -> str:
    """The page of a comparison of models."""
    advice = "".join(f"<li>{escape(line)}</li>" for line in found.advice)
    shown = found.table.dropna(axis=1, how="all")
    sections = [
        section("Estimates", table(shown, what="models"), f"<ul class=advice>{advice}</ul>", html(found.verdict)),
        section("Pictures", picture("Differences of elpd from the best model", found.plot())),
        *(
            section(f"{name}, rows left out", f"<p>{escape(str(one))}</p>{html(one.verdict)}")
            for name, one in found.loo.items()
        ),
    ]
    return document(
        f"{found.best} and others", f"{len(found.table)} models by leave-one-out", sections, verdict=found.verdict
    )


def sweep(found: Sweep) -> str:
    """The page of a sweep."""
    counts = ", ".join(f"{n} {status}" for status, n in found.counts.items())
    failures = "".join(f"<dt>{n}</dt><dd>{escape(error)}</dd>" for error, n in found.failures.items())
    cells, summary = (frame.set_index("problem") for frame in (found.table.dropna(axis=1, how="all"), found.summary))
    pictures = [
        picture(f"{what} of each cell, by problem and method", _cells(found.table, column, what, bounds))
        for column, what, bounds in _SEEN
        if np.isfinite(found.table[column]).any()
    ]
    sections = [
        section("Estimates", table(summary, digits=FIGURES, most=200, what="problems and methods")),
        section("Pictures", *pictures),
        section("Cells", table(cells, digits=FIGURES, most=500, what="cells")),
        section("Why cells are not done", f"<dl>{failures}</dl>" if failures else ""),
    ]
    origins = [replace(origin_of(one), made="") for one in list(found.problems.values())[:MOST]]
    of = f" of {next(iter(found.problems))}" if len(found.problems) == 1 else ""
    return document(f"Sweep{of}", f"{len(found.cells)} cells: {counts}", sections, origins)


_SEEN = (
    ("mean_diff", "worst mean, sds from the reference", (0.0, 0.1)),
    ("sd_ratio", "worst sd / that of the reference", (0.9, 1.1)),
)
"""What is drawn of cells, and between which figures it is as it should be."""


def _cells(table: pd.DataFrame, column: str, what: str, bounds: tuple[float, float]) -> Figure:
    """A line for each problem and method, a dot for each seed, and the region of those that are close enough."""
    several = table["problem"].nunique() > 1
    labels = [
        f"{problem}, {method}" if several else method
        for problem, method in zip(table["problem"], table["method"], strict=True)
    ]
    names = list(dict.fromkeys(labels))[:ROWS]
    figure = sheet(6.0, 0.22 * len(names) + 0.8)
    axes = figure.subplots()
    axes.axvspan(*bounds, color=REFERENCE, alpha=0.35, linewidth=0)
    for value, label in zip(table[column], labels, strict=True):
        if label in names and np.isfinite(value):
            axes.plot(value, names.index(label), "o", color=PALETTE[0], markersize=4, alpha=0.8, markeredgewidth=0)
    axes.set_yticks(range(len(names)), [plain(name, 40) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(what, fontsize=8.5, color=INK)
    tidy(axes)
    return figure


def predictions(found: xr.DataTree) -> str:
    """The page of predictions; of another tree of draws, its first group."""
    group = "predictions" if "predictions" in found.children else next(iter(found.children))
    data = found[group].to_dataset()
    origin = read(data.attrs)
    scores = _scores(found)
    told = {name: data.attrs[name] for name in ("kind", "draws", "seed") if name in data.attrs}
    lead = "; ".join(
        [*(f"{name} {value}" for name, value in told.items()), f"variables {', '.join(map(str, data.data_vars))}"]
    )
    sections = [
        section("Estimates", table(_summary(data), most=300, what="predictions")),
        section("Scores of what is known", table(scores, digits=4, what="scores")),
        section("Pictures", panels(_densities(data))),
    ]
    return document(f"Predictions of {origin.problem or 'a model'}", lead, sections, [origin])


def _summary(data: xr.Dataset) -> pd.DataFrame:
    """Mean, sd and quantiles of each value, or the statistics that it has already."""
    import pandas as pd

    lines: dict[str, dict[str, float]] = {}
    for name, values in data.data_vars.items():
        if "statistic" in values.dims:
            flat = values.transpose(..., "statistic").to_numpy().reshape(-1, values.sizes["statistic"])
            labels = [str(one) for one in values["statistic"].values]
            lines |= {f"{name}[{i}]": dict(zip(labels, row, strict=True)) for i, row in enumerate(flat[:300])}
            continue
        if not {"chain", "draw"} <= set(values.dims) or values.dtype.kind not in "biuf":
            continue
        flat = values.stack(sample=("chain", "draw")).transpose("sample", ...).to_numpy().astype(float)
        flat = flat.reshape(len(flat), -1)[:, :300]
        for i, column in enumerate(flat.T):
            low, middle, high = np.quantile(column, [0.05, 0.5, 0.95])
            label = f"{name}[{i}]" if flat.shape[1] > 1 else str(name)
            lines[label] = {"mean": column.mean(), "sd": column.std(), "q5": low, "median": middle, "q95": high}
    return pd.DataFrame.from_dict(lines, orient="index")


def _scores(found: xr.DataTree) -> pd.DataFrame:
    import pandas as pd

    if "scores" not in found.children:
        return pd.DataFrame()
    scored = found["scores"].to_dataset()
    sums = {str(name): float(values.sum()) for name, values in scored.data_vars.items() if values.dtype.kind == "f"}
    return pd.DataFrame({"sum": sums, "mean": {n: float(scored[n].mean()) for n in sums}})


def _densities(data: xr.Dataset) -> list[tuple[str, Figure]]:
    """The densities of the first values of each variable."""
    found = []
    for name, values in data.data_vars.items():
        if not {"chain", "draw"} <= set(values.dims) or values.dtype.kind not in "biuf":
            continue
        flat = values.transpose("chain", "draw", ...).to_numpy()
        flat = flat.reshape(*flat.shape[:2], -1)
        for i in range(min(flat.shape[2], MOST)):
            label = f"{name}[{i}]" if flat.shape[2] > 1 else str(name)
            drawn = flat[:, :, i].astype(float)
            shown = {
                label: (drawn, bool(np.all(np.mod(drawn[np.isfinite(drawn)], 1) == 0)))
            }  # counts are floats to torch
            found.append((f"Density of {label}", draw_draws("marginals", shown, 0.9, None)))
    return found
