"""``compare``: posteriors of one model side by side, measured against one of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm._base.errors import ArgumentError, positive_int, unknown_name
from pyrolvm._base.habits import verb
from pyrolvm._base.plain import jsonable
from pyrolvm._base.verdict import Verdict
from pyrolvm._base.writing import write_file
from pyrolvm._check.compare.advice import advise, warn_of_reference
from pyrolvm._check.compare.align import Pair, pair_up, screen
from pyrolvm._check.compare.compared import METHOD_COLUMNS, Compared
from pyrolvm._check.compare.html import fragment, page
from pyrolvm._check.compare.table import quantity_rows
from pyrolvm._check.compare.text import as_text
from pyrolvm._diagnosis.core import Diagnosis, diagnose
from pyrolvm._diagnosis.trying import left_to_try
from pyrolvm._report.pictures import written
from pyrolvm._results.reading import PosteriorLike, independent, is_exact, log_weights, stat, tree
from pyrolvm.family.protocol import traits_said

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["Comparison", "compare"]


class Comparison(Compared):
    """Posteriors side by side against a reference.

    When not to trust it: a comparison is no better than its reference. It looks at one quantity at a time, so two
    posteriors with equal marginals and different correlations agree here; ``plot("pairs")`` shows those. Its attributes are those
    of :class:`~pyrolvm._check.compare.compared.Compared`.
    """

    def plot(self, kind: str = "overview", path: str | Path | None = None, **options: Any) -> Figure:
        """Draws the comparison.

        Args:
            kind: ``"overview"`` (marginals and the status of each), ``"accuracy"`` (every mean and sd
                against the bounds), ``"forest"``, ``"marginals"``, ``"pairs"``, ``"losses"`` or ``"energy"``.
            path: where to write it as well, for example ``"overview.png"``.
            **options: ``quantities=`` (labels to show) and others of the kind; see :mod:`pyrolvm._check.compare.plots`.

        Returns:
            A matplotlib Figure, which notebooks show by themselves.

        Raises:
            UnknownNameError: if there is no such kind.
            ArgumentError: if the posteriors hold nothing that this kind could show.
        """
        from pyrolvm._check.compare import plots

        if kind not in plots.KINDS:
            raise unknown_name("kind of plot", kind, plots.KINDS)
        figure = plots.KINDS[kind](self, **options)
        return written(figure, path)

    def to_html(self, path: str | Path | None = None, *, plots: bool = True) -> str:
        """Writes the comparison as one HTML page that needs nothing else: no network, no scripts.

        Args:
            path: file to write, or None for the text alone.
            plots: whether to draw plots into the page.

        Returns:
            The page.
        """
        text = page(self, self.plot if plots else None)
        if path is not None:
            write_file(path, lambda file: file.write(text.encode()))
        return text

    def as_dict(self) -> dict[str, object]:
        """Returns the comparison as JSON types, with None for figures that do not exist."""
        return {
            "reference": self.reference,
            "advice": list(self.advice),
            "notes": list(self.notes),
            "methods": jsonable(self.methods.reset_index().to_dict(orient="records")),
            "table": jsonable(self.table.to_dict(orient="records")),
            "verdicts": {name: jsonable(item.verdict.as_dict()) for name, item in self.diagnoses.items()},
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """Returns the comparison as JSON, and writes it where a path is given."""
        text = json.dumps(self.as_dict(), indent=1, allow_nan=False)
        if path is not None:
            write_file(path, lambda file: file.write(text.encode()))
        return text

    def __str__(self) -> str:
        """Returns advice, methods and the worst rows of the table as plain text."""
        return as_text(self)

    def _repr_html_(self) -> str:
        return fragment(self)


@verb
def compare(
    posteriors: Mapping[str, PosteriorLike | xr.DataTree],
    reference: str | None = None,
    *,
    max_quantities: int = 200,
) -> Comparison:
    """Measures posteriors of one model against a reference, with error bars, so that noise is not read as bias.

        >>> report = lvm.compare({"mean field": lvm.fit(problem, "mean_field"), "full rank": fit}, reference="full rank")
        >>> report.table
        >>> report.to_html("report.html")

    A quantity ``differs`` where its mean is off by more than 0.1 reference sds, its sd by more than 10%, its W1
    distance is more than 0.1 sds or its central intervals hold 5% more or less, each by more than three standard
    errors. It ``agrees`` where mean and sd are within their bounds and the errors at most half of them. Otherwise it
    is ``unclear``: more draws are needed. Errors allow for autocorrelation in Markov chains.

    Quantities are paired by name and coordinates; what is in one posterior only is left out and noted. The group
    ``quantities`` is compared in place of the sites where both have it.

    Args:
        posteriors: two or more, by the names to show: results of ``fit``, ``nuts``, ``infer``, ``exact`` or ``load``,
            or ArviZ DataTrees from elsewhere.
        reference: name of the one to measure against. Without it: an exact posterior, else ``"nuts"``, else the
            first Markov chains.
        max_quantities: how many scalar quantities to compare; a cheap screen picks those furthest from the reference.

    Returns:
        The comparison.

    Raises:
        ArgumentError: if there is nothing to compare, no reference, or no quantity in common.
        UnknownNameError: if no posterior has the reference's name.
    """
    limit = positive_int("max_quantities", max_quantities)
    if not isinstance(posteriors, Mapping) or len(posteriors) < 2:
        found = len(posteriors) if isinstance(posteriors, Mapping) else type(posteriors).__name__
        raise ArgumentError(
            f"compare needs a dict of at least two posteriors, got {found}. "
            'Fix: lvm.compare({"full rank": fit, "nuts": chains}, reference="nuts").'
        )
    names = {str(name): posterior for name, posterior in posteriors.items()}
    trees = {name: tree(posterior, f"posterior {name!r}") for name, posterior in names.items()}
    chosen = _reference(trees, reference)
    there = {_method(data) for data in trees.values()}
    diagnoses = {name: _diagnosis(name, posterior, there) for name, posterior in names.items()}

    pairs, notes = {}, []
    for name, data in trees.items():
        if name == chosen:
            continue
        pairs[name], remarks = pair_up(data, trees[chosen])
        notes += [f"{name}: {remark}" for remark in remarks]
        if not pairs[name]:
            raise ArgumentError(
                f"{name!r} and the reference {chosen!r} have no quantity in common "
                f"({_sites(data)} against {_sites(trees[chosen])}). Fix: compare posteriors of one model."
            )
    pairs, left_out = _worst_first(pairs, limit)
    notes += left_out
    table = _table(pairs, trees, chosen)
    methods = _methods(table, names, diagnoses, chosen)
    verdicts = {name: item.verdict for name, item in diagnoses.items()}
    guides = {name: str(data["posterior"].attrs.get("pyrolvm_guide", "") or "") for name, data in trees.items()}
    families = {name: traits_said(data["posterior"].attrs) for name, data in trees.items()}
    advice = [*warn_of_reference(chosen, verdicts[chosen]), *advise(table, verdicts, guides, there, families)]
    return Comparison(chosen, table, methods, advice, diagnoses, notes, trees, pairs)


def _reference(trees: dict[str, xr.DataTree], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in trees:
            raise unknown_name("posterior", wanted, trees)
        return wanted
    exact = [name for name, data in trees.items() if is_exact(data)]
    chains = [name for name, data in trees.items() if _is_markov(data)]
    for name in (*exact, "nuts", *chains):
        if name in trees:
            return name
    raise ArgumentError(
        f"none of the posteriors ({', '.join(trees)}) is exact or made of Markov chains, so there is no natural reference. "
        f"Fix: name one, for example reference={next(iter(trees))!r}."
    )


def _is_markov(data: xr.DataTree) -> bool:
    if log_weights(data) is not None:
        return False
    return stat(data, "diverging") is not None or data["posterior"].sizes["chain"] > 1


def _method(data: xr.DataTree) -> str:
    """What made a posterior: ``"nuts"`` for any Markov chains, or the name of its guide."""
    return "nuts" if _is_markov(data) else str(data["posterior"].attrs.get("pyrolvm_guide", "")).split("(")[0]


def _diagnosis(name: str, posterior: PosteriorLike | xr.DataTree, there: set[str]) -> Diagnosis:
    """Diagnoses a posterior under its name here, without advice to try what is there.

    What its own verdict says more is added, never taken away.
    """
    found = diagnose(posterior)
    own = getattr(posterior, "verdict", None)
    verdict = found.verdict.and_also(own) if isinstance(own, Verdict) else found.verdict
    steps = tuple(left_to_try(verdict.next_steps, there))
    return Diagnosis(name, found.table, found.figures, replace(verdict, next_steps=steps), found.left_out)


def _sites(data: xr.DataTree) -> str:
    return ", ".join(str(name) for name in data["posterior"].data_vars) or "nothing"


def _worst_first(pairs: dict[str, list[Pair]], limit: int) -> tuple[dict[str, list[Pair]], list[str]]:
    """Keeps the same quantities for all methods: those that any method gets most wrong."""
    scores: dict[str, float] = {}
    for items in pairs.values():
        for item in items:
            for label, score in zip(item.labels, screen(item).tolist(), strict=True):
                scores[label] = max(score, scores.get(label, 0.0))
    if len(scores) <= limit:
        return pairs, []
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)
    keep = set(ranked[:limit])
    kept = {}
    for name, items in pairs.items():
        indices = [(item, np.array([i for i, label in enumerate(item.labels) if label in keep], int)) for item in items]
        kept[name] = [item.take(index) for item, index in indices if index.size]
    rest = scores[ranked[limit]]
    note = (
        f"the {limit} quantities furthest from the reference are compared and {len(scores) - limit} left out; "
        f"in none of those is a mean off by more than {rest:.2g} sd or an sd by a factor of more than "
        f"{np.exp(min(rest, 50.0)):.3g}"
    )
    return kept, [note]


def _table(pairs: dict[str, list[Pair]], trees: dict[str, xr.DataTree], reference: str) -> pd.DataFrame:
    import pandas as pd

    worth = {name: independent(data) for name, data in trees.items()}
    rows = [quantity_rows(name, item, worth[name], worth[reference]) for name, items in pairs.items() for item in items]
    return pd.concat(rows, ignore_index=True)


def _methods(
    table: pd.DataFrame,
    posteriors: Mapping[str, PosteriorLike | xr.DataTree],
    diagnoses: dict[str, Diagnosis],
    reference: str,
) -> pd.DataFrame:
    import pandas as pd

    order = [reference, *(name for name in posteriors if name != reference)]
    rows = [_method_row(name, posteriors[name], diagnoses[name], table[table["method"] == name]) for name in order]
    return pd.DataFrame(rows, columns=list(METHOD_COLUMNS)).set_index("method")


def _method_row(name: str, posterior: object, diagnosis: Diagnosis, rows: pd.DataFrame) -> dict[str, object]:
    figures = diagnosis.figures
    seconds = {str(key): float(value) for key, value in dict(getattr(posterior, "seconds", None) or {}).items()}
    total = seconds.pop("total", None) or sum(seconds.values())
    row: dict[str, Any] = {"method": name, "verdict": diagnosis.verdict.status}
    if len(rows):
        row |= {status: int((rows["status"] == status).sum()) for status in ("agrees", "differs", "unclear")}
        row["worst_mean_diff"] = float(rows["mean_diff"].abs().max())
        ratio = rows["sd_ratio"].clip(1e-12, 1e12)
        row["worst_sd_ratio"] = float(ratio[np.log(ratio).abs().idxmax()]) if ratio.notna().any() else np.nan
    for key in ("khat", "elbo", "elbo_error", "evidence", "evidence_error", "rhat", "ess_bulk"):
        row[key] = figures.get(key, np.nan)
    evidence = getattr(posterior, "evidence", None)
    if evidence is not None:
        row["evidence"], row["evidence_error"] = float(evidence.value), float(evidence.error)
    if total:
        row |= {
            "seconds_total": total,
            "seconds_compile": seconds.get("compile", 0.0),
            "seconds_run": seconds.get("run"),
        }
        row["ess_per_second"] = row["ess_bulk"] / total
    row["engine"] = str(getattr(posterior, "engine", "") or "")
    return row
