"""A sweep of 200 fits, 20 of which fail, while two workers are killed: is every cell accounted for, and at what cost?

    python benchmarks/sweep.py
    python benchmarks/sweep.py --method dask
    python benchmarks/sweep.py --quick

Cells are fits of a mean-field guide to eight schools, by seed. They run on two processes of this machine (``local``), on a local Dask
and on a local Ray cluster. For each: what became of the cells, how many were begun again, whether a second call runs only what is
missing, and whether figures are those of ``lvm.fit`` called directly, bit for bit.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import common

import pyrolvm as lvm

BACKENDS = ("local", "dask", "ray")
COLUMNS = {
    "backend": "backend",
    "cells": "cells",
    "done": "done",
    "failed": "failed",
    "lost": "lost",
    "killed": "workers killed",
    "again": "cells begun again",
    "seconds": "seconds",
    "rerun": "run by a second call",
    "missing": "that were missing",
    "same": "same as lvm.fit",
    "status": "status",
}


class Fit:
    """A fit that notes where it runs, and fails for every tenth seed."""

    __name__ = "fit"

    def __init__(self, marks: str) -> None:
        self.marks = marks

    def __call__(self, problem: lvm.Problem, seed: int) -> Any:
        """Fits, or fails."""
        with (Path(self.marks) / f"begun-{seed}").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if seed % 10 == 5:
            raise RuntimeError("this cell is made to fail")
        return plain(problem, seed)


def plain(problem: lvm.Problem, seed: int) -> Any:
    """The fit itself."""
    return lvm.fit(problem, "mean_field", seed=seed, max_steps=60, draws=100, engine="pyro", progress=False)


def kill(marks: Path, numbers: tuple[int, ...], killed: list[int], stop: threading.Event) -> None:
    """Kills the process of the newest cell as often as there are numbers, once so many cells have begun."""
    for number in numbers:
        while not stop.is_set():
            paths = list(marks.glob("begun-*"))
            if len(paths) >= number:
                pids = max(paths, key=lambda path: path.stat().st_mtime_ns).read_text().split()
                if pids and int(pids[-1]) not in killed:
                    os.kill(int(pids[-1]), signal.SIGKILL)
                    killed.append(int(pids[-1]))
                    break
            time.sleep(0.01)


def begun(marks: Path) -> dict[int, int]:
    """How often each cell was begun."""
    return {int(path.name.removeprefix("begun-")): path.read_text().count("\n") for path in marks.glob("begun-*")}


def measure(backend: str, cells: int, seed: int) -> common.Row:
    """One sweep with its kills, a second call, and single fits beside it."""
    problem, stop, killed = lvm.problem("eight_schools_noncentered"), threading.Event(), []
    with tempfile.TemporaryDirectory() as folder:
        marks, out = Path(folder) / "marks", Path(folder) / "s"
        marks.mkdir()
        seeds = range(seed, seed + cells)
        words: dict[str, Any] = {"backend": backend, "jobs": 2, "out": out, "progress": False}
        killer = threading.Thread(target=kill, args=(marks, (cells // 5, cells // 2), killed, stop), daemon=True)
        killer.start()
        started = time.perf_counter()
        found = lvm.sweep(problem, {"fit": Fit(str(marks))}, seeds, **words)
        seconds = time.perf_counter() - started
        stop.set()
        before = begun(marks)
        for cell in found.cells[:3]:
            (out / "cells" / cell.key / "cell.json").unlink()
        again = lvm.sweep(problem, {"fit": Fit(str(marks))}, seeds, **words, resume=True)
        rerun = sum(begun(marks).values()) - sum(before.values())
        looked = [cell.seed for cell in found.cells if cell.seed % 10 != 5][:: max(1, cells // 10)]
        same = sum(float(again.posterior(seed=s).elbo) == plain(problem, s).elbo for s in looked)
    counts = found.counts
    return {
        "backend": backend,
        "cells": cells,
        "done": counts.get("done", 0),
        "failed": counts.get("failed", 0),
        "lost": cells - counts.get("done", 0) - counts.get("failed", 0),
        "killed": len(killed),
        "again": sum(times > 1 for times in before.values()),
        "seconds": seconds,
        "rerun": rerun,
        "missing": 3,
        "same": f"{same} of {len(looked)}",
        "status": "ok" if again.counts == counts else "a second call differs",
    }


def main() -> None:
    """Measures, prints, writes."""
    parser = common.parser(__doc__, repetitions=1)
    parser.add_argument("--cells", type=int, default=200, help="how many seeds")
    args = parser.parse_args()
    args.cells = 40 if args.quick else args.cells
    before, rows = common.load(), []
    for backend in common.chosen(BACKENDS, args.method):
        try:
            rows.append(measure(backend, args.cells, args.seed))
        except lvm.ArgumentError as error:  # a cluster that is not installed
            rows.append({"backend": backend, "cells": args.cells, "status": str(error)})
        print(common.table(rows[-1:], COLUMNS), file=sys.stderr, flush=True)
    print(common.table(rows, COLUMNS))
    print(common.report("sweep", args, {"load_at_start": before, "rows": rows}))


if __name__ == "__main__":
    main()
