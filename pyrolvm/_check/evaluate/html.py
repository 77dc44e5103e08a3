"""An evaluation as one HTML page that opens anywhere: styles and pictures inside, no scripts, nothing fetched."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from pyrolvm._check.evaluate.evaluated import Evaluated
from pyrolvm._check.evaluate.plots import CAPTIONS, draw, drawn
from pyrolvm._compat.notebooks import html
from pyrolvm._report.origin import read
from pyrolvm._report.webpage import document, in_notebook, picture, scrolling, section, table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["draw", "drawn", "fragment", "page"]

_READ = """
<b>log p(x)</b> is the log density of a row under the fitted model, latents integrated out: exact without latents, else by importance
sampling from the guide, which on average is too low, the less the more draws; where rows share latents, the mean over draws of the
posterior, for each row by itself, of which <b>CRPS</b> and the share of values in central intervals are told too. The first error is
that of sampling; the one of rows is how far the mean over another sample of rows would be. <b>ELBO</b> = reconstruction - KL. A
<b>unit</b> is active where its posterior mean varies over rows by more than 0.01 of the prior variance. <b>AUROC</b> is the
probability that a row of another data set has a higher score than a held-out one: 0.5 is chance, and below it the score prefers the
other data.
"""


def fragment(evaluation: Evaluated) -> str:
    """Returns the figures and the verdict for a notebook cell."""
    lead = (
        f"<b>{escape(_title(evaluation))}</b> {html(evaluation.verdict)}<p class=small>{escape(_lead(evaluation))}</p>"
    )
    return in_notebook(f"{lead}{_figures(evaluation)}")


def page(evaluation: Evaluated) -> str:
    """Returns the whole page."""
    pictures = drawn(evaluation)
    left_out = "".join(f"<dt>{escape(name)}</dt><dd>{escape(why)}</dd>" for name, why in evaluation.left_out.items())
    notes = f"<p class=small>{escape('; '.join(evaluation.notes))}.</p>" if evaluation.notes else ""
    sections = [
        section("Estimates", _figures(evaluation), _picture("figures", pictures.pop("figures"))),
        section("Verdict", html(evaluation.verdict)),
        section("Scores for outliers, AUROC", _table(evaluation.auroc, "scores for outliers")),
        *(section(name.capitalize(), _picture(name, figure)) for name, figure in pictures.items()),
        notes,
        section("Left out", f"<dl>{left_out}</dl>" if left_out else ""),
        section("Units", _table(evaluation.units, "units of latents")),
        section("How to read this", f"<p>{_READ}</p>"),
    ]
    origin = read(evaluation.data["rows"].attrs)
    return document(_title(evaluation), _lead(evaluation), sections, [origin], verdict=evaluation.verdict)


def _table(frame: pd.DataFrame | None, what: str) -> str:
    return "" if frame is None else table(frame, digits=3, most=200, what=what)


def _title(evaluation: Evaluated) -> str:
    return f"{evaluation.name} on {evaluation.problem}"


def _lead(evaluation: Evaluated) -> str:
    rows = int(evaluation.data["rows"].sizes["row"])
    text = f"{rows:,} rows; {evaluation.how}; {evaluation.engine}, {evaluation.seconds:.1f} s, seed {evaluation.seed}"
    return text


def _figures(evaluation: Evaluated) -> str:
    head = "".join(
        f"<th{' class=text' if name == 'unit' else ''}>{name}</th>"
        for name in ("", "mean", "&plusmn; sampling", "&plusmn; rows", "training rows", "unit")
    )
    body = []
    for name, row in evaluation.table.iterrows():
        value = f"{row['value']:.0f}" if "active units" in str(name) else f"{row['value']:.4f}"
        body.append(
            f"<tr><td>{escape(str(name))}</td><td><b>{value}</b></td><td class=se>{_number(row['error'])}</td>"
            f"<td class=se>{_number(row['row_error'])}</td><td>{_number(row['train'], 4)}</td>"
            f"<td class=text>{escape(str(row['unit']))}</td></tr>"
        )
    return scrolling(f"<table><tr>{head}</tr>{''.join(body)}</table>", "figures")


def _number(value: float, digits: int = 2) -> str:
    return "" if not math.isfinite(value) else f"{value:.{digits}g}"


def _picture(name: str, figure: Any) -> str:
    caption = CAPTIONS.get(
        name, "One row with a unit moved from -3 to 3 sds of its prior." if name.startswith("traversals") else ""
    )
    return picture(f"{name}: {caption}", figure, caption)
