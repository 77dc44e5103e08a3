"""Runs every problem of the zoo with ``engine="auto"`` and notes which engine took it, why, and in what time.

    python benchmarks/zoo_engines.py             writes benchmarks/results/zoo_engines.json
    python benchmarks/zoo_engines.py --quick     a smoke run

Fits take 2,000 steps with the guide that ``guide="auto"`` chooses; NUTS takes 4 chains of 500 + 500 transitions.
"""

from __future__ import annotations

import time
from typing import Any

from common import parser, report, table

import pyrolvm as lvm

COLUMNS = {
    "problem": "problem",
    "method": "method",
    "engine": "engine",
    "compile": "compile, s",
    "run": "run, s",
    "total": "total, s",
    "reason": "why",
}
LARGEST = 5_000
"""Unknowns from which on NUTS is left out: its trajectories would take minutes, on any engine."""


def main() -> None:
    """Runs, prints, writes."""
    args = parser(__doc__).parse_args()
    steps, transitions = (400, 50) if args.quick else (2000, 500)
    rows = []
    for name in lvm.problems(ready=True):
        problem = lvm.problem(name)
        options: dict[str, Any] = {"seed": args.seed, "progress": False}
        rows.append(
            row(
                name,
                "fit",
                lambda p=problem, o=options: lvm.fit(p, max_steps=steps, tolerance=0, draws=500, **o),
            )
        )
        if problem.unconstrained_size <= LARGEST:
            rows.append(
                row(
                    name,
                    "nuts",
                    lambda p=problem, o=options: lvm.nuts(p, warmup=transitions, draws=transitions, **o),
                )
            )
    print(table(rows, COLUMNS))
    report("zoo_engines", args, {"rows": rows})


def row(name: str, method: str, run: Any) -> dict[str, Any]:
    """One run's row; a failure is a row too."""
    started = time.perf_counter()
    try:
        result = run()
    except lvm.PyrolvmError as error:
        return {"problem": name, "method": method, "engine": "failed", "reason": str(error)}
    return {
        "problem": name,
        "method": method,
        "engine": result.engine,
        "compile": result.seconds.get("compile"),
        "run": result.seconds["run"],
        "total": time.perf_counter() - started,
        "reason": result.engine_reason,
    }


if __name__ == "__main__":
    main()
