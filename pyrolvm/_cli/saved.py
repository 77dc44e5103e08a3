"""``pyrolvm diagnose`` and ``pyrolvm report``: saved runs, read again."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pyrolvm as lvm
from pyrolvm._base.errors import ArgumentError, unknown_name
from pyrolvm._base.writing import replace_file
from pyrolvm._cli.calibrating import show as show_calibration
from pyrolvm._cli.comparing import compared, drawn, judge
from pyrolvm._cli.inference import outcome, show
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import kind_of, posteriors_in
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.sweeping import show as show_sweep
from pyrolvm._cli.validating import show as show_validation

__all__ = ["run"]


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``diagnose`` or ``report``."""
    return _diagnose(args, out) if args.command == "diagnose" else _report(args, out)


def _diagnose(args: argparse.Namespace, out: Output) -> int:
    kind = kind_of(Path(args.run))
    if kind not in (None, "Posterior", "Comparison", "Sweep"):
        result = lvm.load(args.run)
        if kind == "Calibration":
            show_calibration(result, out)
        elif kind == "CrossValidation":
            show_validation(result, out)
        else:
            out.line(str(result))
        out.write_json({"command": "diagnose", "run": args.run, **result.as_dict()})
        judged = result.found.values() if isinstance(result, lvm.Evidences) else [result]
        return int(all(one.verdict.status == "failed" for one in judged))
    if kind == "Sweep":
        sweep = lvm.load(args.run)
        show_sweep(sweep, out)
        out.write_json({"command": "diagnose", "run": args.run, **sweep.as_dict()})
        return int(set(sweep.counts) != {"done"})
    found, failed = {}, 0
    for name, path in posteriors_in([args.run]).items():
        posterior = lvm.load(path)
        diagnosis = lvm.diagnose(posterior)
        verdict = diagnosis.verdict.and_also(posterior.verdict)
        show(posterior, diagnosis, verdict, out)
        out.line()
        found[name] = outcome(posterior, diagnosis, verdict)
        failed += verdict.status == "failed"
    if len(found) > 1:
        out.next([f"pyrolvm report {args.run}    all of them on one page"])
    out.write_json({"command": "diagnose", "run": args.run, "posteriors": found})
    return int(failed > 0)


def _alone(run: Path) -> Any:
    """What a folder holds, where that is one result and not a comparison's several."""
    if kind_of(run) == "Comparison" or (kind_of(run) in (None, "Posterior") and len(posteriors_in([str(run)])) > 1):
        return None
    return lvm.load(run)


def _one(run: str, found: Any, page: Path, out: Output) -> int:
    """Writes the page of one result; returns 1 where its verdict is ``failed``."""
    page.parent.mkdir(parents=True, exist_ok=True)
    lvm.report(found, page)
    out.line(f"written: {page}")
    verdict = getattr(found, "verdict", None)
    out.write_json({"command": "report", "runs": [run], "page": str(page)})
    return int(verdict is not None and verdict.status == "failed")


def _report(args: argparse.Namespace, out: Output) -> int:
    page = Path(args.out)
    if page.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(f"--out {args.out!r} must end in .html. Fix: use for example --out report.html.")
    only = _alone(Path(args.run[0])) if len(args.run) == 1 else None
    files = (page, page.with_suffix(".png"), page.with_suffix(".json")) if only is None else (page,)
    there = [file for file in files if os.path.lexists(file)]
    if there and not args.overwrite:
        beside = ", its .png and its .json" if only is None else ""
        raise ArgumentError(
            f"--out {args.out}: {there[0]} exists already. Fix: add --overwrite to replace {page.name}{beside}, or use another --out."
        )
    if only is not None:
        return _one(args.run[0], only, page, out)
    paths = posteriors_in(args.run)
    if args.reference is not None and args.reference not in paths:
        raise unknown_name("saved posterior", args.reference, paths)
    if len(paths) < 2:
        raise ArgumentError(
            f"a report compares at least two posteriors, found {', '.join(paths)}. "
            f"Fix: name more runs, or use pyrolvm diagnose {args.run[0]}."
        )
    comparison = compared({name: lvm.load(path) for name, path in paths.items()}, args.reference)
    page.parent.mkdir(parents=True, exist_ok=True)
    names = (page.name, page.with_suffix(".png").name, page.with_suffix(".json").name)
    for name, write in drawn(comparison, names, {}).items():
        replace_file(page.with_name(name), write)
    out.line(str(comparison))
    out.line(f"written: {page}, {names[1]} and {names[2]}")
    out.write_json({"command": "report", "runs": args.run, "page": str(page), **comparison.as_dict()})
    return judge(comparison)
