"""Runs every problem of the zoo with every guide that takes it on a simulated CUDA device, and prints a table.

    python -m tests.devices.record                          all of them: minutes to hours
    python -m tests.devices.record --problem vae --guide amortized

A cell is "clean", or says what a device would have refused and where. It covers building guide and frame, the objective, its gradient
and a few steps by the captured graph, draws, densities by row, predictions, the result's move to the processor, and more draws later.
"""

from __future__ import annotations

import argparse
import time
import traceback
import warnings

import pyrolvm as lvm
from tests.devices.simulated import simulated_cuda

__all__ = ["cell", "main"]

STEPS, DRAWS = 3, 8


def cell(problem: lvm.Problem, guide: str, engine: str = "torch") -> str:
    """``"clean"``, ``"not for it"`` where the family cannot represent the problem, or what went wrong and in which line of ours."""
    recipe = lvm.guide(guide, precondition="none") if guide in UNFRAMED else guide
    try:
        with warnings.catch_warnings(), simulated_cuda():
            warnings.simplefilter("ignore", lvm.PyrolvmWarning)
            fit = lvm.fit(problem, recipe, device="cuda", engine=engine, max_steps=STEPS, draws=DRAWS, progress=False)
            if problem.latents:
                fit.sample(3)
    except lvm.GuideError as error:
        if error.__cause__ is None:
            return "not for it"
        return _said(error)
    except lvm.PyrolvmError as error:
        return _said(error)
    return "clean"


UNFRAMED = {"autoregressive", "flow", "full_rank", "low_rank", "mean_field", "mixture", "structured"}
"""Families whose search for a frame is the same for all; only ``laplace``, ``pathfinder`` and ``student`` make theirs here."""


def _said(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "pyrolvm" in f.filename]
    where = f" at {ours[-1].filename.rsplit('/', 1)[-1]}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}: {str(error)[:120]}{where}"


def main() -> None:
    """Prints the table of what was asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--problem", action="append", help="only these problems")
    options.add_argument("--guide", action="append", help="only these guides")
    args = options.parse_args()
    for name in args.problem or list(lvm.problems(ready=True)):
        problem = lvm.problem(name)
        for guide in args.guide or list(lvm.guides()):
            began = time.perf_counter()
            print(f"| {name} | {guide} | {cell(problem, guide)} | {time.perf_counter() - began:.1f} |", flush=True)


if __name__ == "__main__":
    main()
