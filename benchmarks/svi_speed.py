"""SVI: steps a second, compile and run seconds apart, and the ELBO that is reached.

    python benchmarks/svi_speed.py
    python benchmarks/svi_speed.py --problem radon --method pyrolvm --method numpyro
    python benchmarks/svi_speed.py --quick

Guides: mean_field with 1 particle on every problem, full_rank with 16 where there are at most 200 unknowns. Each run is a
fresh process with empty compile caches; methods take turns, and medians over the repetitions are shown. Stock Pyro stops at
its cap and is scaled up (marked ``~``). The VAE has a benchmark of its own, ``vae_speed.py``.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import common
import fresh
import numpy as np
import twins
from problems import PROBLEMS, QUICK, Problem, find

METHODS = {"pyro": "svi.pyro", "numpyro": "svi.numpyro", "pyrolvm": "svi.pyrolvm"}
PARTICLES = {"mean_field": 1, "full_rank": 16}
FULL_RANK_UP_TO = 200
COLUMNS = {
    "problem": "problem", "guide": "guide", "method": "method", "steps_per_s": "steps/s", "compile_s": "compile + set-up s",
    "run_s": "run s", "total_s": "total s", "elbo": "ELBO", "elbo_error": "+-", "z": "z", "engine": "engine",
    "status": "status",
}  # fmt: skip


def cases(problem: Problem) -> list[str]:
    """The guides to measure."""
    return ["mean_field"] + (["full_rank"] if problem.unknowns <= FULL_RANK_UP_TO else [])


def measure(
    problem: Problem, guide: str, arrays: Any, args: argparse.Namespace, methods: list[str]
) -> list[common.Row]:
    """All methods on one problem with one guide, taking turns."""
    runs: dict[str, list[common.Row]] = {method: [] for method in methods}
    elbos: dict[str, list[np.ndarray]] = {method: [] for method in methods}
    for repetition in range(args.repetitions):
        for method in methods:
            if repetition and (method == "pyro" or runs[method][0]["status"] != "ok"):
                continue
            job = {
                "problem": problem.name, "guide": guide, "particles": PARTICLES[guide], "steps": args.steps,
                "seed": args.seed + repetition, "elbo_draws": args.elbo_draws, "cap": args.cap, "x64": args.x64,
            }  # fmt: skip
            found, out = fresh.run(METHODS[method], job, arrays, python=sys.executable, timeout=args.timeout)
            print(
                f"  {problem.name} {guide} {method} #{repetition}: {found['status']} {found.get('seconds', '')}",
                file=sys.stderr,
            )
            found.pop("versions", None)
            runs[method].append(found)
            values = out.get("elbo", np.array([]))
            if len(values):
                found["elbo"], found["elbo_error"] = (
                    float(values.mean()),
                    float(values.std(ddof=1) / math.sqrt(len(values))),
                )
                elbos[method].append(values)
    rows = []
    for method, repeats in runs.items():
        row: common.Row = {"problem": problem.name, "unknowns": problem.unknowns, "guide": guide, "method": method}
        row |= {key: repeats[0].get(key) for key in ("engine", "engine_reason", "extrapolated", "traceback")}
        bad = [found["status"] for found in repeats if found["status"] != "ok"]
        row["status"] = bad[0] if bad else f"~ from {row['extrapolated']['from']}" if row["extrapolated"] else "ok"
        for key, phase in (("total_s", "total"), ("compile_s", "compile"), ("run_s", "run")):
            row[key] = common.median(found.get("seconds", {}).get(phase) for found in repeats)
        row["steps_per_s"] = common.ratio(args.steps, row["run_s"])
        row["elbo"], row["elbo_error"] = _level(repeats)
        row["runs"] = repeats
        rows.append(row)
    for row in rows:
        row["z"] = _distance(row, next((other for other in rows if other["method"] == "numpyro"), row))
    return rows


def _level(repeats: list[common.Row]) -> tuple[float | None, float | None]:
    """The mean ELBO of the repetitions, and its standard error.

    It counts the draws the ELBO is estimated with and, where there are several repetitions, how far apart the optimiser ends.
    """
    values = [found["elbo"] for found in repeats if "elbo" in found]
    if not values:
        return None, None
    within = math.sqrt(sum(found["elbo_error"] ** 2 for found in repeats if "elbo" in found)) / len(values)
    between = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(np.mean(values)), max(within, between)


def _distance(row: common.Row, other: common.Row) -> float | None:
    """How far this ELBO is from NumPyro's, in standard errors."""
    if row is other or row["elbo"] is None or other["elbo"] is None:
        return None
    return abs(row["elbo"] - other["elbo"]) / math.hypot(row["elbo_error"], other["elbo_error"])


def ratios(rows: list[common.Row]) -> list[common.Row]:
    """Pyrolvm against the others: above 1 is better."""
    found: list[common.Row] = []
    for key in dict.fromkeys((row["problem"], row["guide"]) for row in rows):
        by = {row["method"]: row for row in rows if (row["problem"], row["guide"]) == key}
        mine = by.get("pyrolvm", {})
        line: common.Row = {"problem": key[0], "guide": key[1]}
        for peer in ("pyro", "numpyro"):
            line[f"steps/s / {peer}"] = common.ratio(mine.get("steps_per_s"), by.get(peer, {}).get("steps_per_s"))
            line[f"{peer} total s / ours"] = common.ratio(by.get(peer, {}).get("total_s"), mine.get("total_s"))
        found.append(line)
    keys = [key for key in found[0] if " / " in key]
    columns = {key: [line[key] for line in found if line[key] is not None] for key in keys}
    found.append({"problem": "median", "guide": ""} | {key: common.median(column) for key, column in columns.items()})
    found.append(
        {"problem": "worst", "guide": ""} | {key: min(column, default=None) for key, column in columns.items()}
    )
    return found


def main() -> None:
    """Measures, prints, writes."""
    parser = common.parser(__doc__)
    parser.add_argument("--problem", action="append", help="only these problems; also logistic_PREDICTORSxROWS")
    parser.add_argument("--guide", action="append", choices=list(PARTICLES), help="only these guides")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument(
        "--elbo-draws", type=int, default=4_000, help="draws that the final ELBO is estimated with, by every method"
    )
    parser.add_argument("--cap", type=float, default=90.0, help="seconds allowed to the steps of stock Pyro")
    parser.add_argument("--x64", action="store_true", help="double precision")
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.steps, args.elbo_draws, args.cap = 1, 500, 200, 10.0
    methods = common.chosen(list(METHODS), args.method)
    before = common.load()
    rows: list[common.Row] = []
    for name in args.problem or (QUICK if args.quick else list(PROBLEMS)):
        problem = find(name)
        arrays, _ = twins.points(problem, args.seed)
        data = {key[5:]: value for key, value in arrays.items() if key.startswith("data.")}
        for guide in cases(problem):
            if not args.guide or guide in args.guide:
                rows += measure(problem, guide, data, args, methods)
        print(common.table([row for row in rows if row["problem"] == name], COLUMNS) + "\n", flush=True)
        path = common.report("svi_speed", args, {"load_at_start": before, "rows": rows, "ratios": ratios(rows)})
    compared = ratios(rows)
    print(common.table(compared, {key: key for key in compared[0]}) + f"\n\nwritten to {path}")


if __name__ == "__main__":
    main()
