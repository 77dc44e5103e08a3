"""Samplers on one captured density: gradients and CPU seconds to a minimum bulk ESS of 400, all that comes before included.

    python benchmarks/samplers.py
    python benchmarks/samplers.py --problem eight_schools --method nuts --method mams
    python benchmarks/samplers.py --problem radon --add

Every method runs on the same density. All gradients count: those of frames, of warmup, and of draws up to the first of 100, 200, ...
draws of each chain at which min bulk ESS is 400, R-hat below 1.01, and no draw has diverged. A method that never gets there is a row
with the reason. CPU seconds (user and system, of all threads) are those of the whole call, compiling included; what an earlier call
compiled is taken from the cache.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

import common
import numpy as np
import torch
from arviz_stats.base import array_stats
from posteriordb import cell, score
from problems import PROBLEMS, find

import pyrolvm as lvm

NUTS: dict[str, dict[str, Any]] = {
    "nuts": {},
    "nutpie diagonal": {"precondition": "none", "dense_mass": False, "target_accept": 0.8},
    "nutpie low rank": {"precondition": "none", "dense_mass": True, "kernel": "nutpie", "target_accept": 0.8},
    "numpyro diagonal": {"precondition": "none", "dense_mass": False, "kernel": "numpyro", "target_accept": 0.8},
    "numpyro dense": {"precondition": "none", "dense_mass": True, "kernel": "numpyro", "target_accept": 0.8},
}
"""Options of ``lvm.nuts`` by method; ``nuts`` has none. nutpie's metrics are its own, and NumPyro's NUTS with its windows."""
KERNELS = ("mams", "mclmc")
METHODS = (*NUTS, *KERNELS)
DEFAULT = (
    "eight_schools", "logistic_10x1000", "gaussian_process", "mixture", "eight_schools-eight_schools_centered",
    "arK-arK", "garch-garch11", "kidiq-kidscore_interaction", "nes2000-nes", "hard/funnel",
)  # fmt: skip
ESS, RHAT, EACH = 400.0, 1.01, 100
COLUMNS = {
    "problem": "problem", "unknowns": "unknowns", "method": "method", "gradients_to": "gradients to ESS 400", "cpu_s": "CPU s",
    "ess": "min ESS", "ess_per_1000": "ESS/1,000 gradients", "mean_error": "mean off, sd", "sd_error": "sd off", "rhat": "R-hat",
    "divergences": "div.", "verdict": "verdict", "status": "status",
}  # fmt: skip


def made(name: str) -> lvm.Problem:
    """A problem of the engines' eight, of posteriordb, or of the hard set (``hard/NAME``)."""
    if name not in PROBLEMS:
        return cell.problem(name)
    problem = find(name)
    arrays = problem.data(0)
    return lvm.Problem(problem.twins.pyro_model(), **{key: torch.as_tensor(value) for key, value in arrays.items()})


def spent() -> float:
    """CPU seconds of this process and of those that it waited for."""
    every = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in every)


def run(name: str, method: str, seed: int) -> common.Row:
    """One method once."""
    row: common.Row = {"problem": name, "method": method, "status": "ok"}
    try:
        problem = made(name)
        row["unknowns"] = problem.unconstrained_size
        before = spent()
        if method in NUTS:
            chains = lvm.nuts(problem, seed=seed, progress=False, **NUTS[method])
        else:
            chains = lvm.sample(problem, kernel=method, seed=seed, progress=False)
        row["cpu_s"] = spent() - before
        return row | judged(chains) | off(name, chains)
    except Exception as error:
        return row | {"status": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}


def off(name: str, chains: lvm.Chains) -> common.Row:
    """How far the worst mean and sd are from the reference, where there is one: of posteriordb's and of the hard set's."""
    if name in PROBLEMS:
        return {}
    draws = cell.labelled(name, score.arrays(chains.data["posterior"]))
    found = score.score(draws, cell.standard(name), chains=True)
    return {"mean_error": abs(found.worst("mean_error")[0]), "sd_error": abs(found.worst("sd_error")[0])}


def judged(chains: lvm.Chains) -> common.Row:
    """The figures of chains."""
    stats, attrs = chains.data["sample_stats"], chains.data["posterior"].attrs
    steps = stats["n_steps"].values.sum(axis=0)
    before = sum(int(attrs.get(name, 0)) for name in ("frame_evaluations", "warmup_steps", "steps_before"))
    ess, rhat = mixing(chains, None)
    row: common.Row = {
        "gradients": before + int(steps.sum()), "gradients_before_draws": before, "ess": ess, "rhat": rhat,
        "divergences": chains.divergences, "verdict": chains.verdict.status, "sampled_in": attrs["sampled_in"],
        "kernel": chains.data["sample_stats"].attrs["kernel"], "ess_per_1000": 1e3 * ess / (before + int(steps.sum())),
    }  # fmt: skip
    draws = len(steps)
    for count in range(min(EACH, draws), draws + 1, EACH):
        ess, rhat = mixing(chains, count)
        if ess >= ESS and rhat < RHAT and not stats["diverging"].values[:, :count].any():
            return row | {"gradients_to": before + int(steps[:count].sum()), "draws_to": count}
    why = f"min ESS {row['ess']:.0f}, R-hat {row['rhat']:.3f}, {row['divergences']} divergences"
    return row | {"status": f"not reached: {why}"}


def mixing(chains: lvm.Chains, count: int | None) -> tuple[float, float]:
    """The smallest bulk ESS and the largest R-hat over all unknowns, of the first draws of each chain."""
    parts = chains.data["unconstrained_posterior"].to_dataset().isel(draw=slice(count)).data_vars.values()
    draws = np.concatenate([part.values.reshape(*part.shape[:2], -1) for part in parts], axis=2).astype(float)
    axes = {"chain_axis": 0, "draw_axis": 1}
    return float(array_stats.ess(draws, **axes).min()), float(array_stats.rhat(draws, **axes).max())


def main() -> None:
    """Measures, prints, writes."""
    parser = common.parser(__doc__, repetitions=1)
    parser.add_argument("--problem", action="append", help="only these problems")
    parser.add_argument("--add", action="store_true", help="keep the rows of the file that are not measured again")
    args = parser.parse_args()
    methods = common.chosen(list(METHODS), args.method)
    rows: list[common.Row] = []
    kept = args.out or common.RESULTS / "samplers.json"
    if args.add and kept.exists():
        rows = json.loads(kept.read_text(encoding="utf-8"))["rows"]
    for name in args.problem or (["eight_schools"] if args.quick else DEFAULT):
        for method in methods:
            rows = [row for row in rows if (row["problem"], row["method"]) != (name, method)]
            rows.append(run(name, method, args.seed))
            print(
                f"  {name} {method}: {rows[-1]['status']} {rows[-1].get('gradients_to')}", file=sys.stderr, flush=True
            )
        path = common.report("samplers", args, {"rows": rows, "ratios": ratios(rows)})
    print(common.table(rows, COLUMNS) + f"\n\n{os.linesep.join(ratios(rows))}\n\nwritten to {path}")


def ratios(rows: list[common.Row]) -> list[str]:
    """Medians, over the problems where both got there, of the gradients of others by those of ``nuts``."""
    found = []
    ours = {row["problem"]: row.get("gradients_to") for row in rows if row["method"] == "nuts"}
    for method in dict.fromkeys(row["method"] for row in rows):
        theirs = {row["problem"]: row.get("gradients_to") for row in rows if row["method"] == method}
        both = [theirs[name] / ours[name] for name in theirs if theirs[name] and ours.get(name)]
        reached = sum(value is not None for value in theirs.values())
        if method != "nuts" and both:
            found.append(
                f"{method}: {common.median(both):.2f} times the gradients of nuts in the median of {len(both)}, "
                f"{min(both):.2f} to {max(both):.2f}; reached {reached} of {len(theirs)}"
            )
    return found


if __name__ == "__main__":
    main()
