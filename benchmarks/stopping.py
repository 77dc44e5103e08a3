"""Whether fits stop where they should: the ELBO of default fits against runs ten times as long, and against an oracle.

    python benchmarks/stopping.py
    python benchmarks/stopping.py --posterior garch-garch11 --guide full_rank --quick

A fit stops by itself; the long run takes ten times as many steps, the last 40% of them with a learning rate that decays. The
oracle is the shortest of runs of 50, 100, 200, ... steps that ends within 0.05 nat of the long one: what somebody who knew the
answer would have taken. Guides are run in the frame, where they start near the optimum, and in plain unconstrained space.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import common
import numpy as np
from posteriordb import cell

import pyrolvm as lvm

CLOSE = 0.05
"""Nats from the long run that count as none."""

DRAWS = 20_000
SHORTEST = 50
GUIDES = {
    "mean_field": ("mean_field", "auto"), "full_rank": ("full_rank", "auto"), "flow": ("flow", "auto"),
    "mean_field, plain": ("mean_field", "none"), "full_rank, plain": ("full_rank", "none"),
}  # fmt: skip
QUICK = ("eight_schools-eight_schools_noncentered",)


def elbo(fit: lvm.Fit) -> tuple[float, float]:
    """The ELBO by a fit's draws, and its standard error; draws without density are left out."""
    weights = fit.data["sample_stats"]["log_weight"].values.ravel()
    weights = weights[np.isfinite(weights)]
    return float(weights.mean()), float(weights.std() / np.sqrt(len(weights)))


def measure(posterior: str, title: str, seed: int) -> common.Row:
    """One guide on one posterior."""
    problem = cell.problem(posterior)
    name, precondition = GUIDES[title]

    def run(seed: int, **options: Any) -> tuple[lvm.Fit, float, float]:
        fit = lvm.fit(
            problem, lvm.guide(name, precondition=precondition), draws=DRAWS, seed=seed, progress=False, **options
        )
        return fit, *elbo(fit)

    fit, reached, error = run(seed)
    steps = len(fit.losses)
    _, best, best_error = run(seed + 1, max_steps=10 * steps, tolerance=0)
    oracle, budget = None, SHORTEST
    while oracle is None and budget < 4 * steps:
        if best - run(seed + 2, max_steps=budget, tolerance=0)[1] < CLOSE:
            oracle = budget
        budget *= 2
    return {
        "posterior": posterior, "guide": title, "steps": steps, "converged": fit.converged, "why": fit.stop_reason,
        "elbo": reached, "gap": best - reached, "gap_error": float(np.hypot(error, best_error)), "oracle": oracle,
        "ratio": common.ratio(steps, oracle), "run_s": fit.seconds["run"],
    }  # fmt: skip


def summary(rows: list[common.Row]) -> list[common.Row]:
    """By guide: how many converged, how many of those are as good as the long run, and the steps beside the oracle's."""
    lines = []
    for title in dict.fromkeys(row["guide"] for row in rows):
        mine = [row for row in rows if row["guide"] == title]
        done = [row for row in mine if row["converged"]]
        near = [row["gap"] - 2 * row["gap_error"] < CLOSE for row in done]
        lines.append(
            {
                "guide": title, "runs": len(mine), "converged": len(done), "close": sum(near),
                "worst_gap": max((row["gap"] for row in done), default=None),
                **{key: common.median(row[key] for row in done) for key in ("steps", "oracle", "ratio")},
            }
        )  # fmt: skip
    return lines


COLUMNS = {
    "guide": "guide", "runs": "runs", "converged": "stopped by themselves", "close": "of those within 0.05 nat",
    "worst_gap": "worst gap, nats", "steps": "median steps", "oracle": "oracle's", "ratio": "median ratio",
}  # fmt: skip


def main() -> None:
    """Measures, prints, writes after each posterior."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posterior", action="append", help="only these")
    parser.add_argument("--guide", action="append", choices=list(GUIDES), help="only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a smoke run: one posterior")
    parser.add_argument("--out", type=common.Path, help="the JSON file; by default benchmarks/results/stopping.json")
    args = parser.parse_args()
    names = args.posterior or (QUICK if args.quick else cell.posteriors())
    rows: list[common.Row] = []
    path = None
    for posterior in names:
        for title in args.guide or GUIDES:
            try:
                rows.append(measure(posterior, title, args.seed))
            except lvm.PyrolvmError as error:
                rows.append(
                    {"posterior": posterior, "guide": title, "converged": False, "why": str(error), "steps": None}
                )
            print(json.dumps(common._plain(rows[-1])), flush=True)
        path = common.report("stopping", args, {"rows": rows, "summary": summary(rows)})
    print("\n" + common.table(summary(rows), COLUMNS) + f"\n\nwritten to {path}")


if __name__ == "__main__":
    main()
