"""A comparison as plain text, for terminals and logs."""

from __future__ import annotations

import textwrap

from pyrolvm._check.compare.compared import Compared

__all__ = ["as_text"]

_ROWS = 15


def as_text(comparison: Compared) -> str:
    """Returns verdicts and figures of all methods, the advice, and the rows that differ or are unclear first."""
    methods = comparison.methods.dropna(axis=1, how="all")
    methods = methods.loc[:, [column for column in methods if column != "engine"]]
    parts = [f"Posteriors against {comparison.reference}", "", _plain(methods)]
    parts += [
        "",
        *(textwrap.fill(line, 110, initial_indent="- ", subsequent_indent="  ") for line in comparison.advice),
    ]
    rank = comparison.table["status"].map({"differs": 0, "unclear": 1, "agrees": 2})
    rows = comparison.table.loc[rank.sort_values(kind="stable").index]
    shown = rows.head(_ROWS)[
        ["method", "quantity", "status", "mean_diff", "mean_diff_error", "sd_ratio", "sd_ratio_error", "w1"]
    ]
    parts += ["", _plain(shown.set_index("method"))]
    if len(rows) > _ROWS:
        parts.append(f"... and {len(rows) - _ROWS} rows more in .table")
    parts += [textwrap.fill(f"note: {note}", 110, subsequent_indent="  ") for note in comparison.notes]
    return "\n".join(parts)


def _plain(frame: object) -> str:
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        return str(frame)
    return str(frame.to_string(float_format=lambda value: f"{value:.3g}", na_rep="-"))
