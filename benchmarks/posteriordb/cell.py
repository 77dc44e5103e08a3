"""One posterior by one method, in a process of its own: ``python -m posteriordb.cell FOLDER``.

The parent writes ``job.json`` into the folder; the child appends a line to ``rows.jsonl`` for each seed as it is done. Nothing
that goes wrong for one seed keeps the others from running.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fresh
import numpy as np

import pyrolvm as lvm
from pyrolvm._methods.kernels.kinds import KERNELS
from pyrolvm_models import posteriordb as whole

from . import score

__all__ = ["CAPTURED", "HARD", "INFER", "PYRO", "check_method", "posteriors", "run", "standard"]

HARD = "hard/"
"""What the names of the hard problems begin with."""

PYRO, CAPTURED = "pyro:", "captured:"
"""What the names of stock Pyro's guides begin with: run by Pyro, or step for step the same by pyrolvm's engines."""

SAMPLE = "sample:"
"""What the names of the kernels of ``lvm.sample`` begin with."""

INFER = {"infer-vi": {"methods": "vi"}, "infer": {}}
"""Options of ``lvm.infer`` by method."""

Row = dict[str, Any]


# --- what there is ----------------------------------------------------------------------------------------------------


def posteriors(*, only: str | None = None, hard: bool = False) -> list[str]:
    """The names of what can be run: those of posteriordb, and with ``hard`` the hard problems too."""
    names = [] if only == "hard" else whole.names()
    if hard or only == "hard":
        from . import hard as collection

        names += [HARD + name for name in collection.problems()]
    return names


def check_method(name: str) -> str:
    """The method itself.

    Raises:
        ValueError: if there is none of that name.
    """
    from .stock import GUIDES

    stock = [kind + guide for kind in (PYRO, CAPTURED) for guide in GUIDES]
    kernels = [SAMPLE + kernel for kernel in KERNELS]
    known = [*INFER, "nuts", *kernels, *lvm.guides(), *stock]
    if name not in known:
        raise ValueError(f"there is no method {name!r}. Fix: use one of {', '.join(known)}.")
    return name


def problem(name: str) -> lvm.Problem:
    """The problem of that name, with its data."""
    if name.startswith(HARD):
        from . import hard

        return hard.problems()[name.removeprefix(HARD)]()
    return whole.posteriordb(posterior=name)


def standard(name: str) -> dict[str, score.Moments]:
    """What the posterior of that name is measured by."""
    if name.startswith(HARD):
        from . import hard

        return score.from_table(hard.reference(name.removeprefix(HARD)).moments)
    return score.standard(name)


def labelled(name: str, draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Draws by the labels that its reference has."""
    if name.startswith(HARD):
        from . import hard

        return hard.elements(draws)
    return score.columns(draws)


# --- in the child -----------------------------------------------------------------------------------------------------


def measure(job: Mapping[str, Any], seed: int) -> Row:
    """One method on one posterior with one seed."""
    name, method = job["posterior"], job["method"]
    target, table = problem(name), standard(name)
    if method.startswith(PYRO):
        row, draws, weights, chains = _stock(target, method.removeprefix(PYRO), seed, job)
    elif method.startswith(CAPTURED):
        row, draws, weights, chains = _captured(target, method.removeprefix(CAPTURED), seed, job)
    else:
        row, draws, weights, chains = _pyrolvm(target, method, seed)
    found = score.score(labelled(name, draws), table, weights=weights, chains=chains)
    return row | found.summary() | {"draws": int(np.prod(next(iter(draws.values())).shape[:2]))}


def _stock(target: lvm.Problem, guide: str, seed: int, job: Mapping[str, Any]) -> tuple[Row, Any, None, bool]:
    from . import stock

    fit = stock.fit(target, guide, seed=seed, steps=job["pyro_steps"], rate=job["pyro_rate"], cap=job["cap"])
    row = {
        "seconds": fit.seconds, "phases": {"run": fit.seconds}, "evaluations": fit.steps, "engine": "pyro",
        "capped": fit.capped, "final_loss": fit.loss,
    }  # fmt: skip
    return row, fit.draws, None, False


def _captured(target: lvm.Problem, guide: str, seed: int, job: Mapping[str, Any]) -> tuple[Row, Any, None, bool]:
    from . import stock

    started = time.perf_counter()
    fit = stock.fit_captured(target, guide, seed=seed, steps=job["pyro_steps"], rate=job["pyro_rate"])
    row = {
        "seconds": time.perf_counter() - started, "phases": dict(fit.seconds), "evaluations": len(fit.losses), "engine": fit.engine,
        "engine_reason": fit.engine_reason, "final_loss": float(np.mean(fit.losses[-100:])),
    }  # fmt: skip
    return row, score.arrays(fit.data["posterior"]), None, False


def _pyrolvm(target: lvm.Problem, method: str, seed: int) -> tuple[Row, Any, Any, bool]:
    call, options = _call(method)
    if "progress" in inspect.signature(call).parameters:
        options["progress"] = False
    started = time.perf_counter()
    result = call(target, seed=seed, **options)
    seconds = time.perf_counter() - started
    verdict = result.verdict
    judged = time.perf_counter() - started - seconds
    stats, draws = result.data["sample_stats"], score.arrays(result.data["posterior"])
    chains = isinstance(result, lvm.Chains)
    ladder = [_plain(record) for record in getattr(result, "ladder", None) or ()]
    row = {
        "seconds": seconds,
        "phases": dict(result.seconds),
        "verdict_seconds": judged,
        "verdict": verdict.status,
        "reasons": [str(reason) for reason in verdict.reasons if reason.status != "trusted"],
        "khat": float(stats["khat"]) if "khat" in stats else ladder[-1].get("khat") if ladder and not chains else None,
        "evaluations": _evaluations(stats),
        "engine": result.engine,
        "engine_reason": result.engine_reason,
        "found_by": result.name,
        "ladder": ladder,
    }
    if chains:
        row["divergences"] = result.divergences
    return row, draws, getattr(result, "weights", None), chains


def _call(method: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that runs a method, and its options."""
    if method in INFER:
        if not hasattr(lvm, "infer"):
            raise NotImplementedError("this pyrolvm has no lvm.infer")
        return lvm.infer, dict(INFER[method])
    if method.startswith(SAMPLE):
        return lvm.sample, {"kernel": method.removeprefix(SAMPLE)}
    return (lvm.nuts, {}) if method == "nuts" else (lvm.fit, {"guide": method})


def _evaluations(stats: Any) -> int | None:
    """Evaluations of the density: as the result says, or the gradients of chains, with warmup and the frame's."""
    if "evaluations" in stats.attrs:
        return int(stats.attrs["evaluations"])
    if "n_steps" in stats and "warmup_steps" in stats.attrs:
        before = int(stats.attrs["warmup_steps"]) + int(stats.attrs.get("frame_evaluations", 0))
        return int(stats["n_steps"].sum()) + before
    return None


def _plain(record: Any) -> Any:
    """A record of a result as JSON has it."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        record = dataclasses.asdict(record)
    return json.loads(json.dumps(dict(record) if isinstance(record, Mapping) else record, default=str))


def _child(folder: Path) -> None:
    import arviz_base  # noqa: F401  imports are not timed
    import jax  # noqa: F401
    import torch

    torch.set_num_threads(1)
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    for seed in job["seeds"]:
        started = time.perf_counter()
        try:
            row = {"status": "ok", **measure(job, seed)}
            if not row["finite"]:
                row["status"] = "draws without finite moments"
        except Exception as error:  # a failure is a row
            first = (str(error).strip() or "no message").splitlines()[0]
            row = {
                "status": f"failed: {type(error).__name__}: {first}"[:600],
                "seconds_until_failure": time.perf_counter() - started,
                "traceback": traceback.format_exc()[-3000:],
            }
        with (folder / "rows.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"seed": seed, **row}, default=float) + "\n")


# --- in the parent ----------------------------------------------------------------------------------------------------


def run(job: Mapping[str, Any], seeds: list[int], *, timeout: float, share: bool) -> list[Row]:
    """Rows for all seeds, each in a fresh process with empty compile caches, or together in one with ``share``.

    A process that dies or takes too long costs the seed that it was at; the rest run in another.

    Args:
        job: posterior, method and settings.
        seeds: one row for each.
        timeout: seconds for each.
        share: whether seeds share a process, which saves imports.
    """
    rows: list[Row] = []
    left = list(seeds)
    while left:
        batch = left if share else left[:1]
        found, complaint = _process({**job, "seeds": batch}, timeout * len(batch))
        rows += found
        left = left[len(found) :]
        if len(found) < len(batch):
            rows.append({"seed": left.pop(0), "status": complaint})
    return [{"posterior": job["posterior"], "method": job["method"], **row} for row in rows]


def _process(job: Mapping[str, Any], timeout: float) -> tuple[list[Row], str]:
    """The rows that a process finished, and what is to be said of the next one if there are too few."""
    with tempfile.TemporaryDirectory(prefix="posteriordb-") as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", f"{__package__}.cell", name], env=_environment(folder), cwd=folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        complaint = ""
        try:
            _, said = process.communicate(timeout=timeout)
            lines = said.strip().splitlines()
            complaint = f"failed: ended with code {process.returncode}: {lines[-1] if lines else ''}"[:600]
        except subprocess.TimeoutExpired:
            fresh._end(process)
            complaint = f"gave up after {timeout:.0f} s"
        except BaseException:
            fresh._end(process)
            raise
        path = folder / "rows.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines], complaint


def _environment(folder: Path) -> dict[str, str]:
    """That of a fresh process, with one thread for each library."""
    environment = fresh._environment(folder)
    if environment.get("PYROLVM_DATA"):
        environment["PYROLVM_DATA"] = str(Path(environment["PYROLVM_DATA"]).expanduser().resolve())
    here = str(Path(__file__).parents[1])
    environment["PYTHONPATH"] = ":".join(filter(None, [here, environment.get("PYTHONPATH", "")]))
    return environment | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
