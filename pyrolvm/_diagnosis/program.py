"""What a result says of the program that made it: whether it was one and the same, and what of the result it could not make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._program.density import ENDLESS
from pyrolvm._results.afresh import AFRESH
from pyrolvm._results.attempts import missing
from pyrolvm._results.build import CHANGES

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["judge_program"]


def judge_program(data: xr.DataTree) -> Verdict:
    """Judges stored densities by those of a fresh run, and says which groups are missing."""
    reasons = [*_judge_changes(data), *_judge_afresh(data), *_judge_endless(data), *_missing(data)]
    steps = []
    if any("sites without end" in reason.figures for reason in reasons):
        steps.append("Give these sites proper priors, for example a wide Normal; more steps or draws do not help.")
    if any("lp difference" in reason.figures for reason in reasons):
        steps.append(
            "Do not use these draws: report the program to pyrolvm's authors, and use lvm.nuts(problem) meanwhile."
        )
    if any({"lp change", "program changes"} & set(reason.figures) for reason in reasons):
        steps.append(
            "Make the model a function of its arguments: no random numbers outside of pyro.sample, no counters, no data that change."
        )
    return Verdict.of(reasons, steps)


def _judge_changes(data: xr.DataTree) -> Iterator[Reason]:
    told = data["posterior"].attrs.get(CHANGES)
    if told:
        text = f"Guide or model is not the same program in every run, so it has no posterior. {told}"
        yield Reason("failed", text, {"program changes": 1.0})


def _judge_endless(data: xr.DataTree) -> Iterator[Reason]:
    sites = str(data["posterior"].attrs.get(ENDLESS, ""))
    if sites:
        names = ", ".join(f"`{site}`" for site in sites.split(", "))
        text = (
            f"The density does not fall along {names}, however far from the draws: under their flat priors the posterior is improper, "
            "without means, sds and evidence."
        )
        yield Reason("failed", text, {"sites without end": float(sites.count(", ") + 1)})


def _judge_afresh(data: xr.DataTree) -> Iterator[Reason]:
    attrs = data["sample_stats"].attrs if "sample_stats" in data.children else {}
    if f"{AFRESH}unsteady" in attrs:
        one, other, gap = (float(attrs[f"{AFRESH}{name}"]) for name in ("first", "second", "unsteady"))
        text = (
            f"The model's density is not the same in every run: at one stored draw log p is {one:.6g} in one and {other:.6g} in "
            "another, so there is no posterior."
        )
        yield Reason("failed", text, {"lp change": gap})
    elif f"{AFRESH}difference" in attrs:
        found, stored, gap = (float(attrs[f"{AFRESH}{name}"]) for name in ("lp", "stored", "difference"))
        text = (
            f"`lp` of a stored draw is {stored:.6g}, and the model run afresh at that draw gives {found:.6g}: the draws are not of the "
            "fitted state."
        )
        yield Reason("failed", text, {"lp difference": gap})
    elif f"{AFRESH}error" in attrs:
        text = f"The model could not be run afresh at a stored draw, to check its density: {attrs[f'{AFRESH}error']}"
        yield Reason("doubtful", text, {"lp unchecked": 1.0})


def _missing(data: xr.DataTree) -> Iterator[Reason]:
    for what, why in missing({str(name): value for name, value in data.attrs.items()}).items():
        group, _, name = what.partition("/")
        if what == "sample_stats/lp":
            yield Reason("doubtful", f"Some draws have no `lp`. {why}", {"missing": 1.0})
            continue
        part = f"`{name}` of group `{group}`" if name else f"Group `{group}`"
        yield Reason("trusted", f"{part} could not be made, and is missing: {why}", {"missing": 1.0})
