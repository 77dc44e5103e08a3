"""A comparison as one HTML page that opens anywhere: styles and pictures inside, no scripts, nothing fetched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any

from pyrolvm._base.verdict import badge, ticked
from pyrolvm._check.compare.compared import Compared
from pyrolvm._check.compare.table import COLUMNS
from pyrolvm._report.origin import read
from pyrolvm._report.webpage import document, in_notebook, picture, scrolling, section, significant

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["fragment", "page"]

SHOWN = 500
"""Rows of estimates on a page."""

_READ = """
Each row holds one scalar quantity of one method against the reference. <b>mean off</b> says by how many
reference standard deviations the mean lies from the reference's, <b>sd ratio</b> how wide the method is (0.7
means 30% too sure of itself), <b>W1</b> how far the two distributions are apart as a whole, and <b>in 50%</b>
and <b>in 90%</b> what share of the method's draws falls into the reference's central intervals. The grey figure
after &plusmn; is one Monte Carlo standard error. A quantity <span class=differs>differs</span> only where it is
beyond its bound (0.1 sd, 10%) by more than three of these errors, <span class=agrees>agrees</span> where it is
within the bound and the error is small enough to say so, and is <span class=unclear>unclear</span> where only
more draws would tell. The comparison is as good as its reference, and it looks at quantities one at a time:
correlations are in the pairs plot.
"""


def fragment(comparison: Compared) -> str:
    """Returns advice, methods and the worst quantities for a notebook cell, with its own styles."""
    return in_notebook(f"{_advice(comparison)}{_methods(comparison)}{_quantities(comparison, 25)}")


def page(comparison: Compared, plot: Callable[[str], Figure] | None) -> str:
    """Returns the whole page.

    Args:
        comparison: what to show.
        plot: draws the picture of a kind; ``None`` for a page without pictures.
    """
    title = f"{', '.join(comparison.pairs)} against {comparison.reference}"
    rows = len(comparison.table)
    kinds = comparison.table["quantity"].nunique()
    origins = [read(data["posterior"].attrs) for data in comparison.trees.values()]
    names = ", ".join(dict.fromkeys(one.problem for one in origins if one.problem))
    seeds = ", ".join(f"{name} {seed}" for name, seed in _seeds(comparison).items())
    lead = f"{len(comparison.pairs) + 1} posteriors{f' of {names}' if names else ''}, {kinds} quantities, "
    lead += f"reference {comparison.reference}{f'; seeds: {seeds}' if seeds else ''}"
    more = f"<p class=small>The first {SHOWN} of {rows} rows.</p>" if rows > SHOWN else ""
    sections = [
        _advice(comparison),
        section("Methods", _methods(comparison)),
        section("Estimates", _quantities(comparison, SHOWN), more, _notes(comparison)),
        section("Pictures", *(_plots(comparison, plot) if plot is not None else ())),
        section("Verdicts", *(_card(comparison, name) for name in comparison.methods.index)),
        section("How to read this", f"<p>{_READ}</p>{_glossary()}"),
        section("Each posterior by itself", *(_diagnosis(comparison, name) for name in comparison.methods.index)),
    ]
    return document(title, lead, sections, [replace(one, made="") for one in origins])


def _seeds(comparison: Compared) -> dict[str, str]:
    trees = comparison.trees.items()
    return {name: str(data["posterior"].attrs["seed"]) for name, data in trees if "seed" in data["posterior"].attrs}


def _advice(comparison: Compared) -> str:
    loud = [line for line in comparison.advice if line.startswith("WARNING")]
    rest = [line for line in comparison.advice if not line.startswith("WARNING")]
    warning = "".join(f"<div class=warn>{escape(line)}</div>" for line in loud)
    return f"{warning}<ul class=advice>{''.join(f'<li>{ticked(line)}</li>' for line in rest)}</ul>"


def _card(comparison: Compared, name: str) -> str:
    verdict = comparison.diagnoses[name].verdict
    role = " <span class=small>reference</span>" if name == comparison.reference else ""
    reasons = "".join(f"<li>{_mark(reason.status)} {ticked(reason.text)}</li>" for reason in verdict.reasons)
    steps = "".join(f"<li>{ticked(step)}</li>" for step in verdict.next_steps)
    todo = f"<p style='margin:.3em 0'><b>What to do next</b></p><ul>{steps}</ul>" if steps else ""
    return f"<div class=card><h3>{escape(name)}</h3>{badge(verdict.status)}{role}<ul>{reasons}</ul>{todo}</div>"


def _mark(status: str) -> str:
    shade, sign = {"trusted": ("agrees", "&#10003;"), "doubtful": ("unclear", "?")}.get(status, ("differs", "&#10007;"))
    return f"<b class={shade}>{sign}</b>"


def _number(value: Any, digits: int = 3) -> str:
    if value is None or isinstance(value, str):
        return escape(str(value or ""))
    number = float(value)
    if math.isnan(number):
        return "&ndash;"
    return f"{number:.0f}" if abs(number) >= 1000 and math.isfinite(number) else significant(number, digits)


def _with_error(value: float, error: float, form: str) -> str:
    if math.isnan(value):
        return "&ndash;"
    size = f"{value:{form}}" if abs(value) < 1e5 else f"{value:.3g}"
    return size if math.isnan(error) else f"{size} <span class=se>&plusmn; {significant(error, 2)}</span>"


def _methods(comparison: Compared) -> str:
    columns: list[tuple[str, Callable[[Any], str]]] = [
        ("", lambda row: f"<b>{escape(str(row.name))}</b>"),
        ("verdict", lambda row: badge(row["verdict"])),
        ("agree", lambda row: _number(row["agrees"])),
        ("differ", lambda row: _number(row["differs"])),
        ("unclear", lambda row: _number(row["unclear"])),
        ("worst mean", lambda row: _number(row["worst_mean_diff"], 2)),
        ("worst sd ratio", lambda row: _number(row["worst_sd_ratio"], 2)),
        ("k-hat", lambda row: _number(row["khat"], 2)),
        ("ELBO", lambda row: _with_error(row["elbo"], row["elbo_error"], ".2f")),
        ("evidence", lambda row: _with_error(row["evidence"], row["evidence_error"], ".2f")),
        ("R-hat", lambda row: _number(row["rhat"], 4)),
        ("ESS bulk", lambda row: _number(row["ess_bulk"])),
        ("ESS / s", lambda row: _number(row["ess_per_second"])),
        ("seconds", lambda row: _number(row["seconds_total"])),
        ("of which compile", lambda row: _number(row["seconds_compile"])),
        ("engine", lambda row: escape(str(row["engine"]))),
    ]
    rows = [[cell(row) for _, cell in columns] for _, row in comparison.methods.iterrows()]
    shown = [i for i in range(len(columns)) if i < 2 or any(row[i] not in ("", "&ndash;") for row in rows)]
    head = "".join(f"<th>{columns[i][0]}</th>" for i in shown)
    body = "".join("<tr>" + "".join(f"<td>{row[i]}</td>" for i in shown) + "</tr>" for row in rows)
    return scrolling(
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", "methods", columns=len(shown)
    )


def _quantities(comparison: Compared, limit: int) -> str:
    rank = comparison.table["status"].map({"differs": 0, "unclear": 1, "agrees": 2}).sort_values(kind="stable")
    rows = comparison.table.loc[rank.index].head(limit)
    heads = (
        "method",
        "quantity",
        "status",
        "mean",
        "reference",
        "mean off",
        "sd ratio",
        "W1",
        "in 50%",
        "in 90%",
        "note",
    )
    head = "".join(
        f"<th class=text>{name}</th>" if place < 3 else f"<th>{name}</th>" for place, name in enumerate(heads)
    )
    noted = bool((rows["note"] != "").any())
    body = "".join(_row(row, noted) for row in rows.to_dict(orient="records"))
    head = head if noted else head.removesuffix("<th>note</th>")
    content = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return scrolling(content, "estimates against the reference", columns=len(heads), rows=len(rows))


def _row(row: dict[str, Any], noted: bool) -> str:
    cells = [
        f"<td>{escape(str(row['method']))}</td>",
        f"<td class=text>{escape(str(row['quantity']))}</td>",
        f"<td class='text {row['status']}'>{row['status']}</td>",
        f"<td>{_number(row['mean'])} <span class=se>sd {_number(row['sd'])}</span></td>",
        f"<td>{_number(row['ref_mean'])} <span class=se>sd {_number(row['ref_sd'])}</span></td>",
        f"<td class={row['mean_status']}>{_with_error(row['mean_diff'], row['mean_diff_error'], '+.2f')}</td>",
        f"<td class={row['sd_status']}>{_with_error(row['sd_ratio'], row['sd_ratio_error'], '.2f')}</td>",
        f"<td class={row['shape_status']}>{_with_error(row['w1'], math.nan, '.2f')}"
        f" <span class=se>noise {_number(row['w1_noise'], 2)}</span></td>",
        f"<td>{_share(0.5, row['mass50'], row['mass50_error'])}</td>",
        f"<td>{_share(0.9, row['mass90'], row['mass90_error'])}</td>",
    ]
    note = f"<td class=note>{escape(str(row['note']))}</td>" if noted else ""
    return f"<tr>{''.join(cells)}{note}</tr>"


def _share(nominal: float, excess: float, error: float) -> str:
    if math.isnan(excess):
        return "&ndash;"
    return f"{min(max(nominal + excess, 0), 1):.0%} <span class=se>&plusmn; {error:.1%}</span>"


def _plots(comparison: Compared, plot: Callable[[str], Figure]) -> Iterable[str]:
    titles = {
        "overview": ("Marginals", "Densities of {} over those of {}, and whether each quantity agrees"),
        "accuracy": (
            "Means and sds against the bounds",
            "By how many sds means of {} are off those of {}, and ratios of sds",
        ),
        "forest": ("Intervals", "Medians and central intervals of {} beside those of {}"),
        "pairs": ("Pairs", "Quantities two by two: outlines of {} over draws of {}"),
        "losses": ("Optimisation", "Losses by step of {}"),
        "energy": ("Energy of the samplers", "Energies of {} and {} and their changes from draw to draw"),
    }
    for kind, (title, alt) in titles.items():
        if _has(comparison, kind):
            yield f"<h3>{title}</h3>{picture(alt.format(', '.join(comparison.pairs), comparison.reference), plot(kind))}"


def _has(comparison: Compared, kind: str) -> bool:
    trees = comparison.trees.values()
    if kind == "losses":
        return any("optimization" in data.children and "loss" in data["optimization"].data_vars for data in trees)
    if kind == "energy":
        return any("sample_stats" in data.children and "energy" in data["sample_stats"].data_vars for data in trees)
    return kind != "pairs" or comparison.table["quantity"].nunique() > 1


def _notes(comparison: Compared) -> str:
    if not comparison.notes:
        return ""
    items = "".join(f"<li>{ticked(note)}</li>" for note in comparison.notes)
    return f"<p class=small><b>Left out or paired with care</b></p><ul class=small>{items}</ul>"


def _glossary() -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in COLUMNS.items())
    return f"<details><summary>Every column of the table</summary><dl>{items}</dl></details>"


def _diagnosis(comparison: Compared, name: str) -> str:
    diagnosis = comparison.diagnoses[name]
    figures = ", ".join(f"{escape(key)} {_number(value, 4)}" for key, value in diagnosis.figures.items())
    table: pd.DataFrame = diagnosis.table.head(200).reset_index()
    rows = (
        table.to_html(float_format=lambda value: f"{value:.4g}", border=0, escape=True, na_rep="-", index=False)
        if len(table)
        else ""
    )
    hidden = len(diagnosis.table) - len(table) + diagnosis.left_out
    more = f"<p class=small>{hidden} quantities more are not shown.</p>" if hidden else ""
    summary = f"<summary>{escape(name)}: {figures}</summary>"
    wide = scrolling(rows, f"diagnosis of {name}", columns=table.shape[1], rows=len(table)) if rows else ""
    return f"<details>{summary}{wide}{more}</details>"
