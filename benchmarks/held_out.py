"""Predicts rows that each problem of the zoo has not seen, where its data are rows: every fourth one is held out.

    python benchmarks/held_out.py                    writes benchmarks/results/held_out.json
    python benchmarks/held_out.py --problem ppca     measures one again and leaves the others as they are

A full-rank Gaussian is fitted to the other rows by default settings. The log predictive density is that of the new rows alone, by 1,000
draws; beside it how much of what is held out lies in the central 50% and 90% of its predictions (of counts and yes or no more, since
values that are equal count by half). ``python benchmarks/pages.py`` puts the table into ``docs/zoo.md``.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import torch
from common import RESULTS, parser, report, table

import pyrolvm as lvm

OPTIONS: dict[str, dict[str, Any]] = {"factor_analysis": {"marginal": True}, "ppca": {"marginal": True}}
"""Options of problems that are not measured as they come."""

PROBLEMS = (
    "factor_analysis", "gaussian_mixture", "hierarchical_logistic", "hierarchical_poisson", "horseshoe",
    "item_response", "logistic_regression", "ppca",
)  # fmt: skip

COLUMNS = {
    "problem": "problem", "rows": "rows", "held": "held out", "lpd": "log predictive density, nats a row", "error": "+- rows",
    "inside 50": "in 50%", "inside 90": "in 90%", "verdict": "fit", "seconds": "s",
}  # fmt: skip


def parts(problem: lvm.Problem) -> tuple[lvm.Problem, dict[str, Any], int]:
    """The problem on the rows that are kept, the arguments of those that are held out, and how many these are."""
    plate = next(p for p in problem.plates.values() if p.name in problem.observed[0].plates)
    held = torch.arange(plate.size) % 4 == 3

    def of(rows: torch.Tensor) -> dict[str, Any]:
        return {
            name: value[rows] if isinstance(value, torch.Tensor) and value.dim() and len(value) == plate.size else value
            for name, value in problem.arguments.items()
        }

    train = of(~held)
    args = list(train.values())[: len(problem.args)]
    kwargs = dict(list(train.items())[len(problem.args) :])
    return lvm.Problem(problem.program, *args, **kwargs).replace(name=problem.name), of(held), int(held.sum())


def plate_size(problem: lvm.Problem) -> int:
    """How many rows a problem has."""
    return next(plate.size for plate in problem.plates.values() if plate.name in problem.observed[0].plates)


def measure(name: str, seed: int) -> dict[str, Any]:
    """One problem's row."""
    problem = lvm.problem(name, **OPTIONS.get(name, {}))
    shown = "".join(f"({key}={value})" for key, value in OPTIONS.get(name, {}).items())
    row: dict[str, Any] = {"name": name, "problem": name + shown}
    started = time.perf_counter()
    try:
        train, held, count = parts(problem)
        fit = lvm.fit(train, "full_rank", seed=seed, progress=False)
        site = train.observed[0].name
        found = lvm.predict(fit, **held)
        each = found["scores"][f"{site}_lpd"].values.reshape(-1)
    except lvm.PyrolvmError as error:
        return row | {"verdict": "error", "error_text": str(error)}
    told = found["scores"].attrs
    return row | {
        "rows": plate_size(train), "held": count, "lpd": float(each.mean()), "error": float(np.std(each, ddof=1) / np.sqrt(len(each))),
        "inside 50": told.get(f"{site}_inside_50"), "inside 90": told.get(f"{site}_inside_90"),
        "verdict": fit.verdict.status, "seconds": time.perf_counter() - started,
    }  # fmt: skip


def main() -> None:
    """Measures and writes the table."""
    options = parser(__doc__, repetitions=1)
    options.add_argument("--problem", action="append", choices=PROBLEMS, help="measure this one again; repeatable")
    args = options.parse_args()
    rows: dict[str, Any] = {}
    if args.problem:
        before = json.loads((RESULTS / "held_out.json").read_text())
        rows = {row["name"]: row for row in before["rows"]}
    for name in args.problem or PROBLEMS:
        rows[name] = measure(name, args.seed)
        print(rows[name], flush=True)
    ordered = [rows[name] for name in sorted(rows)]
    print(table(ordered, COLUMNS))
    report("held_out", args, {"rows": ordered})


if __name__ == "__main__":
    main()
