"""What is in force in a folder: while it is replaced, of other versions, damaged, on a disk that is full."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._base.errors import PyrolvmWarning
from pyrolvm._cli import main
from pyrolvm._runs import readers
from pyrolvm._runs.directory import append_whole
from pyrolvm._runs.folder import RunFolder
from tests.runs.text import TEXT, TINY, Y, model, run

# --- a result that is replaced while it is read -----------------------------------------------------------------------


def test_a_result_that_is_replaced_while_it_is_read_is_the_old_one_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    drawn = lvm.exact(lvm.Problem(model, Y), draws=20, progress=False)
    other = lvm.exact(lvm.Problem(model, Y), draws=30, progress=False)
    drawn.save(out)
    from pyrolvm._runs import files

    stored, times = files.stored, []

    def replaced(*given: Any) -> Any:
        times.append(1)
        if len(times) == 2:  # after the first file was read
            other.save(out, overwrite=True)
        return stored(*given)

    monkeypatch.setattr(files, "stored", replaced)
    assert lvm.load(out).data["posterior"].sizes["draw"] == 30


# --- what is of other versions, or cannot be read -----------------------------------------------------------------------


def _cut(out: Path) -> None:
    """A run that a power cut ends after its first checkpoint."""

    def cut(run_: runs.Run) -> str:
        run_.checkpoints.write({"night": 1})
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        run(out, cut)


def _lines(path: Path) -> list[str]:
    return sorted(f"{one.relative_to(path)} {one.read_bytes() if one.is_file() else ''}" for one in path.rglob("*"))


@pytest.mark.parametrize("schema", [1, 3, "new"])
def test_a_folder_of_another_version_is_told_and_left_as_it_is(schema: Any, tmp_path: Path) -> None:
    out = tmp_path / "r"
    run(out, lambda _: "made")
    marker = out / runs.MARKER
    marker.write_text(marker.read_text().replace('"schema": 2', f'"schema": {schema!r}'.replace("'", '"')))
    before = _lines(out)
    for words in ({}, {"resume": True}, {"overwrite": True}, {"resume": True, "overwrite": True}):
        with pytest.raises(lvm.StoreError, match=rf"another version of pyrolvm.*schema {schema!r}.*reads 2.*Fix:"):
            run(out, lambda _: "again", **words)
        assert _lines(out) == before


@pytest.mark.parametrize(
    "damage", ["another schema", *(pytest.param(one, marks=pytest.mark.slow) for one in ("cut", "a flipped bit"))]
)
def test_a_run_that_cannot_be_told_is_not_thrown_away_unasked(damage: str, tmp_path: Path) -> None:
    out = tmp_path / "r"
    _cut(out)
    (begun,) = out.glob("*/begun.json")
    text = begun.read_text()
    changed = {
        "another schema": text.replace('"schema": 2', '"schema": 3'), "cut": text[:40], "a flipped bit": text.replace("write", "wripe"),
    }  # fmt: skip
    begun.write_text(changed[damage])
    before = _lines(out)
    for words in ({}, {"resume": True}):
        with pytest.raises(
            lvm.StoreError, match=r"begun\.json.*overwrite=True.*Fix:|begun\.json.*Fix:.*overwrite=True"
        ):
            run(out, lambda _: "again", **words)
        assert _lines(out) == before
    for copy in ("copy", "shell"):
        shutil.copytree(out, tmp_path / copy)
    assert run(out, lambda _: "new", overwrite=True) == TEXT.read(out) == "new"
    assert run(tmp_path / "copy", lambda _: "new", overwrite=True, resume=True) == "new"
    words = ["exact", f"{TINY}:regression", "--draws", "20", "--out", str(tmp_path / "shell")]
    assert [main([*words, *more]) for more in ([], ["--resume"], ["--overwrite"], ["--resume"])] == [2, 2, 0, 0]


@pytest.mark.parametrize("what", ["a dangling link", "a pipe", "a folder"])
def test_what_has_the_manifests_name_and_is_no_file_is_refused_and_left(what: str, tmp_path: Path) -> None:
    out = tmp_path / "r"
    _cut(out)
    place = out / runs.MANIFEST
    {
        "a dangling link": lambda: place.symlink_to("nowhere"), "a pipe": lambda: os.mkfifo(place), "a folder": place.mkdir,
    }[what]()  # fmt: skip
    mode = place.lstat().st_mode
    for words in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(lvm.StoreError, match=r"manifest\.json.*Fix:"):
            run(out, lambda _: "again", **words)
        assert place.lstat().st_mode == mode


def test_a_log_that_memory_has_no_room_for_is_not_read_and_its_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    run(out, lambda _: "made")
    (log,) = out.glob("*/names.log")
    os.truncate(log, 10**9)
    monkeypatch.setattr(readers, "free_memory", lambda: 10**9)
    assert run(out, lambda _: "again", overwrite=True) == TEXT.read(out) == "again"
    assert log.stat().st_size == 10**9


# --- a disk that is full -------------------------------------------------------------------------------------------------


def test_a_line_that_does_not_fit_is_not_there_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    append_whole(handle, b"first\n")
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda handle, content, at: real(handle, content[:3], at))
        with pytest.raises(OSError, match="No space left"):
            append_whole(handle, b"second\n")
    append_whole(handle, b"third\n")
    os.close(handle)
    assert (tmp_path / "log").read_bytes() == b"first\nthird\n"


def test_a_marker_that_does_not_fit_leaves_a_folder_that_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda handle, content, at: real(handle, content[:9], at))
        with pytest.raises(lvm.StoreError, match=r"cannot be written to: No space left.*Fix:"):
            run(tmp_path / "r", lambda _: "made")
    assert run(tmp_path / "r", lambda _: "made") == "made"


def test_what_a_run_cannot_write_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyrolvm._runs.directory import Directory

    def full(*given: Any, **words: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def work(run_: runs.Run) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(Directory, "create", full)
            run_.generation.write("list.json", lambda file: None)
        return "made"

    with pytest.raises(lvm.StoreError, match=r"does not take what the run writes: .*No space left.*Fix:"):
        run(tmp_path / "r", work)
    assert not (tmp_path / "r").exists()


def test_a_disk_that_takes_nothing_leaves_no_folder_and_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyrolvm._runs import generation

    def full(handle: int, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(generation, "append_whole", full)
    before = sorted(os.listdir("/proc/self/fd"))
    for words in ({}, {"overwrite": True}):
        with pytest.raises(lvm.StoreError, match=r"cannot be written to: No space left.*Fix:"):
            run(tmp_path / "r", lambda _: "made", **words)
        assert not (tmp_path / "r").exists()
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["infer", "compare"])
def test_a_disk_that_is_full_is_no_fault_of_a_method_that_another_would_make_good(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyrolvm._runs.generation import Generation

    real, times = Generation.write_part, []

    def full(*given: Any) -> Any:
        times.append(1)
        if len(times) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*given)

    words = (
        ["--methods", "laplace,student"]
        if verb == "infer"
        else ["--guide", "laplace", "--guide", "student", "--no-nuts"]
    )
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Generation, "write_part", full)
        assert main([verb, f"{TINY}:regression", *words, "--draws", "50", "--out", "o"]) == 2
    said = capsys.readouterr().err
    assert "could not be saved in o/" in said and "resume=True" in said and len(times) == 1
    assert main([verb, f"{TINY}:regression", *words, "--draws", "50", "--out", "o", "--resume"]) in (0, 1)
    assert "left out" not in capsys.readouterr().out


def test_a_calibration_goes_on_where_the_disk_is_full_and_writes_what_did_not_fit_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyrolvm._runs import generation

    real, times = generation.append_whole, []

    def full(handle: int, content: bytes) -> None:
        times.append(content.startswith(b'{"content"'))
        if times[-1] and sum(times) in (2, 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle, content)

    monkeypatch.setattr(generation, "append_whole", full)
    words: dict[str, Any] = {"simulations": 5, "draws": 9, "workers": 1, "progress": False}
    with pytest.warns(PyrolvmWarning, match=r"a simulation could not be written.*No space left.*Fix:") as caught:
        found = lvm.calibrate(lvm.Problem(model, Y), "exact", out=tmp_path / "c", **words)
    assert len(caught) == 1 and found.simulations == 5
    (path,) = (tmp_path / "c").glob("*/simulations.jsonl")
    assert path.read_bytes().count(b"\n") == 5


def test_a_simulation_whose_line_is_damaged_is_run_again(tmp_path: Path) -> None:
    words: dict[str, Any] = {"simulations": 4, "draws": 9, "workers": 1, "progress": False}
    whole = lvm.calibrate(lvm.Problem(model, Y), "exact", out=tmp_path / "c", **words)
    (path,) = (tmp_path / "c").glob("*/simulations.jsonl")
    lines = path.read_bytes().split(b"\n")
    digit = lines[1].rindex(b"0.") + 3
    lines[1] = lines[1][:digit] + bytes([lines[1][digit] ^ 1]) + lines[1][digit + 1 :]
    path.write_bytes(b"\n".join(lines))
    (tmp_path / "c" / runs.MANIFEST).unlink()
    assert lvm.load(tmp_path / "c").simulations == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lvm.calibrate(lvm.Problem(model, Y), "exact", out=tmp_path / "c", resume=True, **words).ranks.equals(
            whole.ranks
        )


def test_a_writer_that_ended_is_not_said_to_write(tmp_path: Path) -> None:
    with RunFolder.claimed(tmp_path / "r", "hold", {}):
        assert f"\n{os.getpid()} on " in (tmp_path / "r" / runs.MARKER).read_text()
    assert (tmp_path / "r" / runs.MARKER).read_text().count("\n") == 1
