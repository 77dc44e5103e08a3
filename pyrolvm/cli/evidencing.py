"""``pyrolvm evidence``: the log marginal likelihood of a problem's data, or of the problem of a saved run."""

from __future__ import annotations

import argparse

import pyrolvm as lvm
from pyrolvm.cli.inference import given
from pyrolvm.cli.output import Output
from pyrolvm.cli.runs import choose_picture
from pyrolvm.cli.signals import Stopped
from pyrolvm.cli.target import load_guide, load_problem

__all__ = ["run"]

WORDS = ("draws", "schedule", "seed")


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``evidence``; returns 1 where every estimate failed its verdict."""
    picture = choose_picture(args.plot, overwrite=args.overwrite)
    methods = args.method.split(",")
    guide = None if args.guide is None else load_guide(args.guide)
    problem = load_problem(args)
    out.note(f"{problem!r}")
    subject: lvm.Problem | lvm.Posterior = problem
    words = given(args, WORDS)
    if guide is not None:
        subject = lvm.fit(problem, guide, seed=args.seed or 0, progress=out.progress)
        out.line(f"{subject.name}: {subject.verdict.status}")
    if len(methods) == 1:
        one = lvm.evidence(subject, methods[0], progress=out.progress, **words)
        found = {methods[0]: one}
        out.line(str(one), style="bold")
        out.verdict(one.verdict)
    else:
        several = lvm.evidence(subject, methods, progress=out.progress, **words)
        found = dict(several.found)
        out.frame(several.table)
        for name, one in found.items():
            for reason in one.verdict.reasons:
                out.line(f"{name}: {reason}")
    if picture is not None:
        exact = next((one.value for name, one in found.items() if name == "exact"), None)
        lvm.Evidences(found, exact).plot(picture)
        out.line(f"written: {picture}")
    out.write_json(
        {"command": "evidence", "target": args.target, "methods": {name: one.as_dict() for name, one in found.items()}}
    )
    return int(all(one.verdict.status == "failed" for one in found.values()))
