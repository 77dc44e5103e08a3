"""Runs every program and prints a table: ``python -m tests.programs.table [NAME ...] [--full]``.

Each program is read, fitted by default and by a guide of its own, sampled by NUTS where it can be, judged, saved and loaded; the
densities of stored draws are compared with stock Pyro's. A program whose density runs on stock Pyro says why. Without ``--full`` a row
takes too few steps and draws for a verdict to be "trusted": what it shows is that nothing is refused and no density is wrong.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import pyrolvm as lvm
from pyrolvm._capture import capture
from pyrolvm._program.density import Joint
from pyrolvm.family.choice import choose
from tests.programs.cases import PROGRAMS, Case
from tests.programs.stock import stock_log_p

__all__ = ["Row", "density_engine", "quick_fit", "run", "wrong"]

MODULES = ("forms", "plates", "discrete", "time", "laws", "classics")

for module in MODULES:
    importlib.import_module(f"tests.programs.programs_{module}")

TOLERANCE = 2e-4
"""Of float32 sums in another order, relative to 1 + |log p|."""


SHORT, FULL = (400, 100), (2_000, 1_000)
"""Steps and draws of a row for a moment, and with the budgets that users have."""


@dataclass(frozen=True)
class Row:
    """What became of one program."""

    name: str
    density: str
    engine: str
    seconds: float
    verdict: str
    wrong: str
    line: str


def density_engine(problem: lvm.Problem) -> str:
    """Why the density runs on stock Pyro; empty if it is captured."""
    if not problem.continuous:
        return ""
    with problem.session(seed=0):
        try:
            capture(Joint(problem).potential, torch.full((problem.unconstrained_size,), 0.1, dtype=problem.dtype))
        except lvm.CaptureError as error:
            return str(error)
    return ""


def wrong(case: Case, problem: lvm.Problem, result: Any, *, drawn: bool = False, draws: int = 2) -> str:
    """Which stored density is not stock Pyro's; empty if none of the first draws.

    Args:
        case: the program.
        problem: the problem that it makes.
        result: a fit, or chains.
        drawn: whether the result's discrete latents are draws of a guide, and not summed out.
        draws: how many to compare.
    """
    for draw in range(min(draws, result.num_draws)):
        stock, ours = stock_log_p(case, problem, result, draw, drawn=drawn), float(result.log_p[0, draw])
        if not abs(stock - ours) <= TOLERANCE * (1 + abs(stock)):
            return f"lp of draw {draw} is {ours:.6g}, stock Pyro's {stock:.6g}"
    return ""


def quick_fit(problem: lvm.Problem, guide: Any, **options: Any) -> lvm.Fit:
    """A few steps."""
    return lvm.fit(problem, guide, max_steps=3, draws=4, progress=False, **options)


def plain_default(problem: lvm.Problem) -> Any:
    """The default guide without its search for a frame, which takes a compiler."""
    if not problem.continuous:
        return "auto"
    name = choose(problem)
    return lvm.guide(name, precondition="none") if name in ("full_rank", "mean_field") else name


def run(name: str, case: Case, folder: Path, *, full: bool) -> Row:
    """One program, with everything that can be run on it: for a moment, or with the budgets that users have."""
    started = time.perf_counter()
    problem = lvm.Problem(case.model, *case.args, **case.kwargs)
    reason = density_engine(problem)
    steps, draws = FULL if full else SHORT
    fits: list[Any] = [lvm.fit(problem, max_steps=steps, draws=draws, progress=False)]
    if case.guide is not None:
        fits.append(lvm.fit(problem, case.guide, max_steps=steps, draws=draws, progress=False))
    if case.nuts:
        fits.append(lvm.nuts(problem, chains=2, warmup=draws, draws=draws, progress=False))
    faults = [wrong(case, problem, fit, drawn=case.drawn and i == 1) for i, fit in enumerate(fits)]
    for i, fit in enumerate(fits):
        lvm.diagnose(fit)
        fit.save(folder / f"{name}_{i}")
        lvm.load(folder / f"{name}_{i}", problem=problem)
    return Row(
        name,
        "pyro" if reason else "captured",
        "/".join(fit.engine for fit in fits),
        time.perf_counter() - started,
        "/".join(fit.verdict.status for fit in fits),
        "; ".join(filter(None, faults)),
        reason,
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--full", action="store_true", help="longer fits and chains")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    steps, draws = FULL if options.full else SHORT
    told = "" if options.full else ", too few to be trusted: most verdicts are doubtful for that alone"
    print(f"{steps:,} steps and {draws} draws of a fit, 2 chains of {draws} draws{told}")
    print(f"{'program':34} {'density':9} {'engines':14} {'seconds':>7}  verdicts")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or PROGRAMS:
            try:
                row = run(name, PROGRAMS[name](), Path(folder), full=options.full)
            except Exception as error:  # a row, not a gap
                row = Row(name, "-", "-", 0.0, "-", f"{type(error).__name__}: {error}", "")
            rows.append(row)
            print(f"{row.name:34} {row.density:9} {row.engine:14} {row.seconds:7.1f}  {row.verdict}", flush=True)
            for note in filter(None, (row.wrong, row.line)):
                print(f"    {note[:300]}")
    stock = sum(row.density == "pyro" for row in rows)
    bad = sum(bool(row.wrong) for row in rows)
    print(f"{len(rows)} programs, {stock} on stock Pyro ({stock / max(len(rows), 1):.0%}), {bad} wrong or refused")


if __name__ == "__main__":
    main()
