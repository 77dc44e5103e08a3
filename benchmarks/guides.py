"""Measures the guides of one problem against NUTS, and writes what the tables of these pages show.

    python benchmarks/guides.py eight_schools_noncentered
    python benchmarks/guides.py logistic_regression --guide mean_field --guide full_rank --draws 500 --warmup 500

writes benchmarks/results/PROBLEM.json: versions, hardware, settings, and for each method its verdict, k-hat, errors and
seconds. ``python benchmarks/guides.py --tables`` puts the tables of those files into the pages, between their markers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyrolvm as lvm

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PACKAGES = ("pyrolvm", "torch", "pyro-ppl", "numpy", "arviz-stats")
SHOWN = ("mean_field", "full_rank", "flow")
PAGES = ("choose-a-guide.md", "../README.md")
MARK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def hardware() -> str:
    """The processor, how many cores of it may be used, and the threads that torch uses."""
    import torch

    names = (
        re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if platform.system() == "Linux" else []
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor()}, {cores} cores, {torch.get_num_threads()} torch thread(s)"


def revision() -> str | None:
    """The commit that was measured, with a mark where files differ from it; None outside a checkout."""
    git = ["git", "-C", str(DOCS), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def timed(method: Any, *args: Any, **options: Any) -> tuple[Any, float]:
    """What a method gives, and the processor seconds it took: unlike wall time, blind to what else is running."""
    start = time.process_time()
    return method(*args, **options), time.process_time() - start


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Runs NUTS and every guide."""
    problem = lvm.problem(args.problem)
    results, cpu, left_out = {}, {}, {}
    sampler = {"warmup": args.warmup, "draws": args.draws, "seed": args.seed, "progress": False}
    results["nuts"], cpu["nuts"] = timed(lvm.nuts, problem, **sampler)
    for name in args.guide or lvm.guides():
        try:
            results[name], cpu[name] = timed(lvm.fit, problem, name, seed=args.seed, progress=False)
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
    return {
        "problem": args.problem,
        "unknowns": problem.unconstrained_size,
        "command": shlex.join(["python", "benchmarks/guides.py", *sys.argv[1:]]),
        "revision": revision(),
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "nuts": {"chains": 4, **{k: v for k, v in sampler.items() if k != "progress"}},
        "methods": methods,
        "left_out": left_out,
    }


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
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if name != "numpy")
    nuts = found["nuts"]
    note = (
        f"{found['unknowns']} unknowns; NUTS: {nuts['chains']} chains of {nuts['warmup']} + {nuts['draws']} draws; "
        f"seed {nuts['seed']}; {found['hardware']}; Python {found['python']}, {versions}; {found['date']}. "
        f"Made by `{found['command']}`; all figures are in `benchmarks/results/{found['problem']}.json`."
    )
    left = "".join(f" `{name}` was left out: {why}" for name, why in found["left_out"].items())
    return "\n".join(lines) + f"\n\n{note}{left}\n"


def fill(text: str) -> str:
    """A page with the tables of the committed results between its markers."""

    def put(match: re.Match[str]) -> str:
        found = json.loads((HERE / "results" / f"{match[2]}.json").read_text(encoding="utf-8"))
        return f"{match[1]}\n{table(found)}\n{match[3]}"

    return MARK.sub(put, text)


def main() -> None:
    """Measures, or fills in tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", nargs="?")
    parser.add_argument("--guide", action="append")
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", help="also draw the comparison of some guides into this file")
    parser.add_argument("--show", action="append", help="quantities to show in the picture")
    parser.add_argument("--tables", action="store_true", help="fill in the tables of the pages")
    args = parser.parse_args()
    if args.problem:
        found = measure(args)
        path = HERE / "results" / f"{args.problem}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(table(found))
    if args.tables:
        for page in PAGES:
            path = DOCS / page
            path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
