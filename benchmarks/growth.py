"""How time and memory grow with groups and with rows: ``lvm.sparse`` of hierarchies of counts, and of logistic regressions.

    python benchmarks/growth.py
    python benchmarks/growth.py --kind rows --size 10000 --size 100000
    python benchmarks/growth.py --picture docs/images/growth.svg

Each size is a process of its own, so that its memory is its own. Seconds are of processors, compilation included, on a machine that may
do other work beside; what the smallest size takes is mostly compilation, so that the time for a group or row is that of what a size
takes more than the one before. Rows of an earlier file that are not measured now stay.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import common
from scale import counts_of, regression_of

import pyrolvm as lvm

KINDS = {"groups": counts_of, "rows": regression_of}
SIZES = {"groups": (1_000, 10_000, 100_000), "rows": (10_000, 100_000, 1_000_000)}
COLUMNS = {
    "kind": "kind", "size": "size", "cpu_seconds": "CPU s", "memory_gb": "GB", "before_gb": "GB before", "status": "verdict",
    "ess": "effective",
    "us_each": "us for each more", "kb_each": "kB for each more",
}  # fmt: skip


def memory() -> float:
    """The most that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured(kind: str, size: int, seed: int) -> common.Row:
    """One run, in this process."""
    warnings.simplefilter("ignore", lvm.PyrolvmWarning)
    problem, _ = KINDS[kind](size)
    before, began = memory(), time.process_time()
    result = lvm.sparse(problem, seed=seed, progress=False)
    return {
        "kind": kind, "size": size, "cpu_seconds": time.process_time() - began, "before_gb": before, "memory_gb": memory(),
        "status": result.verdict.status, "ess": result.verdict.figures.get("ess_importance"),
        "revision": common.revision(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def with_slopes(rows: dict[tuple[str, int], common.Row]) -> list[common.Row]:
    """Rows in order, with what each group or row more has taken since the size before."""
    found: list[common.Row] = []
    for key in sorted(rows):
        row, last = rows[key], found[-1] if found else None
        if last is not None and last["kind"] == row["kind"] and "cpu_seconds" in row and "cpu_seconds" in last:
            more = row["size"] - last["size"]
            row = row | {
                "us_each": 1e6 * (row["cpu_seconds"] - last["cpu_seconds"]) / more,
                "kb_each": 2**20 * (row["memory_gb"] - last["memory_gb"]) / more,
            }
        found.append(row)
    return found


def picture(path: Path) -> None:
    """Draws the committed measurements, both axes by their logarithms."""
    import matplotlib.pyplot as plt

    rows = json.loads((common.RESULTS / "growth.json").read_text(encoding="utf-8"))["rows"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.0), layout="constrained")
    for kind in KINDS:
        mine = [row for row in rows if row["kind"] == kind and "cpu_seconds" in row]
        for axis, name in ((left, "cpu_seconds"), (right, "memory_gb")):
            axis.loglog([row["size"] for row in mine], [row[name] for row in mine], marker="o", label=kind)
    for axis, what in ((left, "CPU seconds"), (right, "GB")):
        axis.set(xlabel="groups of two counts, or rows of 20 predictors", ylabel=what)
        axis.grid(visible=True, which="major", alpha=0.3)
    left.legend(frameon=False)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Measures and prints a table."""
    parser = common.parser(__doc__, repetitions=1)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="only these")
    parser.add_argument("--size", action="append", type=int, help="only these sizes")
    parser.add_argument("--picture", type=Path, help="draw what is committed, and measure nothing")
    parser.add_argument("--one", action="store_true", help="measure one kind and size here, and print it as JSON")
    args: Any = parser.parse_args()
    if args.picture is not None:
        picture(args.picture)
        return
    if args.one:
        print(json.dumps(measured(args.kind[0], args.size[0], args.seed)))
        return
    path = args.out or common.RESULTS / "growth.json"
    there = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    rows = {(row["kind"], row["size"]): row for row in there}
    for kind in args.kind or KINDS:
        for size in args.size or SIZES[kind]:
            call = [sys.executable, __file__, "--one", "--kind", kind, "--size", str(size), "--seed", str(args.seed)]
            done = subprocess.run(call, capture_output=True, text=True, check=False)
            said = done.stdout.strip().splitlines()
            rows[kind, size] = json.loads(said[-1]) if done.returncode == 0 else {
                "kind": kind, "size": size, "status": "error", "why": done.stderr[-500:],
            }  # fmt: skip
            common.report("growth", args, {"rows": with_slopes(rows)})
            print(common.table(with_slopes(rows), COLUMNS), flush=True)


if __name__ == "__main__":
    main()
