"""``pyrolvm gaps``: what a fit with local latents loses, and where."""

from __future__ import annotations

import argparse
from typing import Any

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._check.gaps.storage import CODEC, COMMAND
from pyrolvm._cli.inference import given
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_folder, choose_picture, kept
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.target import load_guide, load_problem
from pyrolvm._cli.words import plain_words
from pyrolvm._methods.table import METHODS
from pyrolvm._report.pictures import written
from pyrolvm._results import store
from pyrolvm.family.choice import resolve

__all__ = ["run"]

FIT_WORDS = plain_words(METHODS["fit"], but=("draws", "engine", "device"))
GAP_WORDS = ("rows", "method", "draws", "seed")
SHOWN = ("evidence", "best", "elbo", "approximation_gap", "amortization_gap")


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``gaps``; returns 1 where the verdict is ``failed``."""
    picture = choose_picture(args.plot, overwrite=args.overwrite)
    folder = None if args.out is None else choose_folder(args, "gaps")
    guide = load_guide(args.guide)
    problem = load_problem(args)
    out.note(f"{problem!r}")

    def work(run: runs.Run | None) -> lvm.Gaps:
        asked = runs.Order() if run is None else run.stage("fit")
        words: dict[str, Any] = {"progress": out.progress, "out": asked.out, "resume": asked.resume}
        fit = lvm.fit(problem, guide, **words, **given(args, FIT_WORDS))
        return lvm.gaps(fit, progress=out.progress, **given(args, GAP_WORDS))

    asked = runs.Order() if folder is None else runs.order(**kept(args, folder))
    options = {"fit": given(args, FIT_WORDS), "arguments": given(args, GAP_WORDS)}
    about = store.identity("Gaps", problem, resolve(guide, problem), args.seed or 0, options)
    found = runs.run(asked, COMMAND, about, CODEC, work)
    out.line(f"{found.name} on {problem.name}, nats a row, {found.rows:,} rows; evidence: {found.method}", style="bold")
    rows = [[key.replace("_", " "), found.figures[key], found.figures[f"{key}_error"]] for key in SHOWN]
    out.table(rows, ["", "mean", "error"])
    out.frame(found.collapse.table)
    out.verdict(found.verdict)
    if picture is not None:
        written(found.plot(), picture)
        out.line(f"written: {picture}")
    if folder is not None:
        out.line(f"saved in {folder}")
    out.write_json({"command": "gaps", "target": args.target, **found.as_dict()})
    return int(found.verdict.status == "failed")
