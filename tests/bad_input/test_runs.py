"""Mistakes about runs: names that lead elsewhere, folders that hold a run already, processes that were forked."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import pyrolvm as lvm
from pyrolvm._cli import main


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bad_input_runs", Path(__file__).with_name("table.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


table = _load()
SHORT: dict[str, Any] = {"max_steps": 5, "draws": 20, "progress": False}
FEW: dict[str, Any] = {"chains": 2, "warmup": 5, "draws": 5, "progress": False}


# --- B16: CUDA and fork -----------------------------------------------------------------------------------------------


@pytest.mark.bad_input("B16")
def test_a_process_forked_after_cuda_is_told_so(monkeypatch: pytest.MonkeyPatch, record_property: Any) -> None:
    """torch sees a device there and cannot use it, and says so in the middle of the first step."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    steps = table.Steps()
    with pytest.raises(lvm.ArgumentError, match=r"device 'cuda' .*forked.*Fix: .*spawn") as caught:
        steps.fit(table._line(), device="cuda")
    assert steps.taken == 0
    record_property("evidence", str(caught.value))


@pytest.mark.slow
@pytest.mark.bad_input("B16")
def test_nothing_forks(record_property: Any) -> None:
    """Chains run in this process, and workers of sweeps and calibrations are fresh interpreters."""
    forks: list[int] = []
    counting = True
    os.register_at_fork(before=lambda: forks.append(os.getpid()) if counting else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jax does not like forks
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(forks) == 1, "the counter sees forks"
    lvm.nuts(table._line(), **FEW)
    table.Steps().fit(table._line())
    lvm.sweep(table._line(), "mean_field", 1, backend="local", jobs=1, max_steps=5, draws=20, progress=False)
    counting = False
    assert len(forks) == 1
    record_property("evidence", "0 forks during nuts with 2 chains, fit, and a sweep with a worker process")


# --- B28, B29: where runs are kept --------------------------------------------------------------------------------------


@pytest.mark.bad_input("B28")
@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "runs/..", "runs/.hidden", "runs/a b", "runs/" + "x" * 101, "runs/a\nb"]
)
@pytest.mark.parametrize("command", ["fit", "nuts", "sweep", "calibrate"])
def test_a_run_name_that_leads_elsewhere_is_refused(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, record_property: Any
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([command, "eight_schools", "--out", name]) == 2
    said = capsys.readouterr().err
    assert "is no place for a run" in said and repr(name) in said and "Fix: " in said
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]
    record_property("evidence", said.strip())


RUNS: dict[str, Callable[..., Any]] = {
    "fit": lambda out, **more: lvm.fit(table._line(), out=out, **SHORT, **more),
    "nuts": lambda out, **more: lvm.nuts(table._line(), out=out, **FEW, **more),
    "infer": lambda out, **more: lvm.infer(table._line(), methods=["laplace"], out=out, progress=False, **more),
    "sweep": lambda out, **more: lvm.sweep(table._line(), "mean_field", 1, backend="here", out=out, **SHORT, **more),
}


@pytest.mark.bad_input("B29")
@pytest.mark.parametrize("call", RUNS)
def test_a_run_that_is_there_is_not_replaced(call: str, tmp_path: Path, record_property: Any) -> None:
    out = tmp_path / "run"
    RUNS[call](out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(lvm.StoreError, match=r"holds a (result|sweep) already\. Fix: pass resume=True") as caught:
        RUNS[call](out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    record_property("evidence", str(caught.value).replace(str(tmp_path), "runs"))
