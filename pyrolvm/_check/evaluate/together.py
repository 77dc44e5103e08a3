"""Rows that share latents, or are known by a posterior's draws alone: held-out rows as :func:`pyrolvm.predict` scores them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, DataError
from pyrolvm._base.numerics import Array
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._check.evaluate.outliers import areas, scores
from pyrolvm._check.evaluate.result import Evaluation
from pyrolvm._check.evaluate.summary import mean_of
from pyrolvm._check.predict.inference import scored
from pyrolvm._check.validating.folds import row_count
from pyrolvm._program.frames import is_table
from pyrolvm._program.names import variable
from pyrolvm._program.origin import with_origin
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import data_plates, has_latents
from pyrolvm._results import Posterior
from pyrolvm._results.datasets import storable

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Asked", "evaluated_together"]

NOISY, MANY = 0.1, 0.1
"""The Monte Carlo error of a row's log density from which on few draws carry it, and the share of such rows that is doubtful."""

WIDTHS = (50, 90)
"""Central intervals, percent, whose coverage is told."""

Members = Mapping[str, str | Sequence[int | None]]
Given = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """What an evaluation was asked for.

    Attributes:
        posterior: the result.
        data: what it has not seen; ``None`` for its own rows.
        members: who the members of plates are.
        plate: the plate of the rows, where several could be meant.
        draws: draws of the posterior.
        rows: chooses the rows to look at out of so many.
        train_rows: the same of the fit's own.
        outliers: other data sets by name.
        why: why rows have no density by the guide.
        seed: the seed.
    """

    posterior: Posterior
    data: object
    members: Members
    plate: str | None
    draws: int | None
    rows: Callable[[int], Tensor]
    train_rows: Callable[[int], Tensor]
    outliers: Mapping[str, object]
    why: str
    seed: int

    def given(self, data: object, what: str) -> tuple[Given, Members]:
        """Arguments of a prediction, and who the members of plates are."""
        given = _arguments(self.posterior.attached, data, self.plate, what)
        return given, {**_new_rows(self.posterior.attached), **self.members} if any(given) else self.members

    def scored(self, data: object, what: str) -> xr.Dataset:
        """The scores of a data set; of the fit's own rows where it is ``None``.

        Raises:
            ArgumentError: if it holds nothing that the model observes.
        """
        given, members = self.given(data, what) if data is not None else (((), {}), {})
        found = scored(self.posterior, *given, members, self.draws, self.seed)
        if found is None:
            names = ", ".join(site.name for site in self.posterior.attached.observed) or "nothing"
            raise ArgumentError(
                f"{what} holds no observation of {self.posterior.attached.name}, which observes {names}: there is nothing to score. "
                "Fix: give the observed values of these rows too; lvm.predict predicts them where they are not known."
            )
        return found


@dataclass(frozen=True)
class Scored:
    """Rows that were scored.

    Attributes:
        found: the scores of all.
        count: how many these are.
        kept: the numbers of those that are looked at.
        table: their figures, by row.
    """

    found: xr.Dataset
    count: int
    kept: NDArray[np.int64]
    table: pd.DataFrame

    @classmethod
    def of(cls, found: xr.Dataset, chosen: Callable[[int], Tensor]) -> Scored:
        """Those of them that are chosen out of so many."""
        every = _by_row(found)
        kept = chosen(len(every)).numpy()
        kept = kept[every["log_p"].notna().to_numpy()[kept]]
        return cls(found, len(every), kept, every.iloc[kept])

    @property
    def mean(self) -> tuple[float, float, float]:
        """The mean log density of rows with its errors: rows are scored by the same draws, and so err together."""
        value, alone, spread = mean_of(self.table["log_p"], self.table["log_p_error"])
        names = ["lpd"] if "lpd" in self.found else [f"{site}_lpd" for site in _sites(self.found)]
        known = self.count - sum(int(np.isnan(self.found[name].values).sum()) for name in names)
        together = math.sqrt(sum(float(self.found.attrs[f"{name}_error"]) ** 2 for name in names)) / max(known, 1)
        return value, max(alone, together), spread

    def mean_column(self, name: str) -> float:
        """The mean of a figure, NaN where there is none."""
        return float(self.table[name].mean()) if name in self.table else math.nan

    def inside(self, site: str, percent: int) -> tuple[float, float, float]:
        """The share of a site's values in a central interval, with its errors."""
        pit = _flat(self.found, f"{site}_pit")
        if pit.size % self.count == 0:
            pit = pit.reshape(self.count, -1)[self.kept].reshape(-1)
        value, _, spread = mean_of(np.abs(pit[~np.isnan(pit)] - 0.5) <= percent / 200)
        return value, math.nan, spread


def evaluated_together(asked: Asked) -> Evaluation:
    """The figures of held-out rows at the draws of a posterior.

    Raises:
        ArgumentError: if data hold no observation, or nothing says who the members of a plate are.
        DataError: if data are of another model.
    """
    started, posterior = time.perf_counter(), asked.posterior
    main, train, left = Scored.of(asked.scored(asked.data, "data"), asked.rows), None, _left_out(asked)
    if asked.data is None:
        left["gap to training rows"] = "it was made on the fit's own data; pass data="
    elif _own_latents(posterior.attached):
        left["gap to training rows"] = "rows have latents of their own, which the posterior knows of its own rows alone"
    else:
        train = Scored.of(asked.scored(None, "the fit's data"), asked.train_rows)
        if _sites(train.found) != _sites(main.found):
            train, left["gap to training rows"] = None, f"data hold {', '.join(_sites(main.found))} alone"
    table = _table(main, train)
    areas, apart = _outliers(asked, main, train)
    if areas is None:
        left["outliers"] = "no other data set was given"
    attrs = storable({"inference_library": "pyrolvm", "pyrolvm_problem": posterior.attached.name, "seed": asked.seed})
    attrs = with_origin(attrs, posterior.attached)
    reasons = list(_reasons(asked, table, main, train))
    return Evaluation(
        name=posterior.name, problem=posterior.attached.name, table=table, units=None, auroc=areas,
        data=_tree(main, train, apart, attrs), left_out=left, notes=(), titles={}, image=None, site=_sites(main.found)[0],
        draws=int(main.found.attrs["draws"]), exact=False, verdict=Verdict.of(reasons, _steps(asked, reasons)),
        engine=f"torch, {main.found.attrs['evaluated_by']}", engine_reason="", seed=asked.seed,
        seconds=time.perf_counter() - started,
    )  # fmt: skip


# --- what is asked ----------------------------------------------------------------------------------------------------


def _arguments(problem: Problem, data: object, plate: str | None, what: str) -> Given:
    """Data as arguments of a prediction: those that are given, or differ from the fit's own."""
    if isinstance(data, Problem):
        if set(data.arguments) != set(problem.arguments) or {s.name for s in data.observed} != {
            s.name for s in problem.observed
        }:
            raise DataError(
                f"{what} is of a problem that takes {', '.join(data.arguments) or 'nothing'}, and the fit's takes "
                f"{', '.join(problem.arguments) or 'nothing'}. Fix: pass data for the model that was fitted."
            )
        if any(label in problem.codes and problem.codes[label] != code for label, code in data.codes.items()):
            raise DataError(
                f"the labels of {what} have other codes than those of the fit. Fix: pass the table itself, whose labels are then coded "
                "as they were in the fit."
            )
        return (), {name: value for name, value in data.arguments.items() if not _same(value, problem.arguments[name])}
    if is_table(data) and problem.by_name:
        return (data,), {}
    if isinstance(data, Mapping):
        return (), {str(name): value for name, value in data.items()}
    if isinstance(data, str) or callable(data):
        raise ArgumentError(
            f"{what} must be arrays or a Problem, got {data!r}. Fix: pass what the model takes, by name or in order."
        )
    values = data if isinstance(data, tuple) else (data,)
    count = row_count(problem, plate)
    names = [
        name for name, one in problem.arguments.items() if isinstance(one, Tensor) and one.dim() and len(one) == count
    ]
    if len(values) != len(names):
        raise ArgumentError(
            f"{what} has {len(values)} arrays, and {problem.name} takes {len(names)} with a row for each data point "
            f"({', '.join(names) or 'none'}). Fix: pass a dictionary of the model's arguments by name."
        )
    return (), dict(zip(names, values, strict=True))


def _same(value: object, old: object) -> bool:
    """Whether an argument is the fit's own: modules are, whose parameters are the fitted ones."""
    if isinstance(value, Tensor) or isinstance(old, Tensor):
        return (
            isinstance(value, Tensor)
            and isinstance(old, Tensor)
            and value.shape == old.shape
            and torch.equal(value.to(old), old)
        )
    return isinstance(value, torch.nn.Module) or bool(value is old or value == old)


def _own_latents(problem: Problem) -> bool:
    """Whether rows of the data have latents of their own."""
    return any(has_latents(problem, name) for name in data_plates(problem))


def _new_rows(problem: Problem) -> dict[str, str]:
    """That rows which were not seen are new members of their plate, however many they are."""
    return {
        name: "new"
        for name in data_plates(problem)
        if has_latents(problem, name) and all(site.plates in ((name,), [name]) for site in problem.observed)
    }


def _left_out(asked: Asked) -> dict[str, str]:
    names = ("ELBO", "KL", "active units", "linear probe accuracy", "pictures")
    return dict.fromkeys(names, asked.why) | {"bits per dimension": "log p(x) is told in nats where rows share latents"}


# --- figures ----------------------------------------------------------------------------------------------------------


def _sites(found: xr.Dataset) -> list[str]:
    """The sites that are scored, as the group calls them."""
    ends = [str(name).removesuffix("_lpd") for name in found.data_vars if str(name).endswith("_lpd")]
    return [name for name in ends if f"{name}_lpd_error" in found]


def _by_row(found: xr.Dataset) -> pd.DataFrame:
    """A row for each that has a density: those of all sites together, or, where sites have other rows, those of each in turn."""
    import pandas as pd

    sites = _sites(found)
    if "lpd" in found or len(sites) == 1:
        name = "lpd" if "lpd" in found else f"{sites[0]}_lpd"
        columns = {"log_p": _flat(found, name), "log_p_error": _flat(found, f"{name}_error")}
        for site in sites:
            columns |= _of_site(found, site, "" if len(sites) == 1 else f"_{site}", len(columns["log_p"]))
        return pd.DataFrame(columns).rename_axis("row")
    parts = []
    for site in sites:
        density = _flat(found, f"{site}_lpd")
        columns = {"log_p": density, "log_p_error": _flat(found, f"{site}_lpd_error")}
        columns |= _of_site(found, site, "", len(density))
        parts.append(pd.DataFrame(columns).assign(site=site))
    return pd.concat(parts, ignore_index=True).rename_axis("row")


def _of_site(found: xr.Dataset, site: str, end: str, rows: int) -> dict[str, Array]:
    """CRPS, the mean over the values of a row, and PIT where a row has one value."""
    told = {}
    for what in ("crps", "pit"):
        if f"{site}_{what}" in found:
            values = _flat(found, f"{site}_{what}").reshape(rows, -1)
            if what == "crps" or values.shape[1] == 1:
                known = ~np.isnan(values)
                counts = known.sum(axis=1)
                sums = np.where(known, values, 0.0).sum(axis=1)
                told[f"{what}{end}"] = np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)
    return told


def _flat(found: xr.Dataset, name: str) -> Array:
    return np.asarray(found[name].values, dtype=np.float64).reshape(-1)


def _table(main: Scored, train: Scored | None) -> pd.DataFrame:
    import pandas as pd

    lines: list[dict[str, object]] = []

    def add(figure: str, unit: str, told: tuple[float, float, float], of_train: float = math.nan) -> None:
        names = ("value", "error", "row_error")
        lines.append({"figure": figure, **dict(zip(names, told, strict=True)), "train": of_train, "unit": unit})

    def of_train(column: str) -> float:
        return math.nan if train is None else train.mean_column(column)

    add("log p(x)", "nats a row", main.mean, of_train("log_p"))
    for column in (str(name) for name in main.table.columns if str(name).startswith("crps")):
        site = column.removeprefix("crps").removeprefix("_")
        value, _, spread = mean_of(main.table[column].dropna())
        add(f"CRPS{site and f' of {site}'}", "in units of the data", (value, math.nan, spread), of_train(column))
    sites = _sites(main.found)
    for site in (one for one in sites if f"{one}_pit" in main.found):
        for width in WIDTHS:
            name = f"inside {width}%" + (f" of {site}" if len(sites) > 1 else "")
            learned = math.nan if train is None else train.inside(site, width)[0]
            add(name, "share of values in the central interval", main.inside(site, width), learned)
    if train is not None:
        (theirs, *errors), (ours, *others) = train.mean, main.mean
        add(
            "train - held out",
            "nats a row",
            (theirs - ours, math.hypot(errors[0], others[0]), math.hypot(errors[1], others[1])),
        )
    return pd.DataFrame(lines).set_index("figure")


def _outliers(asked: Asked, main: Scored, train: Scored | None) -> tuple[pd.DataFrame | None, dict[str, pd.DataFrame]]:
    """How well scores tell rows of other data sets: the log density by itself, and its distance from that of training rows."""
    if not asked.outliers:
        return None, {}
    centre = None if train is None else train.mean[0]

    def score(table: pd.DataFrame) -> pd.DataFrame:
        return scores(table["log_p"].to_numpy(), None, centre=centre, background=None, levels=None)

    others = {name: score(_by_row(asked.scored(data, f"outliers[{name!r}]"))) for name, data in asked.outliers.items()}
    apart = {"held out": score(main.table), **others}
    return areas(apart), apart


def _tree(
    main: Scored, train: Scored | None, apart: Mapping[str, pd.DataFrame], attrs: Mapping[str, Any]
) -> xr.DataTree:
    import xarray as xr

    groups = {}
    for name, one in (("rows", main), ("train_rows", train)):
        if one is not None:
            named = {variable(str(column)): ("row", values.to_numpy()) for column, values in one.table.items()}
            groups[name] = xr.Dataset(named, coords={"row": one.table.index.to_numpy()}, attrs=attrs)
    groups["scores"] = main.found
    for name, frame in apart.items():
        columns = {variable(str(column)): ("row", frame[column].to_numpy()) for column in frame.columns}
        groups[f"outliers/{variable(name)}"] = xr.Dataset(columns, attrs=attrs)
    return xr.DataTree.from_dict(groups)


# --- what it amounts to -----------------------------------------------------------------------------------------------


def _reasons(asked: Asked, table: pd.DataFrame, main: Scored, train: Scored | None) -> Iterator[Reason]:
    rows = main.table
    bad = ~np.isfinite(rows["log_p"])
    if bad.any():
        text = f"log p(x) of {int(bad.sum())} of {len(rows):,} rows is not finite, row {rows.index[bad][0]} first: no mean is known."
        yield Reason("failed", text, {"bad": float(bad.sum())})
    else:
        noisy = float((rows["log_p_error"] > NOISY).mean())
        error = float(table.loc["log p(x)", "error"])
        figures = {"share_of_noisy_rows": noisy, "largest_error": float(rows["log_p_error"].max()), "error": error}
        if noisy > MANY:
            text = f"Few draws carry log p(x) of {noisy:.0%} of the rows, whose errors are above {NOISY:g} nats: it is likely too low."
            yield Reason("doubtful", text, figures)
        else:
            yield Reason("trusted", f"The draws give log p(x) to {error:.2g} nats.", figures)
    verdict = asked.posterior.verdict
    if not verdict.trusted:
        grave = next((reason.text for reason in verdict.reasons if reason.status == verdict.status), "")
        yield Reason("doubtful", f"The posterior itself is {verdict.status}. {grave}".strip())
    if asked.data is None:
        yield Reason(
            "doubtful", "These are rows that the model was fitted to: what it is worth on others is not known."
        )
    elif train is not None:
        gap, spread = (float(table.loc["train - held out", name]) for name in ("value", "row_error"))
        yield Reason("trusted", f"Training rows are {gap:.2f} +- {spread:.2f} nats likelier than these.", {"gap": gap})
    steps = {
        variable(site.name) for site in asked.posterior.attached.observed if getattr(site.support, "is_discrete", False)
    }
    for name, line in table.iterrows():
        if str(name).startswith(f"inside {WIDTHS[-1]}%"):
            value, wanted = float(line["value"]), WIDTHS[-1] / 100
            sites = [str(name).partition(" of ")[2]] if " of " in str(name) else _sites(main.found)
            if value > wanted and steps.intersection(sites):  # an interval of counts holds more by its steps
                continue
            if abs(value - wanted) > 0.02 + 3 * math.sqrt(wanted * (1 - wanted) / len(rows)):
                width = "narrow" if value < wanted else "wide"
                text = f"Central {WIDTHS[-1]}% intervals hold {value:.0%} of the values: predictions are too {width}."
                yield Reason("trusted", text, {"inside": value})


def _steps(asked: Asked, reasons: Sequence[Reason]) -> Iterator[str]:
    if any("share_of_noisy_rows" in reason.figures and reason.status == "doubtful" for reason in reasons):
        yield "take more draws of the posterior"
    if asked.data is None:
        yield "pass data=, rows that the fit has not seen, or call lvm.cross_validate(problem)"
