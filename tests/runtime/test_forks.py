"""A forked child has one thread and none of its parent's others: it works without them, or says at once what does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"), pytest.mark.slow]


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("forking.py")],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("what", ["c after c", "auto after jax"])
def test_a_child_fits_although_torch_and_jax_ran_in_threads(said: dict[str, str], what: str) -> None:
    assert said[what].startswith("c: "), said[what]


def test_a_child_samples_although_torch_ran_in_threads(said: dict[str, str]) -> None:
    assert said["nuts after torch"] in ("c", "jax", "pyro")


def test_a_fit_on_jax_in_a_child_runs_on_c_and_says_why(said: dict[str, str]) -> None:
    assert said["jax after jax"].startswith("c: engine 'jax' cannot run this fit"), said["jax after jax"]
    assert "forked from one that had used it" in said["jax after jax"]


@pytest.mark.parametrize("what", ["nuts on jax after jax", "jax in a grandchild"])
def test_chains_on_jax_in_a_child_are_refused_at_once(said: dict[str, str], what: str) -> None:
    assert said[what].startswith("CaptureError: "), said[what]
    assert "forked" in said[what] and "Fix: " in said[what]


def test_a_fork_in_the_middle_of_another_threads_fit_is_refused_at_once(said: dict[str, str]) -> None:
    assert said["pyro in the middle"].startswith("FitError: this process was forked while another thread")
    assert "Fix: " in said["pyro in the middle"]


def test_the_parent_goes_on_using_jax(said: dict[str, str]) -> None:
    assert said["jax in the parent"].startswith("3")
