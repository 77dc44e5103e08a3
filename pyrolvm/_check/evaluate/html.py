"""An evaluation as one HTML page that opens anywhere: styles and pictures inside, no scripts, nothing fetched."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from pyrolvm._check.evaluate.evaluated import Evaluated
from pyrolvm._check.evaluate.plots import CAPTIONS, draw, drawn
from pyrolvm._compat.notebooks import html
from pyrolvm._report.webpage import document, in_notebook, picture

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
    lead = f"<b>{escape(_title(evaluation))}</b> {html(evaluation.verdict)}<p class=small>{_lead(evaluation)}</p>"
    return in_notebook(f"{lead}<div class=wide>{_figures(evaluation)}</div>")


def page(evaluation: Evaluated) -> str:
    """Returns the whole page."""
    title = _title(evaluation)
    pictures = drawn(evaluation)
    sections = [
        f"<h1>{escape(title)}</h1><p class=lead>{_lead(evaluation)}</p>",
        html(evaluation.verdict),
        f"<h2>Figures</h2><div class=wide>{_figures(evaluation)}</div>",
        _picture("figures", pictures.pop("figures")),
    ]
    if evaluation.auroc is not None:
        sections.append(f"<h2>Scores for outliers, AUROC</h2><div class=wide>{_plain_table(evaluation.auroc)}</div>")
    sections += [f"<h2>{escape(name.capitalize())}</h2>{_picture(name, figure)}" for name, figure in pictures.items()]
    if evaluation.notes:
        sections.append(f"<p class=small>{escape('; '.join(evaluation.notes))}.</p>")
    if evaluation.left_out:
        items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(why)}</dd>" for name, why in evaluation.left_out.items())
        sections.append(f"<h2>Left out</h2><dl>{items}</dl>")
    if evaluation.units is not None:
        sections.append(f"<h2>Units</h2><div class=wide>{_plain_table(evaluation.units.head(200))}</div>")
    sections.append(f"<h2>How to read this</h2><p>{_READ}</p>")
    return document(title, sections)


def _title(evaluation: Evaluated) -> str:
    return f"{evaluation.name} on {evaluation.problem}"


def _lead(evaluation: Evaluated) -> str:
    rows = int(evaluation.data["rows"].sizes["row"])
    text = f"{rows:,} rows; {evaluation.how}; {evaluation.engine}, {evaluation.seconds:.1f} s, seed {evaluation.seed}"
    return escape(text)


def _figures(evaluation: Evaluated) -> str:
    head = "".join(
        f"<th>{name}</th>" for name in ("", "mean", "&plusmn; sampling", "&plusmn; rows", "training rows", "unit")
    )
    body = []
    for name, row in evaluation.table.iterrows():
        value = f"{row['value']:.0f}" if "active units" in str(name) else f"{row['value']:.4f}"
        body.append(
            f"<tr><td>{escape(str(name))}</td><td><b>{value}</b></td><td class=se>{_number(row['error'])}</td>"
            f"<td class=se>{_number(row['row_error'])}</td><td>{_number(row['train'], 4)}</td>"
            f"<td class=text>{escape(str(row['unit']))}</td></tr>"
        )
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _plain_table(frame: pd.DataFrame) -> str:
    head = "".join(f"<th>{escape(str(name))}</th>" for name in (frame.index.name or "", *frame.columns))
    body = "".join(
        f"<tr><td>{escape(str(label))}</td>{''.join(f'<td>{_cell(value)}</td>' for value in values)}</tr>"
        for label, *values in frame.itertuples(name=None)
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else escape(str(value))


def _number(value: float, digits: int = 2) -> str:
    return "" if not math.isfinite(value) else f"{value:.{digits}g}"


def _picture(name: str, figure: Any) -> str:
    caption = CAPTIONS.get(
        name, "One row with a unit moved from -3 to 3 sds of its prior." if name.startswith("traversals") else ""
    )
    return f"<p class=small>{escape(caption)}</p>{picture(name, figure)}"
