"""Scaling: the time of a step against the number of rows at a fixed minibatch, and memory over many steps.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --quick

Logistic regression, 10 predictors, guide mean_field, minibatches of 256, one fresh process for each size; sizes take turns.
Wanted: step times within 20% of each other from 1,000 to 1,000,000 rows, and memory that grows by less than 5 MB over 50,000 steps.
"""

from __future__ import annotations

import argparse
import sys

import common
import fresh
import numpy as np
from problems import Problem, find

COLUMNS = {
    "rows": "rows", "ms_per_step": "ms/step", "relative": "against the smallest", "compile_s": "compile s", "error": "off truth",
    "engine": "engine", "status": "status",
}  # fmt: skip
SETTLED = 0.2
"""The part of the steps after which memory should not grow any more."""


def job(problem: Problem, steps: int, seed: int, batch: int, engine: str) -> dict[str, object]:
    """The settings of one run, with the posterior mean of the largest data, which is near the truth."""
    rng = np.random.default_rng(0)
    sizes = problem.sizes
    rng.standard_normal((sizes["rows"], sizes["predictors"]))
    truth = rng.standard_normal(sizes["predictors"]) * 1.5 / np.sqrt(sizes["predictors"])
    return {
        "problem": problem.name,
        "steps": steps,
        "seed": seed,
        "batch": batch,
        "engine": engine,
        "truth": truth.tolist(),
    }


def main() -> None:
    """Measures, prints, writes."""
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, action="append", help="sizes; by default 1e3, 1e4, 1e5 and 1e6")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10_000, help="steps for the time of a step")
    parser.add_argument("--memory-steps", type=int, default=50_000, help="steps for the memory; 0 leaves it out")
    parser.add_argument("--engine", default="auto", help="the engine of pyrolvm")
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.steps, args.memory_steps = 1, 2_000, 5_000
    sizes = args.rows or ([1_000, 10_000] if args.quick else [1_000, 10_000, 100_000, 1_000_000])
    before = common.load()
    runs: dict[int, list[common.Row]] = {size: [] for size in sizes}
    for repetition in range(args.repetitions):
        for size in sizes:
            problem = find(f"logistic_10x{size}")
            settings = job(problem, args.steps, args.seed + repetition, args.batch, args.engine)
            found, _ = fresh.run(
                "scaling.pyrolvm", settings, problem.data(0), python=sys.executable, timeout=args.timeout
            )
            print(
                f"  {size} rows #{repetition}: {found['status']} {found.get('seconds', '')}",
                file=sys.stderr,
                flush=True,
            )
            found.pop("versions", None)
            runs[size].append(found)
    rows = []
    for size, repeats in runs.items():
        seconds = common.median(found.get("seconds", {}).get("run") for found in repeats)
        rows.append({
            "rows": size, "ms_per_step": None if seconds is None else 1e3 * seconds / args.steps,
            "compile_s": common.median(found.get("seconds", {}).get("compile") for found in repeats),
            "error": common.median(found.get("error") for found in repeats),
            "engine": repeats[0].get("engine"), "engine_reason": repeats[0].get("engine_reason"),
            "status": next((found["status"] for found in repeats if found["status"] != "ok"), "ok"), "runs": repeats,
        })  # fmt: skip
    for row in rows:
        row["relative"] = common.ratio(row["ms_per_step"], rows[0]["ms_per_step"])
    print(common.table(rows, COLUMNS))
    result: common.Row = {"load_at_start": before, "rows": rows}
    if args.memory_steps:
        result["memory"] = memory(sizes[-1], args)
    print(f"\nwritten to {common.report('scaling', args, result)}")


def memory(size: int, args: argparse.Namespace) -> common.Row:
    """How much the process grows from a fifth of the steps to the last of them."""
    problem = find(f"logistic_10x{size}")
    settings = job(problem, args.memory_steps, args.seed, args.batch, args.engine)
    found, out = fresh.run("scaling.pyrolvm", settings, problem.data(0), python=sys.executable, timeout=args.timeout)
    notes = out.get("notes", np.zeros((0, 2)))
    late = notes[notes[:, 0] >= SETTLED * args.memory_steps] if len(notes) else notes
    row: common.Row = {
        "rows": size,
        "steps": args.memory_steps,
        "status": found["status"],
        "engine": found.get("engine"),
    }
    if len(late) > 1:
        row |= {"from_step": float(late[0, 0]), "to_step": float(late[-1, 0]), "first_mb": float(late[0, 1])}
        row |= {"last_mb": float(late[-1, 1]), "growth_mb": float(late[-1, 1] - late[0, 1])}
    print("\nmemory while stepping\n" + common.table([row], {key: key for key in row}))
    return row


if __name__ == "__main__":
    main()
