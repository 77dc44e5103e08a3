"""Runs the models of Pyro's own example files, unchanged, by their own guides and by the default one.

    PYRO_CHECKOUT=/path/to/pyro python benchmarks/peer_programs.py      writes benchmarks/results/peer_programs.json
    PYRO_CHECKOUT=/path/to/pyro python benchmarks/peer_programs.py --file hmm.py --resume       the others' rows stay as they are

A checkout of Pyro is not part of this project; any with a folder ``examples`` will do. Each program becomes a problem and is fitted;
then the log density that the result states for a few of its draws is compared with that of the file's own model, run by stock Pyro
at these draws. "wrong" is a difference above rounding, whatever the verdict says; "refused" is an error that says why; "crashed" is
any other exception. Programs have small data that are made here, or by the file: their posteriors are not looked at, since nobody
knows them.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, parser, report, revision, table
from programs.examples import EXAMPLES, Program, load
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate

import pyrolvm as lvm

COLUMNS = {
    "file": "file", "program": "program", "guide": "guide", "outcome": "outcome", "engine": "engine", "seconds": "seconds",
    "verdict": "verdict", "off": "lp off, relative", "line": "line",
}  # fmt: skip

BY_FILE = {
    "file": "file", "runs": "runs", "engines": "engines", "seconds": "seconds", "off": "lp off, relative", "verdicts": "verdicts",
    "line": "what does not run, or runs on stock Pyro",
}  # fmt: skip

TOLERANCE = 1e-3
"""Nats that ``lp`` may be off, and as a share of its size."""


def stock_log_p(problem: lvm.Problem, draw: dict[str, torch.Tensor]) -> float:
    """Log density of a draw by stock Pyro: discrete sites that it does not give are enumerated."""

    def given(*args: Any, **kwargs: Any) -> Any:
        return poutine.condition(problem.model, data=draw)(*args, **kwargs)

    nesting = max([-(plate.dim or 0) for plate in problem.plates.values()], default=0)
    if any(site.name not in draw for site in problem.latents):
        elbo = TraceEnum_ELBO(max_plate_nesting=nesting)
        return -float(elbo.loss(config_enumerate(given), lambda *_, **__: None, *problem.args, **problem.kwargs))
    trace = poutine.trace(given).get_trace(*problem.args, **problem.kwargs)
    return float(trace.log_prob_sum())


def off(fit: Any, problem: lvm.Problem) -> float:
    """The largest difference between the ``lp`` of a few stored draws and stock Pyro's log density there.

    Discrete sites are summed out unless the guide has them; whichever it was, one of the two densities has to agree.
    """
    posterior, stated = fit.data["posterior"], fit.data["sample_stats"]["lp"].values[0]
    kinds = [problem.continuous] + ([problem.latents] if problem.discrete else [])
    worst = 0.0
    with problem.session(seed=0, params=fit.params), torch.no_grad():
        for i in (0, len(stated) // 2, len(stated) - 1):
            found = []
            for sites in kinds:
                draw = {
                    s.name: torch.as_tensor(np.array(posterior[s.name.replace("/", ".")].values[0, i])) for s in sites
                }
                draw = {n: v.to(problem.dtype) if v.is_floating_point() else v for n, v in draw.items()}
                expected = stock_log_p(problem, draw)
                same = expected == stated[i]
                found.append(0.0 if same else abs(expected - float(stated[i])) / max(1.0, abs(expected)))
            worst = max(worst, min(found))
    return worst


def run(file: str, program: Program, guide: str, seed: int, steps: int) -> dict[str, Any]:
    """One row: a program fitted by its own guide or by the default."""
    row: dict[str, Any] = {"file": file, "program": program.name, "guide": guide}
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem = lvm.Problem(program.model, *copy.deepcopy(program.args))
            chosen = program.guide if guide == "own" else "auto"
            options = {"max_steps": steps, "draws": 100, **program.options}
            fit = lvm.fit(problem, chosen, seed=seed, progress=False, **options)
            row |= {"engine": fit.engine, "verdict": fit.verdict.status, "line": fit.engine_reason}
            if problem.latents:
                row["off"] = off(fit, problem)
        row["outcome"] = "wrong" if row.get("off", 0.0) > TOLERANCE else "runs"
    except lvm.PyrolvmError as error:
        row |= {"outcome": "refused", "line": f"{type(error).__name__}: {error}"}
    except Exception as error:  # what a user would see as a traceback is what is counted here
        row |= {"outcome": "crashed", "line": f"{type(error).__name__}: {error}"}
    row["seconds"] = round(time.perf_counter() - began, 2)
    return row


def kept(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of an earlier run that this one does not make."""
    path = args.out or RESULTS / "peer_programs.json"
    if not args.resume or not path.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [row for row in rows if row["file"] not in (args.file or EXAMPLES)]


def main() -> None:
    """Runs the files that were asked for."""
    options = parser(__doc__)
    options.add_argument("--file", action="append", help="only these files below examples/")
    options.add_argument("--steps", type=int, default=2000, help="steps of each fit")
    options.add_argument("--programs", type=int, default=1000, help="at most so many programs of a file")
    options.add_argument("--one-guide", action="store_true", help="only the file's own guide where it has one")
    options.add_argument("--resume", action="store_true", help="keep the rows of other files that are in the JSON")
    args = options.parse_args()
    where = os.environ.get("PYRO_CHECKOUT")
    if not where or not (Path(where) / "examples").is_dir():
        raise SystemExit("set PYRO_CHECKOUT to a checkout of Pyro, which has a folder examples.")
    rows = kept(args)
    for file in args.file or EXAMPLES:
        torch.manual_seed(args.seed)
        try:
            found = EXAMPLES[file](load(Path(where), file))
        except Exception as error:  # a file that does not load here is a row, not a gap
            rows.append({"file": file, "outcome": "not loaded", "line": f"{type(error).__name__}: {error}"})
            continue
        for program in found[: 1 if args.quick else args.programs]:
            guides = ["own"] * (program.guide is not None) + ["default"]
            for guide in guides[: 1 if args.one_guide else None]:
                rows.append(run(file, program, guide, args.seed, args.steps) | {"revision": revision()})
                print({key: str(value)[:160] for key, value in rows[-1].items()}, flush=True)
        report("peer_programs", args, {"summary": summary(rows), "rows": rows})
    print(table([{**row, "line": str(row.get("line", ""))[:100]} for row in rows], COLUMNS))
    print(summary(rows))


def by_file(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each file: how many of its fits run, on what, how far ``lp`` is off at most, and what does not run."""
    lines = []
    for file in dict.fromkeys(row["file"] for row in rows):
        mine = [row for row in rows if row["file"] == file]
        said = [
            row["line"].split("Fix:")[0].strip() for row in mine if row["outcome"] != "runs" or row["engine"] == "pyro"
        ]
        lines.append(
            {
                "file": file,
                "runs": f"{sum(row['outcome'] == 'runs' for row in mine)} of {len(mine)}",
                "engines": ", ".join(dict.fromkeys(row["engine"] for row in mine if row.get("engine"))),
                "seconds": sum(row.get("seconds", 0.0) for row in mine),
                "off": max((row["off"] for row in mine if row.get("off") is not None), default=None),
                "verdicts": ", ".join(dict.fromkeys(row["verdict"] for row in mine if row.get("verdict"))),
                "line": "; ".join(dict.fromkeys(said)).replace("|", "/"),
            }
        )
    return lines


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of the files and of the rows."""
    files = {row["file"] for row in rows}
    runs = {row["file"] for row in rows if row["outcome"] == "runs"}
    return {
        "files": len(files), "files_that_run": len(runs), "rows": len(rows),
        **{name: sum(row["outcome"] == name for row in rows) for name in ("runs", "refused", "crashed", "wrong", "not loaded")},
        "trusted_and_wrong": sum(row["outcome"] == "wrong" and row.get("verdict") == "trusted" for row in rows),
        "stock": sum(row.get("engine") == "pyro" for row in rows),
    }  # fmt: skip


if __name__ == "__main__":
    main()
