"""``pyrolvm calibrate``: a method on data whose truth is known."""

from __future__ import annotations

import argparse
from typing import Any

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_folder, in_force, kept, picture
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.target import load_guide, load_problem, target_name
from pyrolvm._methods.table import by_name

__all__ = ["run", "show"]

COLUMNS = ["ks", "bias", "sd_ratio", "cover50", "cover90", "p_adjusted", "status"]


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``calibrate``; returns 1 where the verdict is ``failed``."""
    folder = choose_folder(args, f"{target_name(args.target)}-calibrate")
    method = args.method if args.method in ("auto", *by_name()) else load_guide(args.method)
    problem = load_problem(args)
    out.note(f"{problem!r}")
    words: dict[str, Any] = {
        "simulations": args.simulations,
        "draws": args.ranked,
        "workers": args.workers,
        "seed": args.seed,
    }
    given = {name: value for name, value in words.items() if value is not None}
    found = lvm.calibrate(problem, method, progress=out.progress, **kept(args, folder), **given)
    if stopped:
        out.log.print(f"stopped after {found.simulations} simulations, which are kept; --out {folder} --resume goes on")
    show(found, out)
    if found.successes and in_force(folder, stopped=bool(stopped)):
        runs.write_pages(folder, {"ranks.png": picture(found.plot())})
        out.line(f"saved in {folder}: ranks.png")
    out.next([f"lvm.load({str(folder)!r}).plot('histogram')    the same as histograms of ranks"])
    out.write_json({"command": "calibrate", "target": args.target, "saved": str(folder), **found.as_dict()})
    return 1 if found.verdict.status == "failed" else 0


def show(calibration: lvm.Calibration, out: Output) -> None:
    """Prints a calibration: its worst quantities, what became of the fits, its verdict."""
    statuses = ", ".join(f"{n} {status}" for status, n in calibration.fits["status"].value_counts().items())
    seconds = calibration.fits["seconds"].mean()
    out.line(
        f"{calibration.method} on {calibration.problem}: {calibration.simulations} simulations, {seconds:.2g} s each",
        "bold",
    )
    out.line(f"fits: {statuses}")
    if calibration.successes:
        out.frame(calibration.statistics.sort_values("p", kind="stable")[COLUMNS])
    for note in calibration.notes:
        out.line(note)
    out.verdict(calibration.verdict)
