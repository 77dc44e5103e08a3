"""Checks that all twins of a problem have one log joint density; nothing is measured where they do not.

    python benchmarks/twins.py [--peers-python PATH] [PROBLEM ...]

evaluates Pyro, NumPyro, PyMC and Stan at the same points in double precision (Stan up to a constant).
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import fresh
import numpy as np
from problems import PROBLEMS, Arrays, Problem, find

TOLERANCE = 1e-8
"""Allowed difference of log densities, relative to their size."""


class DifferentDensity(SystemExit):
    """Two twins are not the same model."""


def points(problem: Problem, seed: int, *, timeout: float = 600.0) -> tuple[Arrays, list[float]]:
    """Data and points for every twin, and Pyro's log density there; refuses if NumPyro's differs.

    Raises:
        DifferentDensity: if the twins differ, or cannot be evaluated.
    """
    arrays = {f"data.{name}": value for name, value in problem.data(seed).items()}
    job = {"problem": problem.name, "seed": seed, "points": 3}
    found, where = fresh.run("density.pyro_density", job, arrays, python=sys.executable, timeout=timeout)
    if found["status"] != "ok":
        raise DifferentDensity(f"{problem.name}: the Pyro model cannot be evaluated: {found['status']}")
    arrays |= where
    other, _ = fresh.run("density.numpyro_density", job, arrays, python=sys.executable, timeout=timeout)
    if other["status"] != "ok":
        raise DifferentDensity(f"{problem.name}: the NumPyro twin cannot be evaluated: {other['status']}")
    why = different(other["densities"], found["densities"], constant=False)
    if why:
        raise DifferentDensity(f"{problem.name}: the NumPyro twin is another model than Pyro's: {why}")
    return arrays, found["densities"]


def different(one: list[float], other: list[float], *, constant: bool) -> str:
    """How two lists of log densities differ; empty if they do not.

    Args:
        one: log densities at the points.
        other: those they should equal.
        constant: whether they may differ by a constant.
    """
    a, b = np.asarray(one), np.asarray(other)
    gap = (a - a[0]) - (b - b[0]) if constant else a - b
    if np.abs(gap).max() <= TOLERANCE * (1 + np.abs(b).max()) * 10:
        return ""
    return f"log densities {np.round(a, 6).tolist()}, expected {np.round(b, 6).tolist()}{' up to a constant' if constant else ''}"


def main() -> None:
    """Checks all twins of the problems asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", nargs="*", default=list(PROBLEMS))
    parser.add_argument(
        "--peers-python", default=sys.executable, help="an interpreter that has PyMC, nutpie and pystan"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    bad = False
    for name in args.problem:
        arrays, expected = points(find(name), args.seed)
        states: dict[str, Any] = {"numpyro": "same"}
        for method, constant in (("pymc", False), ("stan", True)):
            job = {"problem": name, "seed": args.seed}
            found, _ = fresh.run(f"peers.{method}_density", job, arrays, python=args.peers_python, timeout=600)
            states[method] = found["status"]
            if found["status"] == "ok":
                why = different(found["densities"], expected, constant=constant)
                states[method] = f"DIFFERENT: {why}" if why else "same"
            bad |= states[method] not in ("same", fresh.MISSING)
        print(f"{name:24}", "  ".join(f"{method}: {state}" for method, state in states.items()), flush=True)
    sys.exit(int(bad))


if __name__ == "__main__":
    main()
