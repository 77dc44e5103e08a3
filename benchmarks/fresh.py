"""One method in a fresh process with empty compile caches, so that nothing that ran before flatters it.

The parent writes a job and arrays into a temporary folder and starts ``python fresh.py FOLDER``, in any interpreter; the child
calls a function of ``methods/`` and writes its result beside them. JSON and npz only.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import versions

Arrays = dict[str, np.ndarray]

CACHES = {
    "XDG_CACHE_HOME": "cache",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "NUMBA_CACHE_DIR": "numba",
    "JAX_COMPILATION_CACHE_DIR": "",
    "PYTENSOR_FLAGS": "base_compiledir={}/pytensor",
}
"""Where libraries keep what they compiled: each run gets empty folders. An empty value removes the variable."""

MISSING = "not installed"


def run(
    function: str, job: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, python: str, timeout: float
) -> tuple[dict[str, Any], Arrays]:
    """Runs ``methods.MODULE.FUNCTION(job, arrays)`` in a fresh process.

    Args:
        function: ``"module.function"`` in ``methods/``.
        job: its settings.
        arrays: its data.
        python: the interpreter.
        timeout: seconds after which it is given up.

    Returns:
        Its result, with ``status`` (``"ok"``, ``"not installed"`` or what went wrong), and its arrays.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps({"function": function, **job}), encoding="utf-8")
        np.savez(folder / "arrays.npz", **arrays)
        process = subprocess.Popen(
            [python, "-W", "ignore", __file__, name], env=_environment(folder), cwd=folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            _, complaint = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _end(process)
            return {"status": f"gave up after {timeout:.0f} s"}, {}
        except BaseException:
            _end(process)
            raise
        result = folder / "result.json"
        if not result.exists():
            lines = complaint.strip().splitlines()
            return {"status": f"failed: ended with code {process.returncode}: {lines[-1] if lines else ''}"[:400]}, {}
        found = json.loads(result.read_text(encoding="utf-8"))
        out = folder / "out.npz"
        if not out.exists():
            return found, {}
        with np.load(out, allow_pickle=False) as opened:
            return found, dict(opened)


def _environment(folder: Path) -> dict[str, str]:
    environment = dict(os.environ)
    for variable, value in CACHES.items():
        environment.pop(variable, None)
        if value:
            environment[variable] = value.format(folder) if "{}" in value else str(folder / value)
    return environment


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the process and what it started, which is a group of its own."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, 9)
    else:
        process.kill()
    process.wait()


def resident() -> float:
    """The memory that this process holds now, in MB; NaN where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _child(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    with np.load(folder / "arrays.npz", allow_pickle=False) as opened:
        arrays = dict(opened)
    module, _, function = job["function"].rpartition(".")
    started = time.perf_counter()
    out: Arrays = {}
    try:
        found, out = getattr(importlib.import_module(f"methods.{module}"), function)(job, arrays)
        found = {"status": "ok", **found}
    except ModuleNotFoundError as error:
        found = {"status": MISSING, "missing": error.name}
    except Exception as error:  # a failure is a row
        first = (str(error).strip() or "no message").splitlines()[0]
        found = {
            "status": f"failed: {type(error).__name__}: {first}"[:400],
            "traceback": traceback.format_exc()[-4000:],
        }
    found["seconds_in_all"] = time.perf_counter() - started
    found["resident_mb"] = resident()
    found["versions"] = versions()
    np.savez(folder / "out.npz", **out)
    (folder / "result.json").write_text(json.dumps(found, default=float), encoding="utf-8")


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
