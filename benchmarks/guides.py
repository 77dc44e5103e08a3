"""Measures the guides of one problem against NUTS: accuracy, not speed.

    python benchmarks/guides.py eight_schools_noncentered
    python benchmarks/guides.py logistic_regression --guide mean_field --guide full_rank --draws 500 --warmup 500

writes benchmarks/results/PROBLEM.json: versions, hardware, settings, and for each method its verdict, k-hat, errors and
seconds. ``python benchmarks/pages.py`` puts the tables of those files into the pages.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import common

import pyrolvm as lvm

SHOWN = ("mean_field", "full_rank", "flow")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Runs NUTS and every guide."""
    problem = lvm.problem(args.problem)
    results, cpu, left_out = {}, {}, {}
    sampler = {"warmup": args.warmup, "draws": args.draws, "seed": args.seed, "progress": False}
    results["nuts"], cpu["nuts"] = common.timed(lvm.nuts, problem, **sampler)
    for name in args.guide or lvm.guides():
        try:
            results[name], cpu[name] = common.timed(lvm.fit, problem, name, seed=args.seed, progress=False)
        except lvm.PyrolvmError as error:
            left_out[name] = str(error)
    report = lvm.compare(results, reference="nuts")
    if args.picture:
        shown = {name: results[name] for name in ("nuts", *SHOWN)}
        lvm.compare(shown, reference="nuts").plot(quantities=args.show or None, path=args.picture)
    methods = report.as_dict()["methods"]
    for row in methods:
        row["seconds_cpu"] = cpu[row["method"]]
        if row["method"] != "nuts":
            row["steps"], row["converged"] = len(results[row["method"]].losses), results[row["method"]].converged
    return {"unknowns": problem.unconstrained_size, "methods": methods, "left_out": left_out}


def table(found: dict[str, Any]) -> str:
    """The measurement as a Markdown table."""
    head = "| method | agree / differ / unclear | worst mean | worst sd ratio | k-hat | ELBO | CPU s | verdict |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for row in found["methods"]:
        is_reference = row["agrees"] is None
        counts = "reference" if is_reference else f"{row['agrees']:.0f} / {row['differs']:.0f} / {row['unclear']:.0f}"
        worst = "" if is_reference else f"{row['worst_mean_diff']:.2f} sd"
        ratio = "" if is_reference else f"{row['worst_sd_ratio']:.2f}"
        khat = "" if row["khat"] is None else f"{row['khat']:.2f}"
        elbo = "" if row["elbo"] is None else f"{row['elbo']:.2f}"
        cells = [f"`{row['method']}`", counts, worst, ratio, khat, elbo, f"{row['seconds_cpu']:.0f}", row["verdict"]]
        lines.append("| " + " | ".join(cells) + " |")
    nuts = found["settings"]
    machine, names = found["hardware"], ("torch", "pyro-ppl", "jax", "numpyro", "nutpie")
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in names if name in found["versions"])
    note = (
        f"{found['unknowns']} unknowns; NUTS: 4 chains of {nuts['warmup']} + {nuts['draws']} draws; seed {nuts['seed']}; "
        f"{machine['processor']}, {machine['cores']} cores; Python {found['versions']['python']}, {versions}; {found['date']}. "
        f"Made by `{found['command']}`; all figures are in `benchmarks/results/{found['benchmark']}.json`."
    )
    left = "".join(f" `{name}` was left out: {why}" for name, why in found["left_out"].items())
    return "\n".join(lines) + f"\n\n{note}{left}\n"


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem")
    parser.add_argument("--guide", action="append")
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", help="also draw the comparison of some guides into this file")
    parser.add_argument("--show", action="append", help="quantities to show in the picture")
    parser.set_defaults(quick=False, out=None)
    args = parser.parse_args()
    path = common.report(args.problem, args, measure(args))
    print(table(json.loads(path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
