"""The verdict on a method, from the ranks of many simulations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyrolvm._base.verdict import Reason, Status, Verdict
from pyrolvm._check.calibrate.ranking import LIKELIHOOD, PRIOR
from pyrolvm._check.calibrate.ranks import Ranks
from pyrolvm._check.calibrate.uniformity import ks_bound

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["judge"]

FEW = 100
"""With fewer simulations only gross errors show: a posterior with two thirds of its sd passes one time in ten."""
ENOUGH_TRUSTED = 50
NAMED = 6
FAILURES_DOUBTFUL, FAILURES_FAILED = 0.01, 0.2


def judge(calibration: Ranks) -> Verdict:
    """Adds up what ranks and fits say; see :attr:`pyrolvm.Calibration.verdict`."""
    reasons = list(_reasons(calibration))
    return Verdict.of(reasons, _next_steps(calibration, reasons))


def _reasons(calibration: Ranks) -> Iterator[Reason]:
    yield from _about_failures(calibration)
    count = calibration.successes
    if not count:
        return
    table = calibration.statistics
    if count < FEW:
        text = (
            f"{count} simulations show gross errors only: distances from uniform below {ks_bound(count):.2f} are noise."
        )
        yield Reason("doubtful", text, {"simulations": count})
    yield from _about_ranks(table, count)
    yield from _about_correlation(calibration, count)
    yield from _about_trusted(calibration)


def _about_failures(calibration: Ranks) -> Iterator[Reason]:
    asked, failures = calibration.simulations, calibration.failures
    number = sum(failures.values())
    if not number:
        return
    share = number / asked
    status: Status = "failed" if share > FAILURES_FAILED else "doubtful" if share > FAILURES_DOUBTFUL else "trusted"
    message, often = next(iter(failures.items()))
    text = f"{number} of {asked} fits gave no posterior, {often} of them: {message[:300].rstrip('.')}."
    yield Reason(status, text, {"failed fits": number})


def _about_ranks(table: pd.DataFrame, count: int) -> Iterator[Reason]:
    bad = table[table["status"] != "trusted"].sort_values("p", kind="stable")
    for label, row in bad.head(NAMED).iterrows():
        figures = {f"ks {label}": float(row["ks"]), f"p {label}": float(row["p_adjusted"])}
        small = " (small, but more than noise)" if row["status"] == "doubtful" and row["p_adjusted"] < 0.01 else ""
        yield Reason(row["status"], f"{label}: {row['finding']}{small}.", figures)
    if len(bad) > NAMED:
        worst: Status = "failed" if (bad["status"][NAMED:] == "failed").any() else "doubtful"
        yield Reason(
            worst, f"{len(bad) - NAMED} further quantities of {len(table)} are off as well.", {"off": len(bad)}
        )
    if not len(bad):
        low, high = table["cover90"].min(), table["cover90"].max()
        text = (
            f"Ranks of all {len(table)} quantities are uniform as far as {count} simulations tell: distances up to "
            f"{table['ks'].max():.3f}, 90% intervals cover {low:.1%} to {high:.1%}."
        )
        yield Reason("trusted", text, {"ks": float(table["ks"].max()), "p": float(table["p_adjusted"].min())})
    missing = table[table["simulations"] < count]
    if len(missing):
        text = f"{missing.index[0]} and {len(missing) - 1} more have" if len(missing) > 1 else f"{missing.index[0]} has"
        rest = count - int(missing["simulations"].min())
        yield Reason(
            "doubtful", f"{text} no rank in up to {rest} simulations, where values are not numbers.", {"no rank": rest}
        )


def _about_correlation(calibration: Ranks, count: int) -> Iterator[Reason]:
    ess = calibration.fits["ess"].dropna()
    few = int((ess < calibration.draws).sum())
    if few > 0.05 * count:
        text = (
            f"In {few} of {count} fits the chains had fewer effective draws than the {calibration.draws} that are ranked; ranks among "
            "correlated draws look as if the posterior were too narrow."
        )
        yield Reason("doubtful", text, {"correlated": few})


def _about_trusted(calibration: Ranks) -> Iterator[Reason]:
    trusted = calibration.of_status("trusted")
    if not ENOUGH_TRUSTED <= trusted.successes < calibration.successes:
        return
    bad = trusted.statistics.query("status == 'failed'").sort_values("p")
    head = f"Of the {trusted.successes} fits whose own verdict is trusted alone,"
    if len(bad):
        yield Reason(
            "doubtful",
            f"{head} {len(bad)} quantities are off, {bad.index[0]}: {bad['finding'].iloc[0]}.",
            {"off": len(bad)},
        )
    else:
        yield Reason("trusted", f"{head} no quantity is shown to be off.", {"trusted fits": trusted.successes})


def _next_steps(calibration: Ranks, reasons: list[Reason]) -> Iterator[str]:
    if not calibration.successes:
        yield "Read the errors: calibration.failures counts them."
        return
    if calibration.successes < FEW:
        yield "Run more simulations: the same folder with resume=True goes on where it ended."
    table = calibration.statistics
    off = table[table["status"] != "trusted"]
    if (
        LIKELIHOOD in off.index
        and off.loc[LIKELIHOOD, "bias"] < 0
        and not len(off.drop([LIKELIHOOD, PRIOR], errors="ignore"))
    ):
        yield "Latents pass, and yet the truth fits the data better than the draws do: does the method use all of the data?"
    if ((off["spread_z"] > 3) & (off["sd_ratio"] < 1)).any():
        yield "Where posteriors are too narrow, take a family with dependence between unknowns, lvm.infer, or NUTS."
    if len(off):
        yield "calibration.plot() shows in which way each quantity is off."
    statuses = Counter(calibration.fits["status"])
    if len(off) and statuses["trusted"] and statuses["trusted"] < calibration.successes:
        yield "calibration.of_status('trusted') shows whether the verdicts of single fits tell good ones from bad ones."
