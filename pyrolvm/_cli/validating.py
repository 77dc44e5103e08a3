"""``pyrolvm cross-validate``: rows and groups held out of fits, and predicted by them."""

from __future__ import annotations

import argparse
from typing import Any

import pyrolvm as lvm
from pyrolvm._cli.inference import given
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_folder, kept, told
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.target import load_guide, load_problem, target_name
from pyrolvm._methods.table import by_name

__all__ = ["run", "show"]

WORDS = ("folds", "groups", "draws", "jobs", "backend", "seed")
COLUMNS = ["rows", "elpd", "mc_error", "crps", "inside_90", "verdict", "seconds"]


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``cross-validate``; returns 1 where a fold has no fit."""
    folder = choose_folder(args, f"{target_name(args.target)}-cv")
    method: Any = args.method if args.method in ("auto", *by_name()) else load_guide(args.method)
    problem = load_problem(args)
    out.note(f"{problem!r}")
    found = lvm.cross_validate(problem, method, progress=out.progress, **kept(args, folder), **given(args, WORDS))
    show(found, out)
    out.line(told(folder, complete=not found.interrupted))
    out.next([f"lvm.load({str(folder)!r}).rows    the log predictive density of each row"])
    out.write_json({"command": "cross-validate", "target": args.target, "saved": str(folder), **found.as_dict()})
    return 1 if found.verdict.status == "failed" else 0


def show(found: lvm.CrossValidation, out: Output) -> None:
    """Prints a cross-validation: its sum, a row for each fold, its verdict."""
    out.line(str(found), style="bold")
    out.frame(found.summary()[COLUMNS])
    out.verdict(found.verdict)
