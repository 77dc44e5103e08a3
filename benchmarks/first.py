"""The README's example in fresh processes: processor seconds by phase, with nothing kept and with what a run before kept.

    python benchmarks/first.py
    python benchmarks/first.py --before ../pyrolvm-0.2.0

Each repetition is a process with an empty folder for compiled programs, and then another with what the first left there. A phase is
a statement of the example; seconds are those of the processor, user and system, compilers that it starts included, so that what else
runs on the machine counts little. ``--before`` measures another checkout in turn with this one.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

COLUMNS = {"phase": "phase", "first": "first run, CPU s", "second": "second run"}
BEFORE = {"before_first": "before: first run", "before_second": "second run "}

README = common.HERE.parent / "README.md"
PHASES = {
    "import": "import of Pyro, torch and pyrolvm",
    "lvm.Problem": "`lvm.Problem`",
    "lvm.infer": "`lvm.infer(problem)`",
    "guide)": "`lvm.fit(problem, guide)`",
    "full_rank": '`lvm.fit(problem, "full_rank")`',
    "lvm.nuts": "`lvm.nuts(problem)`",
    "lvm.compare": "`lvm.compare` of three",
    "report.plot": "`report.plot(path=...)`",
    "report.to_html": "`report.to_html(...)`",
}
"""What a statement that belongs to a phase has in it, and what the table calls the phase."""


def phase(statement: str, last: str) -> str:
    """The phase of a statement: what it names, or that of the one before."""
    return next((name for word, name in PHASES.items() if word in statement), last)


def blocks() -> list[str]:
    """The two parts of the example: the model and its guide, and what is done with them."""
    return [part.split("```")[0] for part in README.read_text(encoding="utf-8").split("```python\n")[1:3]]


def used() -> float:
    """Processor seconds of this process and of those that it waited for."""
    taken = os.times()
    return taken.user + taken.system + taken.children_user + taken.children_system


def child() -> None:
    """Runs the example in the current folder and prints seconds by phase."""
    seconds: dict[str, float] = {}
    scope: dict[str, Any] = {"__name__": "readme"}
    last, before = next(iter(PHASES.values())), 0.0
    for block in blocks():
        for node in ast.parse(block).body:
            if not isinstance(node, ast.FunctionDef):
                last = phase(ast.unparse(node), last)
            exec(compile(ast.Module([node], []), "README.md", "exec"), scope)
            now = used()
            seconds[last] = seconds.get(last, 0.0) + now - before
            before = now
    verdicts = {name: scope[name].verdict.status for name in ("best", "mine", "full", "nuts")}
    print("RESULT " + json.dumps({"seconds": seconds, "verdicts": verdicts}))


def run(checkout: Path, cache: Path) -> dict[str, Any]:
    """One process with the package of a checkout and this folder for what is compiled."""
    path = os.pathsep.join(str(checkout / part) for part in (".", "models", "guides"))
    env = {**os.environ, "PYTHONPATH": path, "PYROLVM_CACHE": str(cache), "MPLBACKEND": "agg"}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--child"]
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.rpartition("RESULT ")[2])
    return found


def both(checkout: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A first run, and a second that finds what it kept."""
    with tempfile.TemporaryDirectory(prefix="benchmark-cache-") as folder:
        cache = Path(folder, "kept")
        return run(checkout, cache), run(checkout, cache)


def rows(found: dict[str, list[dict[str, Any]]]) -> list[common.Row]:
    """Medians by phase and run, their sums, and the second run as a share of the first."""
    names = list(PHASES.values())
    table: list[common.Row] = [
        {"phase": name} | {key: common.median(one["seconds"][name] for one in runs) for key, runs in found.items()}
        for name in names
    ]
    total: common.Row = {"phase": "all"} | {
        key: common.median(sum(one["seconds"].values()) for one in runs) for key, runs in found.items()
    }
    shares = {
        second: f"{total[second] / total[second.replace('second', 'first')]:.0%} of the first"
        for second in found
        if second.endswith("second")
    }
    return [*table, total, {"phase": ""} | shares]


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    parser = common.parser(__doc__)
    parser.add_argument(
        "--child", action="store_true", help="run the example here, as the processes that are measured do"
    )
    parser.add_argument("--before", type=Path, help="another checkout, measured in turn")
    given = parser.parse_args()
    if given.child:
        child()
        return
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(1 if given.quick else given.repetitions):
        for mark, checkout in (("", common.HERE.parent), ("before_", given.before)):
            if checkout is not None:
                for key, one in zip(("first", "second"), both(checkout.resolve()), strict=True):
                    found.setdefault(mark + key, []).append(one)
    table = rows(found)
    columns = COLUMNS | (BEFORE if given.before else {})
    print(common.table(table, columns))
    common.report("first", given, {"rows": table, "verdicts": found["first"][0]["verdicts"]})


if __name__ == "__main__":
    main()
