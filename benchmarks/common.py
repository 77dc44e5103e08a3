"""What all benchmarks share: where they run, medians, tables, JSON."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PACKAGES = (
    "pyrolvm", "torch", "pyro-ppl", "jax", "jaxlib", "numpyro", "nutpie", "pymc", "pytensor", "numba", "pystan", "httpstan",
    "numpy", "scikit-learn", "arviz-stats", "joblib", "distributed", "ray",
)  # fmt: skip

Row = dict[str, Any]


def hardware() -> dict[str, Any]:
    """The processor, how many of its cores may be used, and the memory."""
    model, memory = platform.processor(), None
    if platform.system() == "Linux":
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        model = names[0] if names else model
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": model, "cores": cores, "memory_gib": memory, "system": platform.system()}


def load() -> float | None:
    """How many processes have wanted a core over the last minute: above 0.3 at the start, timings are not to be trusted."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def revision() -> str | None:
    """The commit that is measured, with a mark where files differ from it; None outside a checkout."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """The versions of what is installed for this interpreter."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def parser(doc: str | None, *, repetitions: int = 3) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="a smoke run: small, once, not a measurement")
    made.add_argument(
        "--repetitions", type=int, default=repetitions, help="interleaved repetitions, of which medians are taken"
    )
    made.add_argument("--seed", type=int, default=0, help="seeds data and methods; repetition r runs with seed + r")
    made.add_argument("--timeout", type=float, default=1800.0, help="seconds after which one run is given up")
    made.add_argument("--method", action="append", help="only these methods")
    made.add_argument("--out", type=Path, help="the JSON file; by default benchmarks/results/NAME.json")
    return made


def chosen(available: Sequence[str], asked: Sequence[str] | None) -> list[str]:
    """The methods to run.

    Raises:
        SystemExit: if one is not known.
    """
    unknown = set(asked or ()) - set(available)
    if unknown:
        raise SystemExit(f"there is no method {sorted(unknown)[0]!r}. Fix: use one of {', '.join(available)}.")
    return [name for name in available if not asked or name in asked]


def timed(method: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, float]:
    """What a method gives, and the processor seconds it took: unlike wall time, blind to what else is running."""
    started = time.process_time()
    return method(*args, **options), time.process_time() - started


def median(values: Iterable[Any]) -> float | None:
    """The median of those that are finite numbers; None if none is."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    return statistics.median(numbers) if numbers else None


def ratio(a: Any, b: Any) -> float | None:
    """``a / b``, or None where either is missing."""
    return a / b if a is not None and b else None


def show(value: Any) -> str:
    """A cell: numbers with three significant digits."""
    if value is None:
        return ""
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows as a Markdown table with aligned columns.

    Args:
        rows: the rows.
        columns: the title of each key that is shown.
    """
    cells = [list(columns.values()), *([show(row.get(key)) for key in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def report(
    name: str, args: argparse.Namespace, found: Mapping[str, Any], *, peers: Mapping[str, str] | None = None
) -> Path:
    """Writes one JSON: what was found, and by what, where and when. Programs write after each problem, so that nothing is lost."""
    path: Path = args.out or RESULTS / (f"{name}_quick.json" if args.quick else f"{name}.json")
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    for hidden in ("out", "peers_python", "fits"):
        settings.pop(hidden, None)
    content = {
        "benchmark": name,
        "command": _command(),
        "smoke_run": args.quick,
        "date": time.strftime("%Y-%m-%d"),
        "revision": revision(),
        "hardware": hardware(),
        "load_at_end": load(),
        "versions": versions(),
        "versions_of_peers": peers,
        "settings": settings,
        **found,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(content), indent=1) + "\n", encoding="utf-8")
    return path


def _command() -> str:
    """The command, without the paths of this machine."""
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}"]
    words += ["PATH" if word.startswith(("/", "~")) else word for word in sys.argv[1:]]
    return shlex.join(words)


def _plain(value: Any) -> Any:
    """Without NaN and infinities, which JSON does not have, and without digits that mean nothing."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
