"""``pyrolvm check``: data that a model makes beside the data that there are."""

from __future__ import annotations

import argparse

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._check.discrepancy.html import page
from pyrolvm._cli.fitted import attached, is_run
from pyrolvm._cli.inference import given
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_folder, kept
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.target import load_problem

__all__ = ["run"]

WORDS = ("by", "draws", "seed")
PAGE = "report.html"


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``check``."""
    folder = None if args.out is None else choose_folder(args, "check")
    where = {} if folder is None else kept(args, folder)
    of = attached(args) if is_run(args.target) else load_problem(args)
    found = lvm.check(of, **given(args, WORDS), **where)
    for kind, table in found.tables.items():
        out.frame(table.reset_index(), title=kind.replace("_", " "))
    if found.sensitivity is not None:
        out.frame(found.sensitivity.reset_index(), title="sensitivity to prior and likelihood")
    out.verdict(found.verdict)
    if folder is not None:
        runs.write_pages(folder, {PAGE: lambda file: file.write(page(found).encode())})
        out.line(f"saved in {folder}: {PAGE}")
    saved = None if folder is None else str(folder)
    out.write_json({"command": "check", "target": args.target, "saved": saved, **found.as_dict()})
    return 0
