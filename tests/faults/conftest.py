"""A process whose forks are killed, and what a run is that nothing happened to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyrolvm as lvm

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def ask() -> Iterator[Ask]:
    """Runs a job of ``server.py`` in a process of its own, and returns how that ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdin is not None and process.stdout is not None

    def call(do: str, **job: Any) -> dict[str, Any]:
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in job.items()}
        process.stdin.write(json.dumps({"do": do, **plain}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())  # type: ignore[no-any-return]

    yield call
    process.stdin.close()
    process.stdout.close()
    process.wait(60)


@pytest.fixture(scope="session")
def whole(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """The result of a job that runs to its end, each made once."""
    made: dict[str, Any] = {}

    def result(do: str, **job: Any) -> Any:
        key = json.dumps([do, job])
        if key not in made:
            out = tmp_path_factory.mktemp("whole") / "run"
            said = ask(do, out=out, **job)
            assert said["code"] == 0 and "error" not in said, said
            made[key] = lvm.load(out)
        return made[key]

    return result


def same(one: Any, other: Any) -> bool:
    """Whether two results have the same numbers to the last bit."""
    draws = one.data["posterior"].equals(other.data["posterior"])
    stats = one.data["sample_stats"].equals(other.data["sample_stats"])
    params = one.params.keys() == other.params.keys()
    params = params and all(bool((value == other.params[name]).all()) for name, value in one.params.items())
    losses = not isinstance(one, lvm.Fit) or np.array_equal(one.losses, other.losses)
    return bool(draws and stats and params and losses)
