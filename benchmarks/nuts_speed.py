"""NUTS: seconds to 4 x 1,000 draws after 1,000 warmup, effective draws a second, and whether the draws are right.

    python benchmarks/nuts_speed.py --peers-python ~/peers/bin/python
    python benchmarks/nuts_speed.py --problem radon --method pyrolvm --method numpyro_vectorized
    python benchmarks/nuts_speed.py --quick

Each run is a fresh process with empty compile caches; methods take turns, and medians over the repetitions are shown. Stock
Pyro runs once, on a smaller budget that is scaled up (marked ``~``).
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import accuracy
import common
import fresh
import numpy as np
import twins
from problems import PROBLEMS, QUICK, Problem, find

METHODS = {
    "pyro": "nuts.pyro",
    "numpyro_vectorized": "nuts.numpyro_vectorized",
    "numpyro_parallel": "nuts.numpyro_parallel",
    "pyrolvm": "nuts.pyrolvm",
    "pyrolvm_numpyro": "nuts.pyrolvm_numpyro",
    "nutpie_pymc": "peers.nutpie_pymc",
    "stan": "peers.stan",
}
NUMPYRO = ("numpyro_vectorized", "numpyro_parallel")
PEERS = ("nutpie_pymc", "stan")
MIXED = 1.1
"""Above this R-hat, effective sample sizes mean nothing."""
COLUMNS = {
    "problem": "problem", "method": "method", "total_s": "total s", "compile_s": "compile + set-up s", "sampling_s": "sampling s",
    "ess": "min ESS", "ess_per_s": "ESS/s", "ess_per_s_sampling": "ESS/s sampling", "z_mean": "worst z mean",
    "z_spread": "worst z spread", "rhat": "R-hat", "divergences": "div.", "repetitions": "runs", "engine": "engine", "status": "status",
}  # fmt: skip


def run(
    problem: Problem, method: str, repetition: int, args: argparse.Namespace, arrays: Any
) -> tuple[common.Row, Any]:
    """One method once: its figures, and the draws of the problem's quantities."""
    job = {
        "problem": problem.name, "seed": args.seed + repetition, "chains": args.chains, "warmup": args.warmup,
        "draws": args.draws, "target_accept": 0.8, "max_tree_depth": 10, "x64": args.x64, "cap": args.cap,
        "pyro_warmup": min(args.pyro_warmup, args.warmup), "pyro_draws": min(args.pyro_draws, args.draws),
        "pyro_chains": min(args.pyro_chains, args.chains), "cores": common.hardware()["cores"],
    }  # fmt: skip
    python = args.peers_python if method in PEERS else sys.executable
    found, draws = fresh.run(METHODS[method], job, arrays, python=python, timeout=args.timeout)
    print(
        f"  {problem.name} {method} #{repetition}: {found['status']} {found.get('seconds', '')}",
        file=sys.stderr,
        flush=True,
    )
    return found, problem.quantities(draws) if draws else None


def measure(problem: Problem, args: argparse.Namespace, methods: list[str]) -> list[common.Row]:
    """All methods on one problem, taking turns."""
    arrays, expected = twins.points(problem, args.seed)
    runs: dict[str, list[common.Row]] = {method: [] for method in methods}
    draws: dict[str, list[Any]] = {method: [] for method in methods}
    for repetition in range(args.repetitions):
        for method in methods:
            if repetition and (method == "pyro" or not _again(runs[method][0], args)):
                continue
            found, values = run(problem, method, repetition, args, arrays)
            if found["status"] == "ok" and "densities" in found:
                why = twins.different(found["densities"], expected, constant=found["constant"])
                if why:
                    found["status"] = f"refused, another model: {why}"
            runs[method].append(found)
            draws[method].append(values if found["status"] == "ok" else None)
    return judge(problem, runs, draws)


def _again(first: common.Row, args: argparse.Namespace) -> bool:
    """Whether a method is run once more: not if it failed or took too long."""
    return first["status"] == "ok" and first["seconds"]["total"] < args.repeat_below


def judge(problem: Problem, runs: dict[str, list[common.Row]], draws: dict[str, list[Any]]) -> list[common.Row]:
    """A row for each method: medians of the repetitions, and accuracy against the other methods' pooled draws."""
    known = [values for repeats in draws.values() for values in repeats if values is not None]
    centre = np.mean([accuracy.flat(values).mean((0, 1)) for values in known], axis=0) if known else None
    good = {m: [accuracy.summarize(v, centre) for v in repeats if v is not None] for m, repeats in draws.items()}
    rows = []
    for method, repeats in runs.items():
        row: common.Row = {
            "problem": problem.name,
            "unknowns": problem.unknowns,
            "method": method,
            "repetitions": len(repeats),
        }
        row |= {key: repeats[0].get(key) for key in ("engine", "engine_reason", "extrapolated", "missing", "traceback")}
        bad = [found["status"] for found in repeats if found["status"] != "ok"]
        row["status"] = bad[0] if bad else "ok"
        row["versions"] = repeats[0].get("versions") if method in PEERS else None
        row["runs"] = [{k: v for k, v in found.items() if k not in ("versions", "densities")} for found in repeats]
        for key, phase in (("total_s", "total"), ("compile_s", "compile"), ("sampling_s", "run")):
            row[key] = common.median(found.get("seconds", {}).get(phase) for found in repeats)
        if row["extrapolated"] and row["status"] == "ok":
            row["status"] = f"~ from {row['extrapolated']['from']}"
        if good[method]:
            row |= _quality(method, good, [found for found in repeats if found["status"] == "ok"])
            if not row["rhat"] < MIXED:
                row["status"] += ", not mixed"
        rows.append(row)
    return rows


def _quality(method: str, good: dict[str, list[accuracy.Summary]], repeats: list[common.Row]) -> common.Row:
    """Effective draws, and the distance from what the other methods find: those of them that mixed."""
    mine = good[method]
    factors = [found.get("ess_factor") or 1.0 for found in repeats]
    ess = [summary.ess * factor for summary, factor in zip(mine, factors, strict=True)]
    others = [s for name, found in good.items() if name != method and name != "pyro" for s in found if s.rhat < 1.05]
    row: common.Row = {
        "ess": common.median(ess),
        "ess_per_s": common.median(e / found["seconds"]["total"] for e, found in zip(ess, repeats, strict=True)),
        "ess_per_s_sampling": common.median(e / found["seconds"]["run"] for e, found in zip(ess, repeats, strict=True)),
        "rhat": max(summary.rhat for summary in mine),
        "divergences": common.median(found.get("divergences") for found in repeats),
        "quantities": len(mine[0].mean),
        "usual_worst_z": accuracy.usual_worst_z(len(mine[0].mean)),
    }
    if others:
        distances = [accuracy.worst_z(summary, accuracy.pool(others)) for summary in mine]
        row["z_mean"] = common.median(mean for mean, _ in distances)
        row["z_spread"] = common.median(spread for _, spread in distances)
    return row


def ratios(rows: list[common.Row]) -> list[common.Row]:
    """Pyrolvm against the others, problem by problem: above 1 is better. NumPyro counts with its better way of running chains."""
    found = []
    for name in dict.fromkeys(row["problem"] for row in rows):
        by = {row["method"]: row for row in rows if row["problem"] == name}
        for ours in ("pyrolvm", "pyrolvm_numpyro"):
            mine = by.get(ours, {})
            numpyro = [by[m] for m in NUMPYRO if m in by and by[m]["total_s"] is not None]
            rates = [row["ess_per_s"] for row in numpyro if row.get("ess_per_s")]
            line: common.Row = {"problem": name, "method": ours}
            line["ess_per_s / pyro"] = common.ratio(mine.get("ess_per_s"), by.get("pyro", {}).get("ess_per_s"))
            line["ess_per_s / numpyro"] = common.ratio(mine.get("ess_per_s"), max(rates, default=None))
            times = {"numpyro": min((row["total_s"] for row in numpyro), default=None)}
            times |= {peer: by.get(peer, {}).get("total_s") for peer in PEERS}
            for peer, seconds in times.items():
                line[f"{peer} s / ours"] = common.ratio(seconds, mine.get("total_s"))
            found.append(line)
    medians: list[common.Row] = []
    for ours in ("pyrolvm", "pyrolvm_numpyro"):
        lines = [line for line in found if line["method"] == ours]
        keys = [key for key in lines[0] if " / " in key] if lines else []
        medians.append(
            {"problem": "median", "method": ours} | {key: common.median(line[key] for line in lines) for key in keys}
        )
    return found + medians


def main() -> None:
    """Measures, prints, writes."""
    parser = common.parser(__doc__)
    parser.add_argument("--problem", action="append", help="only these problems; also logistic_PREDICTORSxROWS")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument(
        "--x64", action="store_true", help="double precision for Pyro, NumPyro and pyrolvm (Stan and PyMC always)"
    )
    parser.add_argument("--pyro-chains", type=int, default=2, help="chains of stock Pyro")
    parser.add_argument("--pyro-warmup", type=int, default=500, help="warmup of stock Pyro")
    parser.add_argument("--pyro-draws", type=int, default=250, help="draws of stock Pyro")
    parser.add_argument("--cap", type=float, default=300.0, help="seconds allowed to stock Pyro on each problem")
    parser.add_argument(
        "--repeat-below", type=float, default=300.0, help="methods whose first run took longer are not repeated"
    )
    parser.add_argument(
        "--peers-python", default=sys.executable, help="an interpreter that has PyMC, nutpie and pystan"
    )
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.warmup, args.draws, args.pyro_warmup, args.pyro_draws, args.cap = (
            1,
            200,
            200,
            60,
            60,
            30.0,
        )
    args.peers_python = os.path.expanduser(args.peers_python)
    methods = common.chosen(list(METHODS), args.method)
    before = common.load()
    rows: list[common.Row] = []
    versions: Any = None
    for name in args.problem or (QUICK if args.quick else list(PROBLEMS)):
        found = measure(find(name), args, methods)
        for row in found:
            versions = row.pop("versions") or versions
        rows += found
        print(common.table(found, COLUMNS) + "\n", flush=True)
        result = {"load_at_start": before, "rows": rows, "ratios": ratios(rows)}
        path = common.report("nuts_speed", args, result, peers=versions)
    compared = ratios(rows)
    print(common.table(compared, {key: key for key in compared[0]}) + f"\n\nwritten to {path}")


if __name__ == "__main__":
    main()
