"""``pyrolvm sweep``: many problems, guides and seeds."""

from __future__ import annotations

import argparse
from typing import Any

import pyrolvm as lvm
from pyrolvm._base.errors import ArgumentError
from pyrolvm._cli.inference import given, ladder
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_folder, kept, told
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.target import load_guide, load_problem, target_name
from pyrolvm._cli.words import plain_words
from pyrolvm._methods.table import by_name, methods

__all__ = ["run", "show"]

COLUMNS = ["done", "trusted", "elbo", "elbo_spread", "khat", "mean_diff", "sd_ratio", "seconds"]


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``sweep``; returns 1 where a cell is not done."""
    folder = choose_folder(args, f"{target_name(args.targets[0])}-sweep")
    guides = {text: text if text in ("auto", *by_name()) else load_guide(text) for text in args.guide or ["auto"]}
    problems = {}
    for target in args.targets:
        args.target = target
        problems[target_name(target)] = load_problem(args)
    if len(problems) < len(args.targets):
        raise ArgumentError("two TARGETs have one name. Fix: name each problem once, or rename a function.")
    shared = dict.fromkeys(name for row in methods().values() for name in plain_words(row, but=("seed",)))
    options = given(args, tuple(shared))
    if "methods" in options:
        options["methods"] = ladder(options["methods"])
    words: dict[str, Any] = {
        "jobs": args.jobs,
        "backend": args.backend,
        "retries": args.retries,
        "reference": args.reference,
    }
    found = lvm.sweep(
        problems,
        guides,
        _seeds(args.seeds),
        **kept(args, folder),
        retry_failed=args.retry_failed,
        keep=args.keep,
        progress=out.progress,
        **{name: value for name, value in words.items() if value is not None},
        **options,
    )
    show(found, out)
    out.line(told(folder, complete=found.complete))
    out.next([f"lvm.load({str(folder)!r}).table    every cell, as a DataFrame"])
    out.write_json({"command": "sweep", "targets": args.targets, "saved": str(folder), **found.as_dict()})
    return 0 if set(found.counts) == {"done"} else 1


def _seeds(text: str) -> int | list[int]:
    """``5`` for seeds 0 to 4, ``3,7`` for these."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers:
        raise ArgumentError(
            f"--seeds must be a number or numbers with commas, got {text!r}. Fix: use --seeds 5, or 3,7."
        )
    return numbers if "," in text else numbers[0]


def show(sweep: lvm.Sweep, out: Output) -> None:
    """Prints a sweep: a row for each problem and method, and what failed and why."""
    out.line(str(sweep), "bold")
    out.frame(sweep.summary.set_index(["problem", "method"])[COLUMNS])
    for error, number in sweep.failures.items():
        out.line(f"{number} x {error}")
