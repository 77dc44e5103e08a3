"""F3, F4, F5, F9 and F10: damaged files, a full disk, two writers, and runs that are not the same."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._base.errors import PyrolvmWarning
from pyrolvm._results import store
from pyrolvm._runs import identity
from pyrolvm._runs.checkpoints import newest as newest_in
from pyrolvm._runs.folder import RunFolder
from tests.faults.conftest import same

Ask = Callable[..., dict[str, Any]]
Y = torch.tensor([0.3, 1.1, -0.4, 0.9])


def model(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def other_model(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.5))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def guide(y: Tensor) -> None:
    loc = pyro.param("loc", lambda: torch.zeros(()))
    pyro.sample("mean", dist.Normal(loc, 0.5))


def other_guide(y: Tensor) -> None:
    loc = pyro.param("loc", lambda: torch.zeros(()))
    pyro.sample("mean", dist.Normal(loc, 0.6))


def run(out: Path | None, **options: Any) -> lvm.Fit:
    problem = lvm.Problem(options.pop("model", model), options.pop("y", Y)).renamed("coins")
    short = {
        "max_steps": 20,
        "draws": 20,
        "engine": "pyro",
        "progress": False,
        "checkpoint_every": None if out is None else 0,
    }
    return lvm.fit(problem, options.pop("guide", guide), out=out, **short | options)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run that was interrupted after twelve steps, with a checkpoint after each, and no result."""

    def interrupt(step: Any) -> None:
        if step.step == 11:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "run", callbacks=[interrupt])
    return tmp_path / "run"


def checkpoints(folder: Path) -> Path:
    """The folder of the checkpoints of the run that was begun in a folder."""
    (found,) = folder.glob("*/checkpoints")
    return found


def newest(folder: Path) -> tuple[Path, Path]:
    """The newest checkpoint's JSON, and the file of its tensors."""
    import json

    path = max(checkpoints(folder).glob("checkpoint-*.json"))
    return path, path.parent / json.loads(path.read_text())["content"]["state"]["file"]["name"]


def _one_of_each(*values: float) -> list[Any]:
    """Both files of a checkpoint with every value; one of each for the quick tests."""
    quick = {(0, values[1]), (1, values[-1])}
    return [
        pytest.param(part, value, marks=[] if (part, value) in quick else [pytest.mark.slow])
        for part in (0, 1)
        for value in values
    ]


@pytest.mark.fault("F3")
@pytest.mark.parametrize(("part", "share"), _one_of_each(0.0, 0.5, 0.99))
def test_a_truncated_checkpoint_is_named_and_the_one_before_serves(
    begun: Path, part: int, share: float, record_property: Any
) -> None:
    damaged = newest(begun)[part]
    damaged.write_bytes(damaged.read_bytes()[: int(share * damaged.stat().st_size)])
    with pytest.warns(
        PyrolvmWarning, match=rf"{damaged.name} is damaged.*goes on from the checkpoint before"
    ) as caught:
        found = run(begun, resume=True)
    assert same(found, run(None))
    record_property("evidence", str(caught[0].message).replace(str(begun.parent) + os.sep, ""))


@pytest.mark.fault("F4")
@pytest.mark.parametrize(("part", "where"), _one_of_each(0.1, 0.5, 0.9))
def test_a_flipped_byte_in_a_checkpoint_is_found(begun: Path, part: int, where: float, record_property: Any) -> None:
    damaged = newest(begun)[part]
    content = bytearray(damaged.read_bytes())
    content[int(where * len(content))] ^= 0x11
    damaged.write_bytes(content)
    with pytest.warns(PyrolvmWarning, match=rf"{damaged.name} is damaged: ") as caught:
        found = run(begun, resume=True)
    assert same(found, run(None))
    record_property("evidence", str(caught[0].message).replace(str(begun.parent) + os.sep, ""))


@pytest.mark.fault("F4")
def test_a_flipped_byte_in_a_result_is_a_checksum_error(tmp_path: Path, record_property: Any) -> None:
    run(tmp_path / "run")
    data = next((tmp_path / "run").glob("*/data-*.nc"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0x01
    data.write_bytes(content)
    with pytest.raises(lvm.StoreError, match=rf"{data.name} is damaged: its checksum differs.*Fix:") as caught:
        lvm.load(tmp_path / "run")
    record_property("evidence", str(caught.value).replace(str(tmp_path) + os.sep, ""))


@pytest.mark.fault("F3")
def test_where_all_checkpoints_are_damaged_it_says_so(begun: Path) -> None:
    for path in checkpoints(begun).iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(lvm.StoreError, match=r"none of the checkpoints in .* can be read.*Fix:"):
        run(begun, resume=True)


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory with room for 400 kB, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def check_full_disk(ask: Ask, whole: Any, out: Path, make_room: Callable[[], None], **fault: Any) -> str:
    job = {"engine": "pyro", "out": out, "resume": True}
    said = ask("fit", stop=150, checkpoint_every=0, **job, **fault)
    assert said["error"].startswith("StoreError: the result could not be saved"), said
    assert "Fix: make room on the disk" in said["error"]
    (warning, *_) = [text for text in said["warnings"] if "could not be written" in text]
    left = runs.unfinished(out)
    kept = None if left is None else newest_in(left.folder)
    assert kept is not None and kept.state["search"]["step"] == 150
    assert not list(out.rglob(".part*"))
    make_room()
    assert ask("fit", **job)["code"] == 0
    assert same(lvm.load(out), whole("fit", engine="pyro"))
    return f"{warning.partition(' Fix:')[0].replace(str(out), 'run')}; the checkpoint of step 150 loads, and the run goes on from it"


@pytest.mark.slow
@pytest.mark.fault("F5")
def test_a_full_disk_leaves_the_checkpoint_before(ask: Ask, whole: Any, small_disk: Path, record_property: Any) -> None:
    """A tmpfs that is filled to the last byte while a fit runs."""
    filler = small_disk / "filler"
    said = check_full_disk(ask, whole, small_disk / "run", filler.unlink, fill=str(filler))
    assert "No space left on device" in said
    record_property("evidence", f"tmpfs: {said}")


@pytest.mark.slow
@pytest.mark.fault("F5")
def test_files_that_may_not_grow_leave_the_checkpoint_before(
    ask: Ask, whole: Any, tmp_path: Path, record_property: Any
) -> None:
    """The same by the limit on a process's files, which needs no right to mount."""
    said = check_full_disk(ask, whole, tmp_path / "run", lambda: None, limit=200)
    record_property("evidence", f"RLIMIT_FSIZE: {said}")


# --- two writers ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F9")
def test_a_second_writer_is_refused_with_the_first_ones_pid(ask: Ask, tmp_path: Path, record_property: Any) -> None:
    out = tmp_path / "run"
    with RunFolder.claimed(out, "hold", {}):
        before = sorted(out.rglob("*"))
        said = ask("fit", engine="pyro", out=out, resume=True)
        assert sorted(out.rglob("*")) == before
    assert f"StoreError: process {os.getpid()} on " in said["error"] and "Fix: wait for it" in said["error"], said
    record_property("evidence", said["error"].replace(str(tmp_path) + os.sep, ""))


@pytest.mark.fault("F9")
def test_the_lock_of_a_killed_writer_is_free(ask: Ask, tmp_path: Path, record_property: Any) -> None:
    out = tmp_path / "run"
    said = ask("hold", out=out, ready=tmp_path / "ready", kill_after=0.0)
    assert said["code"] == -9 and f"\n{said['pid']} on " in (out / runs.MARKER).read_text()
    assert len(run(out).losses) == 20
    assert " on " not in (out / runs.MARKER).read_text()
    record_property("evidence", f"the lock of process {said['pid']}, which was killed, is taken over")


@pytest.mark.fault("F9")
def test_a_writer_on_another_host_is_warned_of(tmp_path: Path, record_property: Any) -> None:
    out = tmp_path / "run"
    run(out)
    with (out / runs.MARKER).open("a") as marker:
        marker.write("77 on elsewhere\n")
    with pytest.warns(PyrolvmWarning, match=r"process 77 on elsewhere .*locks do not reach.*Fix:") as caught:
        run(out, overwrite=True)
    assert " on " not in (out / runs.MARKER).read_text()
    record_property("evidence", str(caught[0].message).replace(str(tmp_path) + os.sep, ""))


# --- another run ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F10")
@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("model code", {"model": other_model}),
        ("guide", {"guide": other_guide}),
        ("guide code", {"guide": other_guide}),
        ("data", {"y": Y + 1}),
        ("seed", {"seed": 1}),
        ("max_steps", {"max_steps": 30}),
        ("learning_rate", {"learning_rate": 0.1}),
        ("dtype", {"dtype": torch.float64}),
    ],
)
def test_resume_of_another_run_is_refused_with_the_difference(
    begun: Path, what: str, change: dict[str, Any], record_property: Any
) -> None:
    before = {path.name: path.read_bytes() for path in checkpoints(begun).iterdir()}
    with pytest.raises(lvm.StoreError, match=rf"was made with .*another {what}: .*, now .*Fix:") as caught:
        run(begun, resume=True, **change)
    assert {path.name: path.read_bytes() for path in checkpoints(begun).iterdir()} == before
    record_property("evidence", str(caught.value).replace(str(begun.parent) + os.sep, ""))


@pytest.mark.fault("F10")
def test_resume_under_other_versions_is_refused_unless_asked_for(
    begun: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    real = identity.versions()
    monkeypatch.setitem(store.identity.__globals__, "versions", lambda: real | {"torch": "9.9"})
    with pytest.raises(lvm.StoreError, match=r"another version of torch: .*, now 9\.9.*any-version") as caught:
        run(begun, resume=True)
    record_property("evidence", str(caught.value).replace(str(begun.parent) + os.sep, ""))
    with pytest.warns(PyrolvmWarning, match=r"another version of torch: .*, now 9\.9"):
        assert len(run(begun, resume="any-version").losses) == 20


def test_an_unfinished_run_is_not_begun_anew_unasked(begun: Path) -> None:
    with pytest.raises(lvm.StoreError, match=r"a run that did not end.*resume=True"):
        run(begun)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": True}, "resume is given without out"),
        ({"checkpoint_every": 5.0}, "checkpoint_every is given without out"),
        ({"out": "x", "resume": "yes"}, "resume must be True, False or"),
        ({"out": "x", "checkpoint_every": -1.0}, "checkpoint_every must be a positive finite number"),
    ],
)
def test_arguments_that_say_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    for call in (lvm.fit, lvm.nuts):
        with pytest.raises(lvm.ArgumentError, match=message):
            call(lvm.Problem(model, Y), progress=False, **options)


def test_a_result_that_is_loaded_with_another_model_is_warned_of(tmp_path: Path) -> None:
    run(tmp_path / "run")
    with pytest.warns(PyrolvmWarning, match=r"another model code: .*, now "):
        found = lvm.load(tmp_path / "run", problem=lvm.Problem(other_model, Y), guide=guide)
    assert len(found.losses) == 20
