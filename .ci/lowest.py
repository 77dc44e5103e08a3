"""Prints the lowest release that pyproject.toml allows of each package, as pip wants it: ``make test-lowest``."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("kernels", "compress", "formula")
"""The extras that are tried with it: those of engines, not of places to write to."""


def lowest(lines: list[str]) -> list[str]:
    """``name==bound`` of each requirement that holds on this Python; one without a lower bound as it is."""
    from packaging.requirements import Requirement

    found = []
    for line in lines:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        bound = re.search(r">=\s*([\w.]+)", str(wanted.specifier))
        extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
        found.append(f"{wanted.name}{extras}" + (f"=={bound[1]}" if bound else str(wanted.specifier)))
    return found


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    sys.stdout.write("\n".join([*lowest(wanted), "pytest", "pytest-xdist"]) + "\n")
