"""``pyrolvm diagnose`` and ``pyrolvm report``: saved runs, read again."""

from __future__ import annotations

import argparse
from pathlib import Path

import pyrolvm as lvm
from pyrolvm.cli.calibrating import show as show_calibration
from pyrolvm.cli.comparing import compared, judge, write_comparison
from pyrolvm.cli.inference import outcome, show
from pyrolvm.cli.output import Output
from pyrolvm.cli.runs import is_calibration, is_sweep, posteriors_in
from pyrolvm.cli.signals import Stopped
from pyrolvm.cli.sweeping import show as show_sweep
from pyrolvm.errors import ArgumentError, unknown_name

__all__ = ["run"]


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``diagnose`` or ``report``."""
    return _diagnose(args, out) if args.command == "diagnose" else _report(args, out)


def _diagnose(args: argparse.Namespace, out: Output) -> int:
    if is_calibration(Path(args.run)):
        calibration = lvm.load(args.run)
        show_calibration(calibration, out)
        out.write_json({"command": "diagnose", "run": args.run, **calibration.as_dict()})
        return int(calibration.verdict.status == "failed")
    if is_sweep(Path(args.run)):
        sweep = lvm.load(args.run)
        show_sweep(sweep, out)
        out.write_json({"command": "diagnose", "run": args.run, **sweep.as_dict()})
        return int(set(sweep.counts) != {"done"})
    found, failed = {}, 0
    for name, path in posteriors_in([args.run]).items():
        posterior = lvm.load(path)
        if isinstance(posterior, lvm.Evaluation):
            out.line(str(posterior))
            found[name] = posterior.as_dict()
            failed += posterior.verdict.status == "failed"
            continue
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


def _report(args: argparse.Namespace, out: Output) -> int:
    page = Path(args.out)
    if page.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(f"--out {args.out!r} must end in .html. Fix: use for example --out report.html.")
    if page.exists() and not args.overwrite:
        raise ArgumentError(f"--out {args.out} exists already. Fix: add --overwrite, or use another --out.")
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
    write_comparison(comparison, page, page.with_suffix(".png"), {})
    out.line(str(comparison))
    out.line(f"written: {page} and {page.with_suffix('.png').name}")
    out.write_json({"command": "report", "runs": args.run, "page": str(page), **comparison.as_dict()})
    return judge(comparison)
