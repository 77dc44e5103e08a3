"""Methods on whole posteriors, measured by reference draws and closed forms: 27 posteriors of posteriordb, and a hard set.

    python benchmarks/posteriordb/run.py --method infer-vi --method nuts
    python benchmarks/posteriordb/run.py --method full_rank --method pyro:AutoNormal --posterior garch-garch11 --seeds 3
    python benchmarks/posteriordb/run.py --method infer-vi --only hard
    python benchmarks/posteriordb/run.py --method infer-vi --quick

Methods: ``infer-vi`` and ``infer`` (``lvm.infer`` without and with NUTS), ``nuts`` (``lvm.nuts``), ``sample:mams`` and the other
kernels of ``lvm.sample``, a registered guide (``lvm.fit``),
and ``pyro:AutoNormal``, ``pyro:AutoMultivariateNormal``, ``pyro:AutoIAFNormal`` (stock Pyro with Adam); with ``captured:`` in place
of ``pyro:``, the same guides and steps by pyrolvm's engines, for accuracy without the wait. All else is default.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common

from posteriordb import cell

Row = common.Row

LEVELS = {"good": 0.1, "strict": 0.05}
"""Bounds on the worst error of a mean, in sds, and of an sd, as a share."""

SHARE = 0.8
"""A posterior meets a level if this share of its seeds does: four of five."""

QUICK = ("eight_schools-eight_schools_noncentered", "kidiq-kidscore_momiq")

TITLES = {
    "posterior": "posterior", "mean_error": "mean off, sds", "mean_error_at": "at", "sd_error": "sd off", "sd_error_at": "at",
    "khat": "k-hat", "z": "worst z", "rhat": "R-hat", "ess": "min ESS", "verdicts": "verdicts", "good": "within 0.1",
    "strict": "within 0.05", "seconds": "s", "evaluations": "evaluations", "engine": "engine", "status": "status",
}  # fmt: skip


def meets(row: Row, level: str) -> bool:
    """Whether a row is within the bounds of a level."""
    bound = LEVELS[level]
    return row["status"] == "ok" and row["mean_error"] <= bound and row["sd_error"] <= bound


def table(rows: Sequence[Row], posteriors: Sequence[str]) -> list[Row]:
    """A line for each posterior: medians over the seeds, and how many seeds meet each level."""
    return [_line(name, [row for row in rows if row["posterior"] == name]) for name in posteriors]


def _line(name: str, rows: Sequence[Row]) -> Row:
    line: Row = {"posterior": name}
    for key in ("mean_error", "sd_error", "khat", "rhat", "ess", "seconds", "evaluations"):
        line[key] = common.median(row.get(key) for row in rows)
    for key in ("mean_error", "sd_error"):
        worst = max((row for row in rows if row.get(key) is not None), key=lambda row: row[key], default={})
        line[f"{key}_at"] = worst.get(f"{key}_at")
    line["z"] = common.median(max(row["z_mean"], row["z_square"]) for row in rows if row.get("z_mean") is not None)
    given = [row["verdict"] for row in rows if row.get("verdict")]
    line["verdicts"] = ", ".join(
        f"{given.count(status)} {status}" for status in dict.fromkeys(sorted(given, reverse=True))
    )
    for level in LEVELS:
        line[level] = f"{sum(meets(row, level) for row in rows)}/{len(rows)}"
    line["engine"] = "/".join(sorted({row["engine"] for row in rows if row.get("engine")}))
    notes = [row["status"][:80] for row in rows if row["status"] != "ok"]
    notes += ["stopped by the clock" for row in rows if row.get("capped")]
    line["status"] = "; ".join(dict.fromkeys(notes))
    return line


def summary(rows: Sequence[Row], posteriors: Sequence[str]) -> Row:
    """What a method reaches on a set of posteriors, and whether its verdicts are right."""

    def reached(level: str) -> int:
        by = [[meets(row, level) for row in rows if row["posterior"] == name] for name in posteriors]
        return sum(bool(found) and sum(found) >= math.ceil(SHARE * len(found)) for found in by)

    trusted = [row for row in rows if row.get("verdict") == "trusted"]
    good = [row for row in rows if meets(row, "good")]
    judged = [row for row in good if row.get("verdict")]
    return {
        "posteriors": len(posteriors),
        "results": len(rows),
        "failures": sum(row["status"] != "ok" for row in rows),
        "good_posteriors": reached("good"),
        "strict_posteriors": reached("strict"),
        "good_results": len(good),
        "trusted_results": len(trusted),
        "trusted_wrong_share": common.ratio(sum(not meets(row, "good") for row in trusted), len(trusted)),
        "good_trusted_share": common.ratio(sum(row["verdict"] == "trusted" for row in judged), len(judged)),
        "median_seconds": common.median(row.get("seconds") for row in rows),
        "sum_of_seconds": sum(row.get("seconds") or 0.0 for row in rows),
    }


def sentence(found: Row) -> str:
    """A summary in words."""
    share: Callable[[Any], str] = lambda value: "none" if value is None else f"{value:.0%}"  # noqa: E731
    return (
        f"within 0.1 sd and 10 %: {found['good_posteriors']} of {found['posteriors']}; within 0.05 sd and 5 %: "
        f"{found['strict_posteriors']}; failures: {found['failures']} of {found['results']}; trusted: {found['trusted_results']}, of "
        f"which off: {share(found['trusted_wrong_share'])}; of the good, trusted: {share(found['good_trusted_share'])}; "
        f"median {common.show(found['median_seconds'])} s"
    )


def sets(posteriors: Sequence[str]) -> dict[str, list[str]]:
    """The posteriors by where they come from."""
    hard = [name for name in posteriors if name.startswith(cell.HARD)]
    found = {"posteriordb": [name for name in posteriors if name not in hard], "hard": hard}
    return {title: names for title, names in found.items() if names}


def settings(method: str, args: argparse.Namespace) -> Row:
    """What of the options a row depends on, beside its seed."""
    used: Row = {"share": args.share}
    if method.startswith((cell.PYRO, cell.CAPTURED)):
        used |= {"pyro_steps": args.pyro_steps, "pyro_rate": args.pyro_rate}
    if method.startswith(cell.PYRO):
        used["cap"] = args.cap
    return used


def kept(args: argparse.Namespace, path: Path) -> list[Row]:
    """The rows of an earlier run with the same settings."""
    if not args.resume or not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf-8")).get("rows", [])
    return [row for row in rows if row.get("settings") == settings(row["method"], args)]


def choose(asked: Sequence[str] | None, args: argparse.Namespace) -> list[str]:
    """The posteriors to run."""
    available = cell.posteriors(only=args.only, hard=args.hard or any(n.startswith(cell.HARD) for n in asked or ()))
    unknown = [name for name in asked or () if name not in available]
    if unknown:
        raise SystemExit(f"there is no posterior {unknown[0]!r}. Fix: use one of {', '.join(available)}.")
    return [name for name in available if not asked or name in asked]


def run(args: argparse.Namespace, methods: list[str], posteriors: list[str]) -> Path:
    """Runs what is missing, and writes after each posterior."""
    path: Path = args.out
    rows = kept(args, path)
    before, marks = common.load(), common.revision()
    done = {(row["posterior"], row["method"], row["seed"]) for row in rows}

    def write() -> None:
        found = {"load_at_start": before, "rows": rows, "summaries": summaries(rows)}
        command = common._command().replace("benchmarks/run.py", "benchmarks/posteriordb/run.py", 1)
        common.report("posteriordb", args, {"command": command, **found})

    def one(work: tuple[str, str]) -> list[Row]:
        name, method = work
        seeds = [s for s in range(args.seed, args.seed + args.seeds) if (name, method, s) not in done]
        used = settings(method, args)
        found = cell.run({"posterior": name, "method": method, **used}, seeds, timeout=args.timeout, share=args.share)
        for row in found:
            print(
                f"  {method} {name} #{row['seed']}: {row['status']} {common.show(row.get('mean_error'))} "
                f"{common.show(row.get('sd_error'))} {row.get('verdict', '')} {common.show(row.get('seconds'))} s",
                file=sys.stderr,
                flush=True,
            )
        return [{**row, "settings": used, "revision": marks} for row in found]

    with ThreadPoolExecutor(args.jobs) as pool:
        for method in methods:
            for found in pool.map(one, [(name, method) for name in posteriors]):
                rows += found
                if found:
                    write()
            for title, names in sets(posteriors).items():
                mine = [row for row in rows if row["method"] == method and row["posterior"] in names]
                lines = table(mine, names)
                shown = {
                    key: title
                    for key, title in TITLES.items()
                    if any(line.get(key) not in (None, "") for line in lines)
                }
                print(
                    f"\n{method}, {title}\n\n{common.table(lines, shown)}\n\n{sentence(summary(mine, names))}\n",
                    flush=True,
                )
    write()
    return path


def summaries(rows: Sequence[Row]) -> list[Row]:
    """A summary for each method and set of posteriors that there are rows of."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        for title, names in sets(list(dict.fromkeys(row["posterior"] for row in mine))).items():
            found.append(
                {"method": method, "set": title} | summary([r for r in mine if r["posterior"] in names], names)
            )
    return found


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", action="append", required=True, help="a method; may be given several times")
    parser.add_argument("--posterior", action="append", help="only these; hard problems are hard/NAME")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds")
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument("--hard", action="store_true", help="the hard set too")
    parser.add_argument("--only", choices=("posteriordb", "hard"), help="only one of the sets")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once, one thread each")
    parser.add_argument("--share", action="store_true", help="the seeds of a posterior share a process: saves imports")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds after which a run is given up")
    parser.add_argument("--pyro-steps", type=int, default=20_000, help="steps of stock Pyro")
    parser.add_argument("--pyro-rate", type=float, default=1e-2, help="learning rate of stock Pyro")
    parser.add_argument("--cap", type=float, default=300.0, help="seconds after which stock Pyro stops as it is")
    parser.add_argument("--quick", action="store_true", help="a smoke run: two posteriors, one seed")
    parser.add_argument(
        "--resume", action="store_true", help="keep the rows that are in the JSON for the same settings"
    )
    parser.add_argument("--out", type=Path, help="the JSON file; by default benchmarks/results/posteriordb.json")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.posterior = 1, args.posterior or list(QUICK)
    args.out = args.out or common.RESULTS / ("posteriordb_quick.json" if args.quick else "posteriordb.json")
    try:
        methods = [cell.check_method(name) for name in args.method]
        posteriors = choose(args.posterior, args)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(f"written to {run(args, methods, posteriors)}")


if __name__ == "__main__":
    main()
