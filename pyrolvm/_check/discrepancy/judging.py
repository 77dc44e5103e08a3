"""What p-values come to, in words that do not say more than they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pyrolvm._base.verdict import Reason, Verdict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EXTREME", "judged"]

EXTREME = 0.01
"""A tail below which a feature is called one that the model does not make."""
SHOWN = 4
"""Features that are named."""


def judged(tables: Mapping[str, pd.DataFrame], grouped: bool) -> Verdict:
    """What both comparisons come to."""
    return Verdict.of(_reasons(tables), _steps(tables, grouped))


def _extreme(table: pd.DataFrame) -> pd.DataFrame:
    tail = table["p"].clip(upper=1 - table["p"])
    return table[tail < EXTREME]


def _named(table: pd.DataFrame) -> str:
    parts = [
        f"{statistic} of {site}{f' in {group}' if group else ''} ({row.observed:.4g}, model {row.q5:.3g} to {row.q95:.3g})"
        for (site, group, statistic), row in table.head(SHOWN).iterrows()
    ]
    return "; ".join(parts) + (f"; and {len(table) - SHOWN} more" if len(table) > SHOWN else "")


def _reasons(tables: Mapping[str, pd.DataFrame]) -> Iterator[Reason]:
    for kind, table in tables.items():
        if not len(table):
            continue
        bad = _extreme(table)
        figures = {"features": float(len(table)), "extreme": float(len(bad))}
        chance = f"of {len(table)} features, of which chance alone would make about {2 * EXTREME * len(table):.1g} so extreme at most"
        if kind == "posterior_predictive":
            if len(bad):
                yield Reason(
                    "doubtful", f"The model does not make what the data have ({chance}): {_named(bad)}.", figures
                )
            else:
                text = (
                    f"No feature of the data is extreme among replicated ones ({len(table)} looked at). That is no proof: "
                    "the model has seen these data."
                )
                yield Reason("trusted", text, figures)
        elif len(bad):
            yield Reason("doubtful", f"The prior hardly makes data like these ({chance}): {_named(bad)}.", figures)
        else:
            yield Reason(
                "trusted", f"The data are among those that the prior makes ({len(table)} features looked at).", figures
            )


def _steps(tables: Mapping[str, pd.DataFrame], grouped: bool) -> Iterator[str]:
    after = tables.get("posterior_predictive")
    before = tables.get("prior_predictive")
    if after is not None and len(_extreme(after)):
        names = {str(index[2]) for index in _extreme(after).index}
        if "zeros" in names:
            yield "More zeros than the model makes: a zero-inflated or negative binomial likelihood has them."
        if names & {"sd", "max", "min"}:
            yield "Spread or ends are off: a likelihood with heavier tails or its own dispersion, or a missing group effect."
        if "autocorrelation" in names:
            yield "Rows depend on their neighbours: a term for their order (a random walk, an autoregression)."
        if not grouped:
            yield 'Look where it is: lvm.check(result, by="column").'
    if before is not None and len(_extreme(before)):
        yield "Widen or move the priors, until data sets from them are what could have been seen."
