"""Chains side by side: what effective draws cost as their number grows, 16 to 4,096 chains of ``lvm.sample`` in one process.

    python benchmarks/many_chains.py
    python benchmarks/many_chains.py --method chees --problem hierarchical_logistic

Chains of 100 draws after 300 of warmup. Seconds are of processors, so that what else runs on the machine counts little; those of a
run are without recording and compiling, which stand beside. Beside each stand how far the posterior's means and sds are from those of
``lvm.nuts`` (four chains of 5,000), in its sds.
"""

from __future__ import annotations

import time
import warnings

import common
import numpy as np

import pyrolvm as lvm

PROBLEMS = ("eight_schools_noncentered", "hierarchical_logistic")
CHAINS = (16, 64, 256, 512, 1_024, 2_048, 4_096)
METHODS = ("chees", "mams")
COLUMNS = {
    "problem": "problem", "method": "kernel", "chains": "chains", "status": "verdict", "ess": "least effective",
    "run_cpu": "run, CPU s", "compile": "compile, s", "ess_per_cpu": "effective a CPU s", "off": "worst mean off, sd",
    "sd_off": "worst sd off",
}  # fmt: skip

Moments = dict[str, tuple[np.ndarray, np.ndarray]]


def moments(result: lvm.Posterior) -> Moments:
    """Means and sds of all unknowns."""
    drawn = result.data["posterior"]
    names = [site.name for site in result.attached.continuous]
    return {
        name: (drawn[name].mean(("chain", "draw")).values, drawn[name].std(("chain", "draw")).values) for name in names
    }


def distances(found: Moments, wanted: Moments) -> dict[str, float]:
    """The worst mean in sds, and the worst sd in parts of one."""
    pairs = [(found[name], wanted[name]) for name in wanted]
    return {
        "off": max(float(np.max(np.abs(one[0] - other[0]) / other[1])) for one, other in pairs),
        "sd_off": max(float(np.max(np.abs(one[1] / other[1] - 1))) for one, other in pairs),
    }


def measured(name: str, kernel: str, chains: int, seed: int, wanted: Moments) -> common.Row:
    """One run."""
    row: common.Row = {"problem": name, "method": kernel, "chains": chains}
    before = time.process_time()
    try:
        result = lvm.sample(lvm.problem(name), kernel=kernel, chains=chains, seed=seed, progress=False)
    except lvm.PyrolvmError as error:
        return {**row, "status": "error", "why": str(error)[:300]}
    cpu, seconds = time.process_time() - before, result.seconds
    # What is recorded, compiled and gathered has its share of the processor's time, as of the wall's.
    run = cpu * seconds["run"] / sum(seconds.values())
    ess = float(result.verdict.figures["ess_bulk"])
    return {
        **row, "status": result.verdict.status, "ess": ess, "cpu_seconds": cpu, "run_cpu": run, "compile": seconds["compile"],
        "ess_per_cpu": ess / run, **distances(moments(result), wanted),
    }  # fmt: skip


def main() -> None:
    """Runs all and prints a table."""
    parser = common.parser(__doc__, repetitions=1)
    parser.add_argument("--problem", action="append", choices=list(PROBLEMS), help="only these problems")
    args = parser.parse_args()
    warnings.simplefilter("ignore", lvm.PyrolvmWarning)
    rows: list[common.Row] = []
    for name in args.problem or PROBLEMS:
        wanted = moments(
            lvm.nuts(lvm.problem(name), draws=500 if args.quick else 5_000, seed=args.seed, progress=False)
        )
        for kernel in common.chosen(list(METHODS), args.method):
            for chains in CHAINS[:2] if args.quick else CHAINS:
                rows.append(measured(name, kernel, chains, args.seed, wanted))
                common.report("many_chains", args, {"rows": rows})
    print(common.table(rows, COLUMNS))


if __name__ == "__main__":
    main()
