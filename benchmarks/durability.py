"""What checkpoints cost, and whether long fits grow: ``python benchmarks/durability.py``.

A fit of eight schools takes 50,000 steps, and its resident memory is noted as it goes; then longer fits, of eight schools and of an
autoencoder of digits, write checkpoints at several distances, and the time of each is taken. Prints tables and writes
``benchmarks/results/durability.json``.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import common

import pyrolvm as lvm
from pyrolvm._base.progress import Progress
from pyrolvm._runs import Checkpoints
from pyrolvm._runs.pace import EVERY, SHARE

MEMORY = {
    "engine": "engine", "steps": "steps", "seconds": "s", "first_step": "from step", "first_mb": "resident MB",
    "last_mb": "at the end, MB", "grows_mb": "growth, MB",
}  # fmt: skip
COSTS = {
    "problem": "problem", "engine": "engine", "steps": "steps", "run_seconds": "s", "checkpoint_every": "checkpoint_every, s",
    "checkpoints": "checkpoints",
    "writing_seconds": "writing, s", "share": "share of the run",
    "longest_write": "longest, s", "share_at_default": "share at the default distance",
}  # fmt: skip
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> float:
    """Resident memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


def growth(engine: str, steps: int, seed: int) -> dict[str, Any]:
    """Resident memory after 1,000 steps and at the end, with checkpoints."""
    seen: list[tuple[int, float]] = []

    def progress(done: int, total: int, text: str) -> None:
        seen.append((done, resident()))

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        fit = lvm.fit(
            lvm.problem("eight_schools"), "mean_field", engine=engine, max_steps=steps, tolerance=0, draws=100, seed=seed,
            progress=progress, out=Path(folder) / "run", checkpoint_every=1.0,
        )  # fmt: skip
        seconds = time.perf_counter() - began
    after = [(step, size) for step, size in seen if step >= 1_000]
    first, last = after[0], after[-1]
    return {
        "engine": fit.engine, "steps": len(fit.losses), "seconds": seconds, "first_step": first[0], "first_mb": first[1],
        "last_step": last[0], "last_mb": last[1], "grows_mb": last[1] - first[1], "peak_mb": max(size for _, size in after),
    }  # fmt: skip


def cost(name: str, engine: str, steps: int, every: float | None, seed: int) -> dict[str, Any]:
    """The share of a fit's time that its checkpoints take."""
    words: dict[str, Any] = {"batch_size": 128} if name == "vae" else {}
    guide = "amortized" if name == "vae" else "mean_field"
    took: list[float] = []
    write = Checkpoints.write

    def timed(self: Checkpoints, *args: Any) -> None:
        began = time.perf_counter()
        write(self, *args)
        took.append(time.perf_counter() - began)

    Checkpoints.write = timed  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            fit = lvm.fit(
                lvm.problem(name), guide, engine=engine, max_steps=steps, tolerance=0, draws=100, seed=seed,
                progress=False, out=Path(folder) / "run", checkpoint_every=every, **words,
            )  # fmt: skip
    finally:
        Checkpoints.write = write  # type: ignore[method-assign]
    run, longest = fit.seconds["run"], max(took, default=0.0)
    return {
        "problem": name, "engine": fit.engine, "steps": len(fit.losses), "checkpoint_every": every, "checkpoints": len(took),
        "run_seconds": run,
        "writing_seconds": sum(took), "longest_write": longest,
        "share": sum(took) / run, "share_at_default": longest / max(EVERY, longest / SHARE),
    }  # fmt: skip


def main() -> None:
    """Measures, prints and writes."""
    parser = common.parser(__doc__, repetitions=1)
    parser.add_argument("--steps", type=int, default=50_000, help="of the fit whose memory is watched")
    parser.add_argument(
        "--long",
        type=int,
        default=300_000,
        help="of the fits of eight schools whose checkpoints are timed; a tenth of it of the autoencoder",
    )
    args = parser.parse_args()
    if args.quick:
        args.steps, args.long = 2_000, 500
    Progress.__init__.__kwdefaults__["every"] = 0.0  # every call of steps is reported
    memory = [growth(engine, args.steps, args.seed) for engine in ("c", "jax")]
    print(common.table(memory, MEMORY))
    costs = [cost("eight_schools", "c", args.long, every, args.seed) for every in (None, 1.0)]
    costs += [cost("vae", "jax", args.long // 10, every, args.seed) for every in (None, 5.0)]
    print(common.table(costs, COSTS))
    print(common.report("durability", args, {"memory": memory, "costs": costs}))


if __name__ == "__main__":
    main()
