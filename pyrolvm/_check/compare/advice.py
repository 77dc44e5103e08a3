"""Advice in plain words: who agrees with the reference, who does not and in what, and what to try next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from pyrolvm._base.verdict import Verdict
from pyrolvm._diagnosis.reweighted import MEAN_BOUND
from pyrolvm.family.protocol import Traits

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["advise", "warn_of_reference"]

_AT_MOST = 5


def warn_of_reference(reference: str, verdict: Verdict) -> list[str]:
    """Returns a warning where the reference is not itself trusted, as a list of none or one."""
    if verdict.trusted:
        return []
    why = " ".join(reason.text for reason in verdict.reasons if reason.status != "trusted")
    steps = " ".join(verdict.next_steps)
    text = (
        f"WARNING: the reference {reference} is itself {verdict.status}, so agreement with it proves little and "
        f"disagreement may be its own fault. {why} {steps}"
    )
    return [text.strip()]


def advise(
    table: pd.DataFrame,
    verdicts: Mapping[str, Verdict],
    guides: Mapping[str, str],
    there: Iterable[str] = (),
    families: Mapping[str, Traits] | None = None,
) -> Iterator[str]:
    """Yields one piece of advice for each method.

    Args:
        table: the table of a comparison.
        verdicts: each method's own verdict.
        guides: name of the guide of each method, empty for methods without one.
        families: what is known of the guides' families.
        there: the guides that are compared, and ``"nuts"`` where chains are, which need not be tried any more.
    """
    for method, rows in table.groupby("method", sort=False):
        name = str(method)
        counts = rows["status"].value_counts()
        differs, unclear = int(counts.get("differs", 0)), int(counts.get("unclear", 0))
        verdict = verdicts[name]
        parts = [f"{name}: {int(counts.get('agrees', 0))} of {len(rows)} quantities agree"]
        if differs:
            findings = list(_findings(rows[rows["status"] == "differs"]))
            parts.append(f"{differs} differ: {'; '.join(findings[:_AT_MOST])}")
            if len(findings) > _AT_MOST:
                parts[-1] += f"; and {len(findings) - _AT_MOST} more sites"
        if unclear:
            parts += _undecided(rows[rows["status"] == "unclear"])
        text = ". ".join(parts) + "."
        heavy = rows.loc[rows["heavy_tail"].astype(bool), "variable"].unique()
        if len(heavy):
            names = ", ".join(f"`{site}`" for site in heavy[:_AT_MOST])
            text += f" {names}: tails too heavy for means and sds, so medians and interval masses were compared."
        if verdict.trusted and differs:
            text += " Its own verdict, trusted, does not see this."
        elif not verdict.trusted:
            text += f" Its own verdict is {verdict.status}."
        family = (families or {}).get(name, Traits())
        yield text + "".join(f" {step}" for step in _next(rows, differs, verdict, guides.get(name, ""), there, family))


def _next(
    rows: pd.DataFrame, differs: int, verdict: Verdict, guide: str, there: Iterable[str], family: Traits
) -> Iterator[str]:
    if any("points" in reason.figures for reason in verdict.reasons):
        yield 'It is a point estimate, whose sds are none: use guide="laplace" or lvm.nuts for a posterior.'
        return
    unfinished = any("optimisation stopped" in reason.text for reason in verdict.reasons)
    if differs and unfinished:
        yield "Let the optimisation run on first (max_steps=)."
    elif differs and guide:
        richer = family.richer or "mean_field"
        if richer not in {guide, *there}:
            yield f'Try guide="{richer}".'
        elif guide.startswith("flow"):
            yield "Try more flow layers or more particles, or use the reference."
        else:
            yield "Use the reference."
    elif differs:
        yield "Check that both used the same data, priors and parameterisation; if so, run longer."
    elif (rows["status"] == "agrees").all() and verdict.trusted:
        yield "It can stand in for the reference."


def _findings(rows: pd.DataFrame) -> Iterator[str]:
    """Yields what is wrong with each variable, the worst first."""
    size = rows["mean_diff"].abs().clip(upper=1e6) + (rows["sd_ratio"].clip(1e-6, 1e6).map(math.log)).abs()
    order = size.groupby(rows["variable"], sort=False).max().sort_values(ascending=False).index
    for variable in order:
        group = rows[rows["variable"] == variable]
        label = f"`{variable}`" if len(group) == 1 and group["quantity"].iloc[0] == variable else ""
        if not label:
            label = f"`{group['quantity'].iloc[0]}`" if len(group) == 1 else f"`{variable}` ({len(group)} elements)"
        yield f"{label} {', '.join(_faults(group))}"


def _faults(group: pd.DataFrame) -> Iterator[str]:
    noted = group.loc[(group["note"] != "") & ~group["heavy_tail"].astype(bool), "note"]
    if len(noted):
        yield str(noted.iloc[0])
        return
    upto = "up to " if len(group) > 1 else ""
    heavy = group["heavy_tail"].astype(bool)
    light = group[~heavy]
    count = 0
    sd = light[light["sd_status"] == "differs"]
    if len(sd):
        ratio = sd["sd_ratio"].iloc[sd["sd_ratio"].clip(1e-6).map(math.log).abs().argmax()]
        yield f"sd {upto}{1 - ratio:.0%} too small" if ratio < 1 else f"sd {upto}{_times(ratio)} too large"
        count += 1
    mean = light[light["mean_status"] == "differs"]
    if len(mean):
        shift = mean["mean_diff"].iloc[mean["mean_diff"].abs().argmax()]
        yield f"mean off by {upto}{shift:+.2f} sd"
        count += 1
    if not count:
        worst = group["mass50"].iloc[group["mass50"].abs().argmax()]
        median = group["median_diff"].iloc[group["median_diff"].abs().argmax()]
        off = f", median off by {median:+.2f}" if heavy.any() and abs(median) > 0.1 else ""
        yield f"another shape ({0.5 + worst:.0%} of draws in the central 50% interval{off})"


def _times(ratio: float) -> str:
    return f"{ratio - 1:.0%}" if ratio < 3 else f"{ratio:.3g} times"


def _undecided(rows: pd.DataFrame) -> Iterator[str]:
    """Yields how many unclear quantities lie on the edge of their bounds, and how many are lost in noise."""
    error = rows[["mean_diff_error", "sd_ratio_error"]].max(axis=1)
    noisy = ~(error <= MEAN_BOUND / 2)
    if not noisy.all():
        edge = ", ".join(f"`{name}`" for name in rows.loc[~noisy, "quantity"].head(_AT_MOST))
        yield f"{int((~noisy).sum())} on the edge of the bounds ({edge})"
    if noisy.any():
        need = (error[noisy] / (MEAN_BOUND / 2)) ** 2
        need = need[need.map(math.isfinite)]
        ours = rows["ess"].median() <= rows["ref_ess"].median()
        factor = math.ceil(min(float(need.median()), 1e3)) if len(need) else 0
        more = (
            f": take about {factor} times the draws of {'this method' if ours else 'the reference'}" if factor else ""
        )
        yield f"{int(noisy.sum())} too noisy to tell{more}"
