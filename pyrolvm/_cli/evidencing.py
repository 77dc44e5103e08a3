"""``pyrolvm evidence``: the log marginal likelihood of a problem's data, or of the problem of a saved run."""

from __future__ import annotations

import argparse

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._cli.inference import given
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_folder, choose_picture, kept
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.target import load_guide, load_problem
from pyrolvm._methods.evidence.storage import CODEC, COMMAND
from pyrolvm._report.pictures import written
from pyrolvm._results import store
from pyrolvm.family.choice import resolve

__all__ = ["run"]

WORDS = ("draws", "schedule", "seed")


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``evidence``; returns 1 where every estimate failed its verdict."""
    picture = choose_picture(args.plot, overwrite=args.overwrite)
    folder = None if args.out is None else choose_folder(args, "evidence")
    methods = args.method.split(",")
    guide = None if args.guide is None else load_guide(args.guide)
    problem = load_problem(args)
    out.note(f"{problem!r}")
    words = given(args, WORDS)
    method = methods[0] if len(methods) == 1 else methods

    def work(run: runs.Run | None) -> lvm.Evidence | lvm.Evidences:
        subject: lvm.Problem | lvm.Posterior = problem
        if guide is not None:
            asked = runs.Order() if run is None else run.stage("fit")
            subject = lvm.fit(
                problem, guide, seed=args.seed or 0, progress=out.progress, out=asked.out, resume=asked.resume
            )
            out.line(f"{subject.name}: {subject.verdict.status}")
        asked = runs.Order() if run is None else run.stage("evidence")
        return lvm.evidence(subject, method, progress=out.progress, out=asked.out, resume=asked.resume, **words)

    asked = runs.Order() if folder is None else runs.order(**kept(args, folder))
    recipe = None if guide is None else resolve(guide, problem)
    about = store.identity("Evidence", problem, recipe, args.seed or 0, {"methods": methods, "arguments": words})
    estimate = runs.run(asked, COMMAND, about, CODEC, work)
    if isinstance(estimate, lvm.Evidence):
        found = {methods[0]: estimate}
        out.line(str(estimate), style="bold")
        out.verdict(estimate.verdict)
    else:
        found = dict(estimate.found)
        out.frame(estimate.table)
        for name, one in found.items():
            for reason in one.verdict.reasons:
                out.line(f"{name}: {reason}")
    if folder is not None:
        out.line(f"saved in {folder}")
    if picture is not None:
        exact = next((one.value for name, one in found.items() if name == "exact"), None)
        figure = lvm.Evidences(found, exact).plot()
        written(figure, picture)
        out.line(f"written: {picture}")
    out.write_json(
        {"command": "evidence", "target": args.target, "methods": {name: one.as_dict() for name, one in found.items()}}
    )
    return int(all(one.verdict.status == "failed" for one in found.values()))
