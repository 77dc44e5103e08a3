"""Which engine evaluates the density of each problem for frames, algorithms and corrections, and why not a faster one.

    python benchmarks/density_engines.py             writes benchmarks/results/density_engines.json
    python benchmarks/pages.py                       puts its table into docs/engines-coverage.md

The problems of the zoo, and posteriordb's 27. Nothing is fitted: each density is compiled, compared with stock Pyro's at two points,
and timed at 64 points.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from common import parser, report, table

import pyrolvm as lvm
from pyrolvm._program.density import Joint
from pyrolvm._program.density.target import Target
from pyrolvm_models import posteriordb

COLUMNS = {
    "problem": "problem",
    "unknowns": "unknowns",
    "engine": "engine",
    "micros": "µs a gradient",
    "reason": "why not C",
}
LARGEST = 1_000
"""Unknowns up to which a frame is sought."""


def problems() -> Iterator[tuple[str, Callable[[], lvm.Problem]]]:
    """Names, and how to make each."""
    for name in lvm.problems(ready=True):
        yield name, lambda name=name: lvm.problem(name)
    for name in posteriordb.names():
        yield f"posteriordb: {name}", lambda name=name: posteriordb.posteriordb(posterior=name)


def row(name: str, make: Callable[[], lvm.Problem]) -> dict[str, Any] | None:
    """One problem's row; ``None`` where no density of a flat vector is asked for. A failure is a row too."""
    found: dict[str, Any] = {"problem": name}
    try:
        problem = make()
        size = problem.unconstrained_size
        if problem.parameters or not 0 < size <= LARGEST:
            return None
        with problem.session(seed=0):
            target = Target.of(Joint(problem).non_centred())
            points = 0.1 * np.random.default_rng(0).normal(size=(64, size))
            target(points)
            started = time.perf_counter()
            target(points)
            micros = (time.perf_counter() - started) / len(points) * 1e6
        return found | {"unknowns": size, "engine": target.engine, "micros": round(micros, 1), "reason": target.reason}
    except Exception as error:
        return found | {"engine": "failed", "reason": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Runs, prints, writes."""
    args = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, make in problems():
        found = row(name, make)
        if found is not None:
            rows.append(found)
            print(found, flush=True)
    print(table(rows, COLUMNS))
    report("density_engines", args, {"rows": rows})


if __name__ == "__main__":
    main()
