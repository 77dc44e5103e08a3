"""``pyrolvm fit``, ``nuts`` and every other method of the table: one posterior, saved and judged."""

from __future__ import annotations

import argparse
from typing import Any

import pyrolvm as lvm
from pyrolvm._base.team import launched, rank_of_launch
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_folder, kept
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.target import load_guide, load_problem, target_name
from pyrolvm._cli.words import plain_words
from pyrolvm._methods.table import Method, by_name, of_command

TOGETHER = "distributed"
"""The option of methods whose work the processes of a launcher share."""

__all__ = ["given", "ladder", "outcome", "run", "show"]


def given(args: argparse.Namespace, words: tuple[str, ...]) -> dict[str, Any]:
    """The arguments that were given on the command line; the rest keep the defaults of the Python functions."""
    return {word: value for word in words if (value := getattr(args, word)) is not None}


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs a method; returns 1 where the verdict is ``failed``."""
    row = of_command(args.command)
    label = (args.guide or "auto") if row.guided else row.name
    together = TOGETHER in row.options and launched()
    if together and rank_of_launch():
        return _help_along(args, row)
    folder = choose_folder(args, f"{target_name(args.target)}-{label}")
    guide = (load_guide(label),) if row.guided else ()
    problem = load_problem(args)
    out.note(f"{problem!r}")
    words = _words(args, row) | ({TOGETHER: True} if together else {})
    posterior: lvm.Posterior = _verb(row)(problem, *guide, progress=out.progress, **kept(args, folder), **words)
    if stopped:
        out.log.print(f"stopped; what was reached is saved in {folder}")
    diagnosis = lvm.diagnose(posterior)
    verdict = diagnosis.verdict.and_also(posterior.verdict)
    show(posterior, diagnosis, verdict, out)
    out.line(f"saved in {folder}")
    out.next(
        [
            f"pyrolvm compare {args.target}{_again(args)}    this and other methods against NUTS",
            f"lvm.load({str(folder)!r}).data    its draws, as ArviZ takes them",
        ]
    )
    out.write_json(
        {"command": args.command, "target": args.target, "saved": str(folder), **outcome(posterior, diagnosis, verdict)}
    )
    return 1 if verdict.status == "failed" else 0


def _words(args: argparse.Namespace, row: Method) -> dict[str, Any]:
    """The options of a method that were given."""
    words = given(args, plain_words(row))
    if "methods" in words:
        words["methods"] = ladder(words["methods"])
    return words


def _verb(row: Method) -> Any:
    """The function of a method."""
    return getattr(lvm, row.name) if row.name in lvm.__all__ else row.call


def _help_along(args: argparse.Namespace, row: Method) -> int:
    """Takes this process's share of a run that the first one of its launch says and writes all of."""
    guide = (load_guide(args.guide or "auto"),) if row.guided else ()
    _verb(row)(load_problem(args), *guide, progress=False, **_words(args, row), **{TOGETHER: True})
    return 0


def ladder(text: str) -> Any:
    """The methods of a ladder: a word of its own, or guides and names of methods with commas between them."""
    if text in ("auto", "vi"):
        return text
    return [name if name in by_name() else load_guide(name) for name in text.split(",")]


def _again(args: argparse.Namespace) -> str:
    return f" --data {args.data}" if args.data else ""


def show(posterior: lvm.Posterior, diagnosis: lvm.Diagnosis, verdict: lvm.Verdict, out: Output) -> None:
    """Prints a posterior: how it was made, its quantities, its verdict."""
    out.line(f"{diagnosis.name}, {timing(posterior)}", style="bold")
    figures = "   ".join(f"{name} {value:.4g}" for name, value in diagnosis.figures.items())
    if figures:
        out.line(figures)
    if len(diagnosis.table):
        out.frame(diagnosis.table)
    for rung in posterior.ladder:
        khat = "" if rung["khat"] is None else f", k-hat {rung['khat']:.2f}"
        out.line(f"{rung['method']}: {rung['status']}{khat}, {rung['seconds']:.1f} s")
    out.verdict(verdict)


def timing(posterior: lvm.Posterior) -> str:
    """How long it took and what ran it."""
    phases = {phase: seconds for phase, seconds in posterior.seconds.items() if phase != "total"}
    parts = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in phases.items())
    reason = f" ({posterior.engine_reason})" if posterior.engine_reason else ""
    frame = posterior.data["posterior"].attrs.get("frame_engine", "")
    reason += f", frame by {frame}" if frame else ""
    return f"{sum(phases.values()):.1f} s ({parts}), engine {posterior.engine}{reason}, seed {posterior.seed}"


def outcome(posterior: lvm.Posterior, diagnosis: lvm.Diagnosis, verdict: lvm.Verdict) -> dict[str, object]:
    """A posterior's outcome for ``--json``."""
    evidence = posterior.evidence
    return {
        **diagnosis.as_dict(),
        "verdict": verdict.as_dict(),
        "evidence": None
        if evidence is None
        else {"value": evidence.value, "error": evidence.error, "method": evidence.method},
        "seconds": dict(posterior.seconds),
        "engine": posterior.engine,
        "engine_reason": posterior.engine_reason,
        "seed": posterior.seed,
        "ladder": posterior.ladder,
    }
