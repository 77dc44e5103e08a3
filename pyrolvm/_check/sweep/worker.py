"""One cell: what a worker does with it, and what it sends back."""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pyrolvm._base.errors import PyrolvmWarning
from pyrolvm._check.calibrate.methods import Method
from pyrolvm._program.problem import Problem
from pyrolvm._results import Fit, Posterior
from pyrolvm._results.reading import blocks, tree
from pyrolvm._results.store import bundle
from pyrolvm._workers import Unfit, packed, unpacked
from pyrolvm._workers.package import Content

__all__ = ["Record", "Reply", "execute", "failed", "pack_method", "pack_problem", "work"]

Record = dict[str, Any]
"""What is kept of a cell, in JSON types; see :data:`pyrolvm._check.sweep.result.COLUMNS`."""

Reply = tuple[Record, dict[str, bytes]]
"""A record, and the files of the saved posterior by name."""

SCALARS = 1000
"""Means and sds of so many scalars are kept in the record itself."""

_ALONE = threading.Lock()
"""Pyro has one parameter store and one stack of handlers: cells of one process take turns."""


def pack_problem(problem: Problem) -> bytes:
    """A problem for another process.

    Raises:
        Unfit: if its model or data cannot be pickled.
    """
    parts = (problem.program, problem.args, dict(problem.kwargs), problem.info, problem.name, problem.source)
    dtype = str(torch.get_default_dtype()).removeprefix("torch.")
    return packed(
        (dtype, parts),
        code=(problem.program, *problem.info.quantities.values(), *problem.args, *problem.kwargs.values()),
    )


def pack_method(method: Method) -> bytes:
    """A method for another process.

    Raises:
        Unfit: if it cannot be pickled.
    """
    return packed(method, code=(method.subject, getattr(method.subject, "construct", None), *method.options.values()))


def work(problem: bytes, method: bytes, cell: Mapping[str, object], keep: bool) -> Reply | str:
    """Runs a cell that came from another process; text says why this process cannot."""
    with _ALONE:
        torch.set_num_threads(1)
        try:
            made, dtype = _unpacked(Content.of(problem))
            unpacked_method = unpacked(method)
        except Unfit as error:
            return f"a worker cannot load the model or the method: {error}"
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            return execute(made, unpacked_method, cell, keep)
        finally:
            torch.set_default_dtype(before)


@functools.lru_cache(maxsize=2)
def _unpacked(content: Content) -> tuple[Problem, torch.dtype]:
    """A problem, read once for all of its cells that this process is given one after the other."""
    name, (model, args, kwargs, info, label, source) = unpacked(content.content)
    dtype, before = getattr(torch, name), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        problem = Problem(model, *args, **kwargs)
    except Exception as error:
        raise Unfit(f"{type(error).__name__}: {error}") from None
    finally:
        torch.set_default_dtype(before)
    return problem.replace(info=info).renamed(label, source=source), dtype


def execute(problem: Problem, method: Method, cell: Mapping[str, Any], keep: bool) -> Reply:
    """Runs a cell here. What stops it is part of the record.

    Args:
        problem: the problem.
        method: what to do with it.
        cell: labels, seed and key.
        keep: whether the posterior itself is wanted, not only what is said about it.

    Raises:
        KeyboardInterrupt: if the method was interrupted and made a result of that.
    """
    record: Record = {**cell, "kind": method.kind, "process": os.getpid(), "host": socket.gethostname(), "warnings": []}
    files: dict[str, bytes] = {}
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = method.run(problem, int(cell["seed"]))
            data = tree(result, "what the method returned")
            if any(
                data[group].attrs.get("interrupted")
                for group in ("optimization", "sample_stats")
                if group in data.children
            ):
                raise KeyboardInterrupt
            record |= {"status": "done", **_figures(result), "moments": _moments(data)}
            record["seconds"] = time.perf_counter() - started
            if keep and isinstance(result, Posterior):
                files = _saved(result)
        except (Exception, SystemExit) as error:  # whatever stops one cell is what the table says of it
            record |= failed(cell, f"{type(error).__name__}: {error}", traceback.format_exc())
            record["seconds"] = time.perf_counter() - started
    record["warnings"] = list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, PyrolvmWarning)))
    return record, files


def failed(cell: Mapping[str, object], why: str, trace: str = "", *, status: str = "failed") -> Record:
    """The record of a cell that gave nothing."""
    return {**cell, "status": status, "error": why[:4000], "traceback": trace[-20_000:]}


def _figures(result: object) -> Record:
    """What is said about a posterior."""
    verdict = getattr(result, "verdict", None)
    found: Record = {"verdict": None if verdict is None else str(verdict.status)}
    if verdict is not None:
        figures = verdict.figures
        found["reasons"] = [reason.text for reason in verdict.reasons if reason.status != "trusted"]
        ess = [figures[name] for name in ("ess_bulk", "ess_tail") if name in figures]
        found |= {"rhat": _number(figures.get("rhat")), "ess": _number(min(ess)) if ess else None}
    if isinstance(result, Fit):
        found |= {"elbo": _number(result.elbo), "elbo_error": _number(result.elbo_error), "khat": _number(result.khat)}
        found |= {"converged": result.converged, "steps": len(result.losses)}
    if hasattr(result, "divergences"):
        found["divergences"] = int(result.divergences)
    evidence = getattr(result, "evidence", None)
    if evidence is not None:
        found["evidence"] = _number(evidence.value)
    if isinstance(result, Posterior):
        found |= {"engine": result.engine, "phases": {name: float(value) for name, value in result.seconds.items()}}
    return found


def _moments(data: Any) -> dict[str, list[object]]:
    """Means and sds of the first scalars, by label."""
    found: dict[str, list[object]] = {"quantity": [], "mean": [], "sd": []}
    for block in blocks(data):
        left = SCALARS - len(found["quantity"])
        if left <= 0:
            break
        draws = block.draws[:, :, :left].astype(np.float64)
        with np.errstate(all="ignore"):
            mean, sd = draws.mean(axis=(0, 1)), draws.std(axis=(0, 1), ddof=1)
        found["quantity"] += block.labels[:left]
        found["mean"] += [_number(value) for value in mean]
        found["sd"] += [_number(value) for value in sd]
    return found


def _saved(result: Posterior) -> dict[str, bytes]:
    """The files of a saved posterior, for whoever writes them where they belong."""
    return bundle(result)


def _number(value: Any) -> float | None:
    """A number that JSON has: not NaN, and no infinity."""
    return None if value is None or not np.isfinite(value) else float(value)
