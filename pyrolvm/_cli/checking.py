"""``pyrolvm check``: data that a model makes beside the data that there are."""

from __future__ import annotations

import argparse

import pyrolvm as lvm
from pyrolvm._base.writing import replace_file
from pyrolvm._check.discrepancy.html import page
from pyrolvm._cli.fitted import attached, is_run
from pyrolvm._cli.inference import given
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_file
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.target import load_problem

__all__ = ["run"]

WORDS = ("by", "draws", "seed")


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``check``."""
    file = None if args.out is None else choose_file(args.out, (".html",), overwrite=args.overwrite)
    found = lvm.check(attached(args) if is_run(args.target) else load_problem(args), **given(args, WORDS))
    for kind, table in found.tables.items():
        out.frame(table.reset_index(), title=kind.replace("_", " "))
    if found.sensitivity is not None:
        out.frame(found.sensitivity.reset_index(), title="sensitivity to prior and likelihood")
    out.verdict(found.verdict)
    if file is not None:
        replace_file(file, lambda opened: opened.write(page(found).encode()))
        out.line(f"written: {file}")
    out.write_json(
        {"command": "check", "target": args.target, "file": None if file is None else str(file), **found.as_dict()}
    )
    return 0
