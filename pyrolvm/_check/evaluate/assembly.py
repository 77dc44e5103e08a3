"""From what was measured of rows to an :class:`~pyrolvm._check.evaluate.result.Evaluation`: figures, groups, reasons."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, DataError
from pyrolvm._base.importance import khat_threshold
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._check.evaluate.decoding import Decoder
from pyrolvm._check.evaluate.measure import Pictures, Scored, bits, pictures, prior_of, units
from pyrolvm._check.evaluate.outliers import Background, areas, scores
from pyrolvm._check.evaluate.probe import linear_probe
from pyrolvm._check.evaluate.result import Evaluation
from pyrolvm._check.evaluate.summary import mean_of
from pyrolvm._diagnosis.collapse import collapse_steps, judge_layer
from pyrolvm._program.image import Image
from pyrolvm._program.names import variable
from pyrolvm._program.origin import with_origin
from pyrolvm._program.problem import Problem
from pyrolvm._results import Fit
from pyrolvm._results.datasets import storable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Gathered", "assemble"]

Array = NDArray[np.float64]

HEAVY = 0.1
"""The share of rows with a large k-hat from which on the mean log p(x) is doubtful."""


@dataclass(frozen=True)
class Gathered:
    """All that was measured of rows, and what else it takes to say what it means."""

    fit: Fit
    problem: Problem
    plate: str
    site: str
    image: Image | None
    levels: int | None
    draws: int
    main: Scored
    train: Scored | None
    outliers: Mapping[str, tuple[Problem, Tensor, Scored]]
    labels: NDArray[Any] | None
    probe: tuple[Mapping[str, Array], NDArray[Any]] | None
    pictures: bool
    seed: int

    @property
    def exact(self) -> bool:
        """Whether log p(x) is exact."""
        return not self.problem.latents


class _Table:
    """Figures with their errors, one a row."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.left_out: dict[str, str] = {}

    def add(
        self,
        figure: str,
        unit: str,
        value: float,
        error: float = math.nan,
        row_error: float = math.nan,
        train: float = math.nan,
    ) -> None:
        self.rows.append(
            {"figure": figure, "value": value, "error": error, "row_error": row_error, "train": train, "unit": unit}
        )

    def frame(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.rows).set_index("figure")


def assemble(of: Gathered, started: float) -> Evaluation:
    """Everything that follows from the scores."""
    table = _Table()
    _densities(of, table)
    values = _values(of, of.problem, of.main)
    scale = _bits(of, table, values)
    priors, unit_table = {}, None
    if of.problem.continuous:
        priors = prior_of(of.fit, of.problem, of.plate, of.site, of.seed)
        unit_table = units(of.main, priors, of.draws)
        for name, mine in unit_table.groupby("site", sort=False):
            table.add(f"active units of {name}", f"of {len(mine)}", float(mine["active"].sum()))
        for site in of.problem.discrete:
            table.left_out[f"active units of {site.name}"] = "it is discrete"
    elif not of.exact:
        table.left_out["active units"] = "no latent is continuous"
    else:
        table.left_out["active units"] = "nothing is latent"
    _probe(of, table)
    areas, apart = _outliers(of, table, values)
    made = Pictures()
    if of.pictures:
        made = pictures(of.fit, of.problem, of.plate, of.site, of.main, unit_table, priors, of.seed)
        if of.image is None:
            table.left_out["pictures"] = (
                f"nothing says that {of.site} is an image; pass shape=(height, width), or name it in lvm.model(images=)"
            )
    table.left_out |= made.left_out
    if of.train is None:
        table.left_out["gap to training rows"] = "it was made on the fit's own data; pass data="
    frame = table.frame()
    reasons = list(_reasons(of, frame, areas))
    tree = _tree(of, unit_table, made, apart, scale)
    return Evaluation(
        name=of.fit.name, problem=of.problem.name, table=frame, units=unit_table, auroc=areas, data=tree,
        left_out=dict(table.left_out), notes=tuple(made.notes), titles=dict(made.titles), image=of.image, site=of.site, draws=of.draws,
        exact=of.exact, verdict=Verdict.of(reasons, _steps(of, frame, unit_table, reasons)), engine=of.main.engine,
        engine_reason=of.main.reason, seed=of.seed, seconds=time.perf_counter() - started,
    )  # fmt: skip


# --- figures ----------------------------------------------------------------------------------------------------------


def _densities(of: Gathered, table: _Table) -> None:
    rows, train = of.main.table, None if of.train is None else of.train.table

    def of_train(column: str) -> float:
        return math.nan if train is None else float(train[column].mean())

    table.add("log p(x)", "nats a row", *mean_of(rows["log_p"], rows["log_p_error"]), of_train("log_p"))
    if of.exact:
        table.left_out |= {"ELBO": "nothing is latent: log p(x) is exact", "KL": "nothing is latent"}
    else:
        table.add("ELBO", "nats a row", *mean_of(rows["elbo"], rows["elbo_error"]), of_train("elbo"))
        gap = rows["log_p"] - rows["elbo"]
        table.add(
            "log p(x) - ELBO", "nats a row", float(gap.mean()), mean_of(gap, np.hypot(rows["log_p_error"], rows["elbo_error"]))[1],
            mean_of(gap)[2], math.nan if train is None else float((train["log_p"] - train["elbo"]).mean()),
        )  # fmt: skip
        value, _, spread = mean_of(rows["log_likelihood"])
        table.add("reconstruction", "nats a row", value, row_error=spread, train=of_train("log_likelihood"))
        names = [column for column in rows.columns if column.startswith("kl_")]
        for column in names:
            value, _, spread = mean_of(rows[column])
            table.add(
                f"KL of {column.removeprefix('kl_')}", "nats a row", value, row_error=spread, train=of_train(column)
            )
        if len(names) > 1:
            value, _, spread = mean_of(rows[names].sum(axis=1))
            both = math.nan if train is None else float(train[names].sum(axis=1).mean())
            table.add("KL of all latents", "nats a row", value, row_error=spread, train=both)
        summed = [site.name for site in of.problem.latents if f"kl_{site.name}" not in rows.columns]
        for name in summed:
            table.left_out[f"KL of {name}"] = "it is summed out"
    if train is not None:
        theirs, ours = mean_of(train["log_p"], train["log_p_error"]), mean_of(rows["log_p"], rows["log_p_error"])
        table.add(
            "train - held out",
            "nats a row",
            theirs[0] - ours[0],
            math.hypot(theirs[1], ours[1]),
            math.hypot(theirs[2], ours[2]),
        )


def _bits(of: Gathered, table: _Table, values: Array | None) -> tuple[float, float] | None:
    try:
        shift, scale, sense = bits(of.problem, of.plate, of.levels, values)
    except ArgumentError as why:
        table.left_out["bits per dimension"] = str(why)
        return None
    mean, error, spread = mean_of(of.main.table["log_p"], of.main.table["log_p_error"])
    train = math.nan if of.train is None else (shift - float(of.train.table["log_p"].mean())) / scale
    table.add("bits per dimension", sense, (shift - mean) / scale, error / scale, spread / scale, train)
    return shift, scale


def _probe(of: Gathered, table: _Table) -> None:
    name = "linear probe accuracy"
    if of.labels is None:
        table.left_out[name] = "no labels were given"
        return
    if not of.main.means:
        table.left_out[name] = "no latent is continuous, so there is no posterior mean to read"
        return
    sites = list(of.main.means)
    for sites_read in [sites] if len(sites) == 1 else [sites, *([site] for site in sites)]:
        features = np.concatenate([of.main.means[site] for site in sites_read], axis=1)
        train = None
        if of.probe is not None:
            train = np.concatenate([of.probe[0][site] for site in sites_read], axis=1), of.probe[1]
        what = name if sites_read == sites else f"{name}, {sites_read[0]}"
        try:
            share, error, more = linear_probe(features, of.labels, train, of.seed)
        except DataError as problem:
            table.left_out[what] = str(problem)
            return
        how = "of held-out rows" if train is not None else "by folds of these rows"
        table.add(what, f"{how}; the largest class has {more['largest_class']:.3f}", share, row_error=error)


def _values(of: Gathered, problem: Problem, scored: Scored) -> Array | None:
    """The observed values of the scored rows, ``(rows, values)``, where one site is observed."""
    if len(problem.observed) != 1:
        return None
    import torch

    with problem.session(seed=of.seed, params=of.fit.params):
        seen = Decoder(problem, of.plate, of.site).observed(
            torch.tensor(scored.table.index.to_numpy(), device=problem.device)
        )
    return np.asarray(seen.reshape(len(seen), -1))


def _outliers(of: Gathered, table: _Table, values: Array | None) -> tuple[pd.DataFrame | None, dict[str, pd.DataFrame]]:
    if not of.outliers:
        table.left_out["outliers"] = "no other data set was given"
        return None, {}
    learned = of.fit.attached
    centre = None if of.train is None else float(of.train.table["log_p"].mean())
    reference = None if of.train is None else _values(of, learned, of.train)
    levels = _whole_levels(of, values)

    def whole(rows: Array | None) -> Array | None:
        if rows is None or levels is None or _discrete(of):
            return rows
        return np.clip(np.floor(rows * levels), 0, levels - 1)

    background = (
        None
        if reference is None
        else Background.of(np.asarray(whole(reference)), levels if levels and levels <= 256 else None)
    )

    def score(problem: Problem, found: Scored) -> pd.DataFrame:
        rows = whole(_values(of, problem, found))
        return scores(found.table["log_p"].to_numpy(), rows, centre=centre, background=background, levels=levels)

    if centre is None:
        table.left_out |= {
            "typicality": "it needs training rows; pass data=",
            "likelihood ratio": "it needs training rows; pass data=",
        }
    if levels is None:
        table.left_out["complexity"] = "bits are of whole numbers; pass levels="
    others = {name: score(problem, found) for name, (problem, _, found) in of.outliers.items()}
    apart = {"held out": score(of.problem, of.main), **others}
    return areas(apart), apart


def _discrete(of: Gathered) -> bool:
    return all(bool(getattr(site.support, "is_discrete", False)) for site in of.problem.observed)


def _whole_levels(of: Gathered, values: Array | None) -> int | None:
    """How many whole numbers a value can be, where that is known."""
    if values is None:
        return None
    if _discrete(of):
        return int(values.max()) + 1 if values.min() >= 0 and values.max() < 65_536 else None
    return of.levels if of.levels is not None and values.min() >= 0 and values.max() <= 1 else None


# --- what it amounts to -----------------------------------------------------------------------------------------------


def _reasons(of: Gathered, table: pd.DataFrame, areas: pd.DataFrame | None) -> Iterator[Reason]:
    rows = of.main.table
    bad = int((~np.isfinite(rows["log_p"])).sum())
    if bad:
        first = rows.index[~np.isfinite(rows["log_p"])][0]
        yield Reason(
            "failed",
            f"log p(x) of {bad} of {len(rows):,} rows is not finite, row {first} first: no mean is known.",
            {"bad": bad},
        )
    value, error = float(table.loc["log p(x)", "value"]), float(table.loc["log p(x)", "error"])
    if of.exact:
        yield Reason("trusted", "Nothing is latent: log p(x) is exact.", {"log_p": value})
    elif not bad:
        threshold = khat_threshold(of.draws)
        share = float((~(rows["khat"] <= threshold)).mean())
        figures = {"share_of_heavy_tails": share, "largest_khat": float(rows["khat"].max()), "error": error}
        if share > HEAVY:
            yield Reason(
                "doubtful",
                f"The importance weights of {share:.0%} of the rows have a k-hat above {threshold:.2f}: their log p(x) is likely too "
                "low, and its error too small.", figures,
            )  # fmt: skip
        else:
            some = f", that of {share:.1%} of the rows is above" if share else ""
            yield Reason(
                "trusted", f"k-hat is at most {threshold:.2f}{some}: log p(x) is known to {error:.2g} nats.", figures
            )
    layers = [name for name in table.index if name.startswith("KL of ") and name != "KL of all latents"]
    if len(layers) > 1:
        for name in layers:
            yield from judge_layer(name.removeprefix("KL of "), float(table.loc[name, "value"]))
    if of.train is None:
        yield Reason(
            "doubtful", "These are rows that the model was fitted to: what it is worth on others is not known."
        )
    else:
        gap, spread = float(table.loc["train - held out", "value"]), float(table.loc["train - held out", "row_error"])
        if gap > 3 * spread and gap > 0.02 * abs(value):
            text = f"Training rows are {gap:.2f} nats likelier than held-out ones: the model has learned some of them by heart."
        else:
            text = f"Training rows are {gap:.2f} +- {spread:.2f} nats likelier than held-out ones."
        yield Reason("trusted", text, {"gap": gap})
    if areas is not None and (areas["log p(x)"] < 0.5).any():
        names = ", ".join(f"`{name}`" for name in areas.index[areas["log p(x)"] < 0.5])
        text = f"log p(x) by itself takes {names} for likelier than held-out rows: use another score to find outliers."
        yield Reason("trusted", text, {"smallest AUROC of log p(x)": float(areas["log p(x)"].min())})


def _steps(of: Gathered, table: pd.DataFrame, unit_table: pd.DataFrame | None, reasons: list[Reason]) -> Iterator[str]:
    if not of.exact:
        share = float((~(of.main.table["khat"] <= khat_threshold(of.draws))).mean())
        if share > HEAVY:
            yield "take more draws, or a guide closer to the posterior; lvm.gaps says whether its family or its encoder is at fault"
    if of.train is None:
        yield "pass data=, rows that the fit has not seen"
    elif float(table.loc["train - held out", "value"]) > 0.05 * abs(float(table.loc["log p(x)", "value"])):
        yield "stop earlier, or take a smaller network or more data: the gap to training rows is large"
    if unit_table is not None and not bool(unit_table["active"].any()):
        yield "no unit is active: raise the weight of the divergence slowly from zero, or weaken the decoder"
    yield from collapse_steps(reasons)


# --- groups -----------------------------------------------------------------------------------------------------------


def _tree(
    of: Gathered, unit_table: pd.DataFrame | None, made: Pictures, apart: Mapping[str, pd.DataFrame], scale: Any
) -> Any:
    import xarray as xr

    attrs = storable(
        {"inference_library": "pyrolvm", "pyrolvm_problem": of.problem.name, "draws": of.draws, "seed": of.seed}
    )
    attrs = with_origin(attrs, of.problem)

    def rows(scored: Scored) -> Any:
        table = scored.table
        if scale is not None:
            table = table.assign(bits_per_dimension=(scale[0] - table["log_p"]) / scale[1])
        named = {variable(str(name)): ("row", column.to_numpy()) for name, column in table.items()}
        return xr.Dataset(named, coords={"row": table.index.to_numpy()}, attrs=attrs)

    groups: dict[str, Any] = {"rows": rows(of.main)}
    if of.train is not None:
        groups["train_rows"] = rows(of.train)
    if of.main.bounds:
        bounds = {"bound": ("draws", [float(values.mean()) for values in of.main.bounds.values()])}
        groups["bounds"] = xr.Dataset(bounds, coords={"draws": list(of.main.bounds)}, attrs=attrs)
    if of.main.means:
        means = {}
        for name, values in of.main.means.items():
            dims = ("row", f"{variable(name)}_unit")
            shown = variable(name, beside=("row",))
            means[shown] = (dims, values)
            means[f"{shown}_sd"] = (dims, np.sqrt(of.main.variances[name]))
        groups["latents"] = xr.Dataset(means, coords={"row": of.main.table.index.to_numpy()}, attrs=attrs)
    if unit_table is not None:
        groups["units"] = xr.Dataset.from_dataframe(unit_table.assign(active=unit_table["active"].astype(int)))
    if made.arrays:
        arrays = {}
        for name, values in made.arrays.items():
            key = variable(name.replace(" ", "_"))
            lead: tuple[str, ...] = _LEAD.get(name, ("unit", "step"))
            named = [f"{key}_{dim}" for dim in lead] + [f"{key}_dim_{i}" for i in range(values.ndim - len(lead))]
            arrays[key] = (named, values)
        groups["pictures"] = xr.Dataset(arrays, attrs=attrs)
    for name, frame in apart.items():
        columns = {variable(str(column)): ("row", frame[column].to_numpy()) for column in frame.columns}
        groups[f"outliers/{variable(name)}"] = xr.Dataset(columns, attrs=attrs)
    return xr.DataTree.from_dict(groups)


_LEAD: dict[str, tuple[str, ...]] = {
    "data": ("row",), "reconstructions": ("row",), "samples": ("sample",), "sampled data": ("sample",),
    "interpolations": ("pair", "step"),
}  # fmt: skip
