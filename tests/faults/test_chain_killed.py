"""F7: what becomes of chains when a process is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm


def model(y: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


PROBLEM = lvm.Problem(model, torch.tensor([0.3, 1.1, -0.4, 0.9]))


def _children() -> set[str]:
    """The processes that this one has begun, of all its threads."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        found |= set((task / "children").read_text().split())
    return found


@pytest.mark.fault("F7")
@pytest.mark.parametrize("engine", ["jax", "pyro"])
def test_chains_have_no_worker_that_could_be_killed(engine: str, record_property: Any) -> None:
    """All chains of ``lvm.nuts`` run in the process that called it: none is waited for that is gone."""
    before, seen = _children(), set()

    def look(done: int, total: int, text: str) -> None:
        seen.update(_children() - before)

    found = lvm.nuts(PROBLEM, chains=4, warmup=20, draws=20, engine=engine, progress=look)
    assert found.data["posterior"].sizes["chain"] == 4
    assert not seen
    record_property("evidence", f"4 chains on engine {engine}: 0 processes begun, so no worker to lose or to wait for")


@pytest.mark.slow
@pytest.mark.fault("F7")
def test_of_chains_in_processes_of_their_own_a_kill_costs_one(tmp_path: Path, record_property: Any) -> None:
    """Chains as cells of a sweep: one is killed in the middle, which is said at once, and the others are kept."""
    marks, heard = tmp_path / "marks", []
    marks.mkdir()

    def chain(problem: lvm.Problem, seed: int) -> lvm.Chains:
        (marks / str(seed)).write_text(str(os.getpid()))
        draws = 2_000_000 if seed == 1 else 200  # the one to be killed would not end by itself
        return lvm.nuts(problem, chains=1, warmup=50, draws=draws, seed=seed, engine="pyro", progress=False)

    def kill() -> None:
        while not (marks / "1").exists() or not (marks / "1").read_text():
            time.sleep(0.01)
        time.sleep(1.0)
        heard.append(time.monotonic())
        os.kill(int((marks / "1").read_text()), signal.SIGKILL)

    def look(done: int, total: int, text: str) -> None:
        if "died" in text:
            heard.append(time.monotonic())

    killer = threading.Thread(target=kill)
    killer.start()
    found = lvm.sweep(PROBLEM, {"chain": chain}, [0, 1, 2], jobs=1, retries=0, out=tmp_path / "run", progress=look)
    killer.join()
    seconds = heard[1] - heard[0]
    assert found.counts == {"done": 2, "died": 1}
    error = found.table.set_index("seed").loc[1, "error"]
    assert "SIGKILL" in error
    for seed in (0, 2):
        assert found.posterior(seed=seed).data["posterior"].sizes["draw"] == 200
    record_property(
        "evidence", f"one of 3 chains in processes of their own killed: {error!r} after {seconds:.1f} s, 2 others kept"
    )
