"""Measures every problem of the zoo once: mean-field, the ladder without NUTS, and both against NUTS.

    python benchmarks/zoo.py                       writes benchmarks/results/zoo.json
    python benchmarks/zoo.py --problem funnel      measures one again and leaves the others as they are
    python benchmarks/zoo.py --pictures docs/images/zoo    writes a picture of each problem's worst marginals too

NUTS takes its default settings. Errors are the worst over the quantities of a problem (its sites where it names none): of the
mean in sds of NUTS, and of the sd as a ratio. ``python benchmarks/pages.py`` puts the table into ``docs/zoo.md``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from common import RESULTS, parser, report, table

import pyrolvm as lvm

OPTIONS: dict[str, dict[str, Any]] = {
    "factor_analysis": {"marginal": True},
    "gaussian_process": {"every": 2},
    "ppca": {"marginal": True},
}
"""Options of problems that are not measured as they come."""

COLUMNS = {
    "problem": "problem", "unknowns": "unknowns", "nuts verdict": "NUTS", "nuts seconds": "s", "mean_field verdict": "mean-field",
    "mean_field seconds": "s ", "mean_field mean": "mean off, sds", "mean_field sd": "sd ratio", "infer-vi verdict": "infer-vi",
    "infer-vi seconds": "s  ", "infer-vi mean": "mean off, sds ", "infer-vi sd": "sd ratio ",
}  # fmt: skip


SHOWN = 4
"""How many marginals a picture has."""


def measure(name: str, seed: int, pictures: Path | None = None) -> dict[str, Any]:
    """One problem's row; a failure is a verdict too. Its worst marginals go to a picture where a folder is given."""
    problem = lvm.problem(name, **OPTIONS.get(name, {}))
    shown = "".join(f"({key}={value})" for key, value in OPTIONS.get(name, {}).items())
    row: dict[str, Any] = {"name": name, "problem": name + shown, "unknowns": problem.unconstrained_size}
    options: dict[str, Any] = {"seed": seed, "progress": False}
    methods = {
        "nuts": lambda: lvm.nuts(problem, **options),
        "mean_field": lambda: lvm.fit(problem, "mean_field", **options),
        "infer-vi": lambda: lvm.infer(problem, methods="vi", **options),
    }
    results: dict[str, Any] = {}
    for method, run in methods.items():
        started = time.perf_counter()
        try:
            results[method] = run()
        except lvm.PyrolvmError as error:
            row[f"{method} verdict"], row[f"{method} error"] = "error", str(error)
            continue
        row[f"{method} verdict"] = results[method].verdict.status
        row[f"{method} seconds"] = time.perf_counter() - started
    if "nuts" in results and len(results) > 1:
        comparison = lvm.compare(results, reference="nuts")
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            figure = comparison.plot("marginals", limit=SHOWN)
            figure.savefig(pictures / f"{name}.png", dpi=80)
        for found in comparison.as_dict()["methods"]:
            if found["method"] != "nuts":
                row[f"{found['method']} mean"] = found["worst_mean_diff"]
                row[f"{found['method']} sd"] = found["worst_sd_ratio"]
    return row


def main() -> None:
    """Runs, prints, writes after each problem."""
    made = parser(__doc__)
    made.add_argument("--problem", action="append", help="only these, beside what was measured before")
    made.add_argument("--pictures", type=Path, help="a folder for one picture a problem")
    args = made.parse_args()
    before = RESULTS / "zoo.json"
    rows = json.loads(before.read_text(encoding="utf-8"))["rows"] if args.problem and before.exists() else []
    for name in args.problem or [name for name in lvm.problems(ready=True) if not lvm.problem(name).parameters]:
        rows = [row for row in rows if row["name"] != name] + [measure(name, args.seed, args.pictures)]
        rows.sort(key=lambda row: row["name"])
        report("zoo", args, {"rows": rows})
    print(table(rows, COLUMNS))


if __name__ == "__main__":
    main()
