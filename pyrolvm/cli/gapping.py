"""``pyrolvm gaps``: what a fit with local latents loses, and where."""

from __future__ import annotations

import argparse

import pyrolvm as lvm
from pyrolvm.cli.inference import given
from pyrolvm.cli.output import Output
from pyrolvm.cli.runs import choose_picture
from pyrolvm.cli.signals import Stopped
from pyrolvm.cli.target import load_guide, load_problem

__all__ = ["run"]

FIT_WORDS = ("objective", "learning_rate", "max_steps", "num_particles", "batch_size", "seed")
GAP_WORDS = ("rows", "method", "draws", "seed")
SHOWN = ("evidence", "best", "elbo", "approximation_gap", "amortization_gap")


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``gaps``; returns 1 where the verdict is ``failed``."""
    picture = choose_picture(args.plot, overwrite=args.overwrite)
    guide = load_guide(args.guide)
    problem = load_problem(args)
    out.note(f"{problem!r}")
    fit = lvm.fit(problem, guide, progress=out.progress, **given(args, FIT_WORDS))
    found = lvm.gaps(fit, progress=out.progress, **given(args, GAP_WORDS))
    out.line(f"{found.name} on {problem.name}, nats a row, {found.rows:,} rows; evidence: {found.method}", style="bold")
    rows = [[key.replace("_", " "), found.figures[key], found.figures[f"{key}_error"]] for key in SHOWN]
    out.table(rows, ["", "mean", "error"])
    out.frame(found.collapse.table)
    out.verdict(found.verdict)
    if picture is not None:
        found.plot(picture)
        out.line(f"written: {picture}")
    out.write_json({"command": "gaps", "target": args.target, **found.as_dict()})
    return int(found.verdict.status == "failed")
