"""Builds what is released, checks it, and runs the example of the README in an empty environment of each Python: ``make dist``.

Nothing is pinned there: what pip chooses today is what a stranger gets. Prints a table, writes ``dist/checked.json`` and fails when any
step does.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ("torch", "jax", "numpyro", "nutpie", "arviz", "numpy", "xarray")
"""The packages whose versions the table names."""

EXAMPLE = """
import json, sys, time
from importlib.metadata import version
text = open(sys.argv[1], encoding="utf-8").read().split("```python\\n")
scope = {"__name__": "readme"}
started, cpu = time.perf_counter(), time.process_time()
for block in text[1:3]:
    exec(block.split("```")[0], scope)
made = {name: str(scope[name].verdict.status) for name in ("best", "mine", "full", "nuts")}
import pyrolvm
print("RESULT " + json.dumps({
    "from": pyrolvm.__file__,
    "versions": {name: version(name) for name in json.loads(sys.argv[2])},
    "verdicts": made,
    "example_seconds": time.perf_counter() - started,
    "example_cpu_seconds": time.process_time() - cpu,
}))
"""


def main() -> int:
    """Builds, checks, tries; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pythons", nargs="*", help="interpreters to try (default: 3.11, 3.12 and 3.13, as far as they are here)"
    )
    parser.add_argument("--pip-args", default="", help="further words for pip install")
    parser.add_argument("--no-build", action="store_true", help="try the wheel that lies in dist/")
    given = parser.parse_args()
    out = ROOT / "dist"
    if not given.no_build:
        shutil.rmtree(out, ignore_errors=True)
        _run([sys.executable, "-m", "build", "--outdir", out, ROOT])
    files = [path for path in sorted(out.iterdir()) if path.suffix in (".whl", ".gz")]
    _run([sys.executable, "-m", "twine", "check", "--strict", *files])
    (wheel,) = (path for path in files if path.suffix == ".whl")
    rows = [tried(python, wheel, shlex.split(given.pip_args)) for python in given.pythons or _found()]
    (out / "checked.json").write_text(
        json.dumps({"files": {f.name: f.stat().st_size for f in files}, "rows": rows}, indent=1) + "\n"
    )
    for row in rows:
        print(json.dumps(row, indent=1))
    failed = [row["python"] for row in rows if row["error"]]
    print(f"{len(rows) - len(failed)} passed, {len(failed)} failed")
    return int(bool(failed) or not rows)


def tried(python: str, wheel: Path, words: Sequence[str]) -> dict[str, object]:
    """One row: an empty environment, the wheel with whatever pip chooses, ``pyrolvm doctor``, and the example."""
    row: dict[str, object] = {"python": python, "error": None}
    with tempfile.TemporaryDirectory(prefix="pyrolvm-dist-") as folder:
        place = Path(folder)
        try:
            _run([python, "-m", "venv", place / "env"])
            own = place / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
            started = time.perf_counter()
            _run([own, "-m", "pip", "install", "--quiet", *words, wheel], cwd=place)
            row["install_seconds"] = round(time.perf_counter() - started, 1)
            row["python"] = _run([own, "-c", "import platform; print(platform.python_version())"]).strip()
            _run([own, "-m", "pyrolvm", "doctor"], cwd=place)
            code = place / "example.py"
            code.write_text(EXAMPLE, encoding="utf-8")
            said = _run([own, code, ROOT / "README.md", json.dumps(SHOWN)], cwd=place)
            (line,) = (line for line in said.splitlines() if line.startswith("RESULT "))
            row.update(json.loads(line.removeprefix("RESULT ")))
            if not str(row.pop("from")).startswith(str(place)):
                raise RuntimeError("the example ran on another pyrolvm than the wheel's")
        except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
            row["error"] = str(error)
    return row


def _found() -> list[str]:
    """Python 3.11, 3.12 and 3.13, on the path or kept by pyenv."""
    found = []
    for version in ("3.11", "3.12", "3.13"):
        path = shutil.which(f"python{version}")
        if path is None or subprocess.run([path, "--version"], capture_output=True, check=False).returncode:
            root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
            kept = sorted(root.glob(f"{version}.*/bin/python"))
            path = str(kept[-1]) if kept else None
        if path:
            found.append(path)
        else:
            print(f"no Python {version} here: it is left out", file=sys.stderr)
    return found


def _run(command: Sequence[object], cwd: Path | None = None) -> str:
    """What a command prints; without what would lead it back to this checkout."""
    drop = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME", "PIP_CONSTRAINT")
    env = {name: value for name, value in os.environ.items() if name not in drop}
    env["MPLBACKEND"] = "agg"
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
        done.check_returncode()
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
