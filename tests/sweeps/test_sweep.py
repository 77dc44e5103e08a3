"""Sweeps: every cell is accounted for, kept by itself, and the same as the single call."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._check.sweep.cells import Cells
from pyrolvm._check.sweep.result import COLUMNS


def _load() -> ModuleType:
    """The models beside this file, under a name that no other process can import."""
    spec = importlib.util.spec_from_file_location("sweep_models", Path(__file__).with_name("models.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


models = _load()


def sweep(guides: Any, seeds: Any = 3, **options: Any) -> lvm.Sweep:
    return lvm.sweep(models.problem(), guides, seeds, **{"backend": "here", "progress": False, **options})


# --- the same as single calls -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> lvm.Sweep:
    """Guides, a guide function and NUTS, two seeds each, in another process."""
    return sweep(
        ["mean_field", models.by_hand, "nuts"], [0, 7], backend="local", jobs=1, out=tmp_path_factory.mktemp("s") / "both",
        max_steps=60, draws=120, settings={"nuts": {"warmup": 30, "chains": 2}},
    )  # fmt: skip


def test_cells_are_what_the_single_call_gives_bit_for_bit(both: lvm.Sweep) -> None:
    problem = models.problem()
    for method, guide in (("mean_field", "mean_field"), ("by_hand", models.by_hand)):
        for seed in (0, 7):
            single = lvm.fit(problem, guide, max_steps=60, draws=120, seed=seed, progress=False)
            swept = both.posterior("line", method, seed)
            np.testing.assert_array_equal(swept.losses, single.losses)
            np.testing.assert_array_equal(swept.data["posterior"]["w"], single.data["posterior"]["w"])
            assert all(torch.equal(swept.params[name], value) for name, value in single.params.items())
            row = both.table.set_index(["method", "seed"]).loc[(method, seed)]
            assert (row["elbo"], row["khat"]) == (single.elbo, single.khat)
            assert row["verdict"] == single.verdict.status
            assert swept.sample(5).equals(single.sample(5))
    single = lvm.nuts(problem, warmup=30, draws=120, chains=2, seed=7, progress=False)
    np.testing.assert_array_equal(
        both.posterior("line", "nuts", 7).data["posterior"]["w"], single.data["posterior"]["w"]
    )


def test_every_cell_has_a_row_and_accuracy_against_nuts(both: lvm.Sweep) -> None:
    assert both.counts == {"done": 6} and both.complete and not both.interrupted
    table = both.table
    assert list(table.columns) == list(COLUMNS)
    assert table[["method", "seed"]].values.tolist() == [
        [m, s] for m in ("mean_field", "by_hand", "nuts") for s in (0, 7)
    ]
    fits = table[table["method"] != "nuts"]
    assert fits[["elbo", "khat", "mean_diff", "sd_ratio"]].notna().all(axis=None)
    assert (fits["mean_diff"] < 2).all()
    chains = both.posterior("line", "nuts", 0).data["posterior"]["w"].values
    guide = both.posterior("line", "by_hand", 7).data["posterior"]["w"].values
    row = table[(table["method"] == "by_hand") & (table["seed"] == 7)].iloc[0]
    assert row["mean_diff"] == pytest.approx(abs(guide.mean() - chains.mean()) / chains.std(ddof=1), rel=1e-4)
    assert row["sd_ratio"] == pytest.approx(guide.std(ddof=1) / chains.std(ddof=1), rel=1e-4)
    assert np.isnan(table[table["method"] == "nuts"]["mean_diff"].iloc[0])
    assert list(both.summary["done"]) == [2, 2, 2]
    assert "6 cells" in str(both) and "<table" in both._repr_html_()


def test_it_is_loaded_as_it_was(both: lvm.Sweep) -> None:
    loaded = lvm.load(both.folder)
    assert isinstance(loaded, lvm.Sweep)
    assert loaded.table.equals(both.table)
    assert json.loads(json.dumps(loaded.as_dict(), allow_nan=False))["counts"] == {"done": 6}
    with pytest.raises(lvm.StoreError, match=r"without its problem.*Fix:"):
        loaded.posterior("line", "by_hand", 0).sample(3)


# --- cells that fail --------------------------------------------------------------------------------------------------


def test_a_failing_cell_keeps_its_error_and_harms_no_other(tmp_path: Path) -> None:
    found = sweep(models.Draws(fail=[1, 3]), 5, out=tmp_path / "s")
    assert found.counts == {"done": 3, "failed": 2} and found.complete
    assert found.failures == {"ValueError: seed 1 is not wanted": 1, "ValueError: seed 3 is not wanted": 1}
    trace = found.traceback(seed=1)
    assert "models.py" in trace and "is not wanted" in trace
    assert lvm.load(tmp_path / "s").traceback(seed=1) == trace
    with pytest.raises(lvm.StoreError, match=r"seed 3 has no posterior: it is failed.*Fix:"):
        found.posterior(seed=3)


@pytest.mark.slow
@pytest.mark.fault("F8")
def test_a_process_that_dies_costs_its_own_cell(tmp_path: Path, record_property: Any) -> None:
    """The process of seed 1 is killed while it runs; the others finish, and a rerun does seed 1 alone."""
    marks, out = tmp_path / "marks", tmp_path / "s"
    marks.mkdir()
    method = {"a": models.Draws(die=[1], once=str(marks))}
    started = time.monotonic()
    found = sweep(method, 4, backend="local", jobs=1, retries=0, out=out)
    seconds = time.monotonic() - started
    assert found.counts == {"done": 3, "died": 1} and not found.complete
    error = found.table["error"][1]
    assert error == "its worker died 1 time: exit code SIGKILL(-9)"
    again = sweep(method, 4, out=out, resume=True)
    assert again.counts == {"done": 4} and again.complete
    begun = {seed: (marks / f"begun-{seed}").read_text().count("\n") for seed in range(4)}
    assert begun == {0: 1, 1: 2, 2: 1, 3: 1}
    record_property("evidence", f"killed at cell 1 of 4: {error}; 3 others done in {seconds:.0f} s; resume ran 1 cell")


@pytest.mark.slow
def test_a_cell_is_begun_again_as_often_as_asked(tmp_path: Path) -> None:
    """Seed 1 dies once and is done the second time; seed 2 dies each time; the others never hear of it."""
    methods = {"once": models.Draws(die=[1], once=str(tmp_path)), "always": models.Draws(die=[2])}
    found = sweep(methods, 3, backend="local", jobs=2, retries=1)
    rows = found.table.set_index(["method", "seed"])
    assert found.counts == {"done": 5, "died": 1}
    assert rows.loc[("once", 1), "attempts"] == 2 and rows.loc[("once", 0), "attempts"] == 1
    assert rows.loc[("always", 2), "error"] == "its worker died 2 times: exit code SIGKILL(-9)"


def test_what_cannot_be_pickled_runs_here_and_says_so() -> None:
    with pytest.warns(lvm.PyrolvmWarning, match=r"3 cells run one after the other.*pickle.*lock.*Fix:"):
        found = sweep(models.Locked(), 3, backend="local", jobs=2)
    assert found.counts == {"done": 3}


# --- going on -----------------------------------------------------------------------------------------------------------


def _begun(folder: Path) -> int:
    return sum(path.read_text().count("\n") for path in folder.glob("begun-*"))


def test_a_rerun_does_only_what_is_missing(tmp_path: Path) -> None:
    method, out = models.Draws(fail=[2], once=str(tmp_path)), tmp_path / "s"
    first = sweep({"a": method}, 4, out=out)
    assert _begun(tmp_path) == 4
    with pytest.raises(lvm.StoreError, match=r"holds a result already\. Fix: pass resume=True"):
        sweep({"a": method}, 4, out=out)
    again = sweep({"a": method}, 4, out=out, resume=True)
    assert _begun(tmp_path) == 4 and again.table.equals(first.table)
    more = sweep({"a": method}, 6, out=out, resume=True)
    assert _begun(tmp_path) == 6 and more.counts == {"done": 5, "failed": 1}
    sweep({"a": method}, 6, out=out, resume=True, retry_failed=True)
    assert _begun(tmp_path) == 7
    assert len(lvm.load(out).table) == 6


def test_other_inputs_are_other_cells(tmp_path: Path) -> None:
    """Data, options, guide and code are each part of a cell's name."""
    out = tmp_path / "s"
    first = sweep({"a": models.Draws()}, 1, out=out)
    cells = {first.cells[0].key}
    for problem, method in (
        (lvm.Problem(models.line, models.X, models.Y + 1), models.Draws()),
        (models.problem(), models.Draws(sleep=1e-6)),
        (lvm.Problem(lambda x, y: models.line(x, 2 * y), models.X, models.Y), models.Draws()),
    ):
        found = lvm.sweep({"line": problem}, {"a": method}, 1, backend="here", out=out, resume=True, progress=False)
        cells.add(found.cells[0].key)
    assert len(cells) == 4 == len(list(out.glob("*/cells/*")))


def test_a_damaged_cell_is_run_again_and_no_other(tmp_path: Path) -> None:
    method, out = models.Draws(once=str(tmp_path)), tmp_path / "s"
    first = sweep({"a": method}, 3, out=out)
    (path,) = out.glob(f"*/cells/{first.cells[1].key}/cell.json")
    path.write_bytes(path.read_bytes().replace(b'"seed": 1', b'"seed": 9'))
    with pytest.raises(lvm.StoreError, match=r"cell.json is damaged.*Fix:"):
        lvm.load(out)
    again = sweep({"a": method}, 3, out=out, resume=True)
    assert _begun(tmp_path) == 4
    assert again.table.drop(columns="seconds").equals(first.table.drop(columns="seconds"))
    assert lvm.load(out).counts == {"done": 3}


def test_a_full_disk_costs_the_cell_that_did_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, real = tmp_path / "s", Cells._write

    def full(cells: Cells, name: str, content: Mapping[str, Any]) -> None:
        if name.endswith("cell.json") and content["seed"] == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(cells, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Cells, "_write", full)
        found = sweep({"a": models.Draws()}, 3, out=out)
    assert found.counts == {"done": 2, "unsaved": 1}
    assert "No space left" in found.table["error"][1]
    assert lvm.load(out).counts == {"done": 2, "missing": 1} and lvm.load(out).interrupted
    assert not list(out.rglob(".part*"))
    assert sweep({"a": models.Draws()}, 3, out=out, resume=True).counts == {"done": 3}


def test_a_sweep_that_the_disk_did_not_take_whole_replaces_no_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "s", Cells._write

    def full(cells: Cells, name: str, content: Mapping[str, Any]) -> None:
        if name.endswith("cell.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(cells, name, content)

    before = sweep({"a": models.Draws()}, 2, out=out, backend="here")
    with monkeypatch.context() as patch:
        patch.setattr(Cells, "_write", full)
        assert sweep({"a": models.Draws()}, 3, out=out, overwrite=True, backend="here").counts == {"unsaved": 3}
    assert lvm.load(out).table.equals(before.table)
    words = {"resume": True, "overwrite": True}
    assert sweep({"a": models.Draws()}, 3, out=out, backend="here", **words).counts == {"done": 3}
    assert lvm.load(out).counts == {"done": 3}


def test_an_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    def stop(done: int, total: int, text: str) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    found = sweep({"a": models.Draws(sleep=0.05)}, 50, out=tmp_path / "s", progress=stop)
    assert found.interrupted and 3 <= found.counts["done"] < 10
    assert lvm.load(tmp_path / "s").counts == found.counts


RUN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("sweep_models", {models!r})
models = importlib.util.module_from_spec(spec); sys.modules["sweep_models"] = models; spec.loader.exec_module(models)
import pyrolvm as lvm
s = lvm.sweep(
    models.problem(), {{"a": models.Draws(sleep=0.2, once={marks!r})}}, 100, backend={backend!r}, jobs=2, out={out!r}, progress=False
)
sys.exit(7 if s.interrupted else 0)
"""


def _run_apart(tmp_path: Path, out: Path, backend: str) -> subprocess.Popen[bytes]:
    """A sweep in a process of its own, once three cells are done."""
    code = RUN.format(
        models=str(Path(__file__).with_name("models.py")), marks=str(tmp_path), out=str(out), backend=backend
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(lvm.__file__).parents[1], start_new_session=True)
    deadline = time.monotonic() + 200
    while len(list(out.glob("*/cells/*/cell.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_sweep(how: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C in a terminal reaches workers too, which leave it to their parent; of a parent that is killed they hear soon."""
    process = _run_apart(tmp_path, tmp_path / "s", "local")
    if how is signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.kill()
    code = process.wait(60)
    assert code == (7 if how is signal.SIGINT else -signal.SIGKILL)
    workers = {int(pid) for path in tmp_path.glob("begun-*") for pid in path.read_text().split()}
    deadline = time.monotonic() + 200
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert 3 <= lvm.load(tmp_path / "s").counts["done"] < 100


def test_a_kill_of_the_whole_sweep_loses_one_cell_and_a_second_writer_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "s"
    process = _run_apart(tmp_path, out, "here")
    method = models.Draws(sleep=0.2, once=str(tmp_path))
    try:
        with pytest.raises(lvm.StoreError, match=rf"process {process.pid} on .* is writing.*Fix:"):
            sweep({"a": method}, 100, out=out, resume=True)
    finally:
        process.kill()
        process.wait()
    done = lvm.load(out).counts["done"]
    assert 3 <= done and _begun(tmp_path) - done in (0, 1)
    method.sleep = 0.0
    assert lvm.load(out).counts["missing"] == 100 - done


# --- what is asked for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guides", "seeds", "options", "error", "says"),
    [
        ("mean_feild", 1, {}, lvm.UnknownNameError, "called 'mean_feild'.*did you mean 'mean_field'"),
        ([], 1, {}, lvm.ArgumentError, "guides is empty"),
        ("mean_field", [], {}, lvm.ArgumentError, "seeds is empty"),
        ("mean_field", 0, {}, lvm.ArgumentError, "seeds must be an integer of at least 1, got 0"),
        ("mean_field", [-1], {}, lvm.ArgumentError, "seed must be an integer of at least 0, got -1"),
        ("mean_field", 1, {"jobs": 0}, lvm.ArgumentError, "jobs must be an integer of at least 1, got 0"),
        ("mean_field", 1, {"jobs": "two", "backend": "local"}, lvm.ArgumentError, "jobs must be an integer"),
        ("mean_field", 1, {"retries": -1}, lvm.ArgumentError, "retries must be an integer of at least 0"),
        ("mean_field", 1, {"backend": "locla"}, lvm.UnknownNameError, "called 'locla'.*did you mean 'local'"),
        ("mean_field", 1, {"backend": 3}, lvm.ArgumentError, "backend must be one of local"),
        ("mean_field", 1, {"max_stesp": 3}, lvm.UnknownNameError, "no option of these methods is called 'max_stesp'.*'max_steps'"),
        ("mean_field", 1, {"settings": {"nuts": {}}}, lvm.UnknownNameError, "no guide or method of this sweep is called 'nuts'"),
        ("mean_field", 1, {"settings": {"mean_field": {"seed": 3}}}, lvm.ArgumentError, "seed cannot be set"),
        (["mean_field", "mean_field"], 1, {}, lvm.ArgumentError, "two guides are called 'mean_field'"),
        ("mean_field", 1, {"resume": True}, lvm.ArgumentError, "resume is given without out"),
        ("mean_field", 1, {"reference": "nuts"}, lvm.ArgumentError, "reference='nuts' is no method of this sweep"),
        (lambda a: None, 1, {}, lvm.ArgumentError, "takes neither a problem nor the arguments"),
    ],
)  # fmt: skip
def test_bad_input_is_said_before_the_work(guides: Any, seeds: Any, options: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        sweep(guides, seeds, **options)
    assert "Fix: " in str(caught.value)


def test_what_is_no_problem_is_refused() -> None:
    with pytest.raises(lvm.UnknownNameError, match="did you mean 'eight_schools'"):
        lvm.sweep("eight_schols")
    with pytest.raises(lvm.ArgumentError, match=r"lvm\.Problem\(line"):
        lvm.sweep(models.line)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("draft")
    with pytest.raises(lvm.StoreError, match=r"not empty and was not made by pyrolvm.*Fix:"):
        sweep({"a": models.Draws()}, 1, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_one_cell_is_named_or_said_to_be_several() -> None:
    found = sweep({"a": models.Draws(), "b": models.Draws()}, 2)
    assert found.cell(method="b", seed=1).seed == 1
    with pytest.raises(lvm.ArgumentError, match=r"2 cells are meant: a on line, seed 0; b on line, seed 0\. Fix:"):
        found.cell(seed=0)
    with pytest.raises(lvm.UnknownNameError, match="no method of this sweep is called 'c'"):
        found.cell(method="c")
    with pytest.raises(lvm.StoreError, match=r"was not saved.*out="):
        found.posterior(method="a", seed=0)
