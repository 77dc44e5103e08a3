"""F1 and F2: processes that are killed by SIGKILL, and what is there afterwards."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._runs.checkpoints import newest
from tests.faults.conftest import same

Ask = Callable[..., dict[str, Any]]
slow = pytest.mark.slow


@pytest.mark.fault("F1")
@pytest.mark.parametrize(
    ("engine", "kills"),
    [("c", 1), *(pytest.param(engine, 20, marks=slow) for engine in ("c", "jax", "torch", "pyro"))],
)
def test_a_fit_that_is_killed_goes_on_to_the_last_bit(
    ask: Ask, whole: Any, tmp_path: Path, engine: str, kills: int, record_property: Any
) -> None:
    expected = whole("fit", engine=engine)
    steps = sorted(random.Random(engine).sample(range(20, 290), kills))
    job = {"engine": engine, "out": tmp_path / "run", "resume": True, "checkpoint_every": 0}
    for step in steps:
        said = ask("fit", stop=step, **job)
        assert said["code"] == -9, said
        with pytest.raises(lvm.StoreError, match=r"checkpoints of a run of 'line' that did not end.*resume=True"):
            lvm.load(tmp_path / "run")
    said = ask("fit", **job)
    assert said.get("result", {}).get("engine") == engine, said
    assert same(lvm.load(tmp_path / "run"), expected)
    assert not list((tmp_path / "run").rglob("checkpoint*"))
    record_property("evidence", f"engine {engine}: SIGKILL at steps {', '.join(map(str, steps))}; bit-identical")


KERNELS = {
    "pyro": {"engine": "pyro", "warmup": 40, "draws": 40},
    "numpyro": {"engine": "jax", "kernel": "numpyro"},
    "nutpie": {"engine": "c", "kernel": "nutpie", "draws": 2000},
}


@pytest.mark.fault("F1")
@pytest.mark.parametrize(
    ("kernel", "kills"),
    [pytest.param(kernel, 6, marks=slow) for kernel in KERNELS],
)
def test_chains_that_are_killed_go_on_to_the_last_bit(
    ask: Ask, whole: Any, tmp_path: Path, kernel: str, kills: int, record_property: Any
) -> None:
    options = KERNELS[kernel]
    expected = whole("nuts", **options)
    total = 2 * (options.get("warmup", 60) + options.get("draws", 200))  # type: ignore[operator]
    at = sorted(random.Random(kernel).sample(range(total // 10, 9 * total // 10), kills))
    hit = []
    for done in at:
        said = ask("nuts", stop=done, out=tmp_path / "run", resume=True, checkpoint_every=0, **options)
        if said["code"] == 0:  # the last transitions, taken by one call, went past it
            break
        assert said["code"] == -9, said
        hit.append(done)
    assert len(hit) >= kills - 1
    said = ask("nuts", out=tmp_path / "run", resume=True, **options)
    assert said.get("result", {}).get("kernel") == kernel, said
    assert same(lvm.load(tmp_path / "run"), expected)
    record_property("evidence", f"kernel {kernel}: SIGKILL at transitions {', '.join(map(str, hit))}; bit-identical")


@pytest.mark.fault("F2")
@pytest.mark.parametrize("kills", [2, pytest.param(100, marks=slow)])
def test_a_result_whose_saving_is_killed_is_the_old_one_or_the_new_one(
    ask: Ask, whole: Any, tmp_path: Path, kills: int, record_property: Any
) -> None:
    made = whole("fit", engine="pyro")
    began = time.perf_counter()
    made.save(tmp_path / "source")
    took = time.perf_counter() - began
    made.seed = 0
    made.save(tmp_path / "run")
    chance, seeds = random.Random(2), [0]
    for n in range(kills):
        took *= 2 if n and seeds[-1] == seeds[-2] else 1  # a busy machine needs longer
        job = {"source": tmp_path / "source", "out": tmp_path / "run", "ready": tmp_path / f"ready-{n}"}
        said = ask("saves", first=seeds[-1] + 1, kill_after=chance.uniform(0.0, 6 * took), **job)
        assert said["code"] == -9, said
        found = lvm.load(tmp_path / "run")
        assert found.seed >= seeds[-1] and same(found, made)
        seeds.append(found.seed)
    assert seeds[-1] >= kills // 2  # it was killed while it saved
    record_property("evidence", f"{kills} kills in {seeds[-1]} saves of a result; each loads")


@pytest.mark.fault("F2")
@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=slow)])
def test_checkpoints_whose_writing_is_killed_are_whole(
    ask: Ask, tmp_path: Path, kills: int, record_property: Any, recwarn: Any
) -> None:
    chance, last, longest = random.Random(3), 0, 0.1
    for n in range(kills):
        job = {"out": tmp_path / "run", "ready": tmp_path / f"ready-{n}"}
        said = ask("checkpoints", kill_after=chance.uniform(0.0, longest), **job)
        assert said["code"] == -9 and not said.get("error"), said
        begun = runs.unfinished(tmp_path / "run")
        found = None if begun is None else newest(begun.folder)
        if found is None or found.state["n"] == last:
            longest *= 2  # a busy machine needs longer
        if found is None:
            continue
        assert found.state["n"] >= last
        last = found.state["n"]
        assert torch.equal(found.state["tensor"], torch.full((1000,), float(last)))
        assert found.chunks == list(range(1, last + 1))
    assert last > kills // 2 and not recwarn.list
    record_property("evidence", f"{kills} kills in {last} checkpoints; the newest or the one before loads")
