"""Are methods calibrated on models of the zoo: simulation-based calibration, with failures and seconds.

    python benchmarks/calibration.py
    python benchmarks/calibration.py --method mean_field --simulations 100 --problem eight_schools_centered

One row for each problem and method: the largest distance of ranks from uniform over all quantities, the coverage furthest from 90%, how
many fits failed or were trusted, seconds a simulation. Simulations are kept in ``--folder``, if given, and gone on with.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import common
import torch

import pyrolvm as lvm

PROBLEMS = ("eight_schools_noncentered", "eight_schools_centered", "logistic_regression")
METHODS = ("nuts", "infer", "student", "full_rank", "mean_field")
BOUND = 0.070
"""What the distance stays below at 1,000 simulations with probability 0.9999 at each quantity, if the method is exact."""

COLUMNS = {
    "problem": "problem", "method": "method", "simulations": "simulations", "quantities": "quantities", "ks": "largest KS", "at": "at",
    "bound": "bound", "cover90": "90% coverage furthest off", "verdict": "verdict", "failed": "fits failed", "trusted": "fits trusted",
    "ks_trusted": "largest KS, trusted fits", "seconds": "s a simulation", "status": "status",
}  # fmt: skip


def main() -> None:
    """Runs what is asked for and writes a JSON after each row."""
    parser = common.parser(__doc__, repetitions=1)
    parser.add_argument("--problem", action="append", help="only these problems")
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=None, help="processes; by default one for each processor")
    parser.add_argument("--folder", type=Path, help="where simulations are kept; a second run goes on with them")
    args = parser.parse_args()
    methods = common.chosen(METHODS, args.method or ["nuts"])
    problems = common.chosen(lvm.problems(), args.problem or PROBLEMS)
    if args.quick:
        args.simulations = 4
    rows = []
    for name in problems:
        for method in methods:
            rows.append(_row(name, method, args))
            common.report("calibration", args, {"rows": rows, "bound": BOUND})
            print(common.table(rows[-1:], COLUMNS), flush=True)
    print(common.table(rows, COLUMNS))


def _row(name: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    row: dict[str, Any] = {"problem": name, "method": method, "simulations": args.simulations}
    out = None if args.folder is None else args.folder / f"{name}-{method}"
    words = {"workers": args.workers} if args.workers else {}
    started = time.perf_counter()
    try:
        problem = lvm.problem(name)
        found = lvm.calibrate(
            problem, method, simulations=args.simulations, seed=args.seed, out=out, resume=out is not None, progress=False, **words
        )  # fmt: skip
    except Exception as error:  # a failure is a row, not a gap
        return row | {"status": f"{type(error).__name__}: {error}"}
    table, trusted = found.statistics, found.of_status("trusted")
    off = (table["cover90"] - 0.9).abs().idxmax()
    return row | {
        "simulations": found.simulations,
        "quantities": len(table),
        "ks": float(table["ks"].max()),
        "at": str(table["ks"].idxmax()),
        "bound": BOUND * (1000 / found.successes) ** 0.5,
        "cover90": float(table.loc[off, "cover90"]),
        "verdict": found.verdict.status,
        "reasons": [reason.text for reason in found.verdict.reasons],
        "failed": sum(found.failures.values()),
        "failures": found.failures,
        "trusted": trusted.simulations,
        "ks_trusted": float(trusted.statistics["ks"].max()) if trusted.successes else None,
        "seconds": float(found.fits["seconds"].mean()),
        "wall_s": time.perf_counter() - started,
        "statistics": found.as_dict()["quantities"],
        "status": "ok",
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
