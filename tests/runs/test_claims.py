"""Who writes to a folder: locks that do not reach, locks that are not there, holders that are gone, folders that move."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._base.errors import PyrolvmWarning
from pyrolvm._cli import main
from pyrolvm._runs import readers
from pyrolvm._runs.directory import append_whole
from pyrolvm._runs.folder import RunFolder

Y = torch.tensor([0.3, 1.1, -0.4])
TINY = Path(__file__).parents[1] / "faults" / "tiny.py"
TEXT: runs.Codec[str] = runs.Codec(
    "Text",
    lambda text: {"text": (".txt", lambda file: file.write(text.encode()))},
    lambda folder: runs.verified(folder, ("text",))["text"].content.decode(),
)


def model(y: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def run(out: Path, work: Callable[[Any], str], about: str = "a", **words: Any) -> str:
    return runs.run(runs.order(out, **words), "write", {"what": about}, TEXT, work)


# --- two hosts --------------------------------------------------------------------------------------------------------


class Hosts:
    """Two hosts of one file system, on which neither sees the other's locks."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.name = "first"
        patch.setattr(fcntl, "flock", lambda handle, how: None)
        patch.setattr(socket, "gethostname", lambda: self.name)

    def second(self, call: Callable[[], Any]) -> Any:
        """What a call gives on the second host, which is told of the first."""
        self.name = "second"
        with pytest.warns(PyrolvmWarning, match=r"on first has begun to write to .*locks do not reach.*Fix:"):
            found = call()
        self.name = "first"
        return found


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    yield Hosts(monkeypatch)


@pytest.mark.fault("F9")
@pytest.mark.parametrize("what", ["a checkpoint", "a part", "the result"])
@pytest.mark.parametrize("words", [{"overwrite": True}, {"resume": True}])
def test_of_two_hosts_that_write_at_once_the_first_ends_and_the_seconds_result_is_in_force(
    hosts: Hosts, what: str, words: dict[str, bool], tmp_path: Path, record_property: Any
) -> None:
    out, again = tmp_path / "r", {"first": 0, "second": 0}

    def work(run_: runs.Run) -> str:
        again[hosts.name] += 1
        kept = run_.checkpoints
        kept.read()
        kept.write({"host": hosts.name})
        if hosts.name == "first":
            hosts.second(lambda: run(out, work, **words))
            if what == "a checkpoint":
                kept.write({"host": "first again"})
            if what == "a part":
                run_.stage("part")
        return f"of {hosts.name}"

    with pytest.raises(lvm.StoreError, match=r"Fix:") as caught:
        run(out, work)
    assert "is writing" not in str(caught.value)
    assert again == {"first": 1, "second": 1} and TEXT.read(out) == "of second"
    assert len(list(out.glob("[0-9]*-*"))) == 1 and not list(out.rglob("checkpoint*"))
    assert run(out, work, resume=True) == "of second"
    record_property("evidence", str(caught.value).replace(str(tmp_path) + os.sep, ""))


@pytest.mark.fault("F9")
def test_the_first_of_two_hosts_is_told_of_the_second_while_that_one_still_writes(hosts: Hosts, tmp_path: Path) -> None:
    out = tmp_path / "r"

    def first(run_: runs.Run) -> str:
        run_.checkpoints.write({"n": 1})

        def second(_: runs.Run) -> str:
            hosts.name = "first"
            with pytest.raises(lvm.StoreError, match=rf"process {os.getpid()} on second has begun to write to .*Fix:"):
                run_.checkpoints.write({"n": 2})
            hosts.name = "second"
            return "of second"

        hosts.second(lambda: run(out, second, overwrite=True))
        return "of first"

    with pytest.raises(lvm.StoreError, match=r"nothing more is written.*Fix:"):
        run(out, first)
    assert TEXT.read(out) == "of second"


def test_a_file_system_without_locks_is_said_and_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(PyrolvmWarning, match=r"has no locks \(No locks available\).*Fix:"):
        assert run(tmp_path / "r", lambda _: "made") == TEXT.read(tmp_path / "r")


HOLDER = """
import fcntl, os, sys, time
file = open(sys.argv[1], "r+")
fcntl.flock(file, fcntl.LOCK_EX)
if os.fork():
    os._exit(0)
os.close(1)
time.sleep(60)
"""


def test_a_holder_that_has_ended_and_left_a_fork_is_told_from_one_that_writes(tmp_path: Path) -> None:
    out = tmp_path / "r"
    run(out, lambda _: "made")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(out / runs.MARKER)], start_new_session=True)
    assert holder.wait(60) == 0
    try:
        with (out / runs.MARKER).open("a") as marker:
            marker.write(f"{holder.pid} on {socket.gethostname()}\n")
        with pytest.raises(
            lvm.StoreError, match=rf"{holder.pid} on .* has ended, but not all processes that it forked.*Fix:"
        ):
            run(out, lambda _: "again", overwrite=True)
    finally:
        os.killpg(holder.pid, 9)


# --- folders that move ------------------------------------------------------------------------------------------------


def test_a_folder_that_is_renamed_while_a_run_writes_has_its_result_where_it_is_then(tmp_path: Path) -> None:
    def work(run_: runs.Run) -> str:
        kept = run_.checkpoints
        for n in range(5):
            kept.write({"n": n}, chunk=n)
            if n == 2:
                (tmp_path / "r").rename(tmp_path / "moved")
        assert len(list((tmp_path / "moved").rglob("checkpoint-*.json"))) == 2
        return "made"

    with pytest.warns(PyrolvmWarning, match=r"r was moved or removed while.*Fix:"):
        assert run(tmp_path / "r", work) == "made"
    assert TEXT.read(tmp_path / "moved") == "made" and not (tmp_path / "r").exists()


def test_no_part_of_a_run_is_kept_where_its_folder_was(tmp_path: Path) -> None:
    def work(run_: runs.Run) -> str:
        (tmp_path / "r").rename(tmp_path / "moved")
        run_.stage("part")
        return "made"

    with pytest.raises(lvm.StoreError, match=r"was moved or removed.*Fix:"):
        run(tmp_path / "r", work)
    assert not (tmp_path / "r").exists()
    assert run(tmp_path / "moved", lambda _: "made", resume=True) == "made"


def test_a_folder_that_is_removed_while_a_run_writes_is_no_raw_error(tmp_path: Path) -> None:
    def work(run_: runs.Run) -> str:
        shutil.rmtree(tmp_path / "r")
        return "made"

    with pytest.raises(lvm.StoreError, match=r"was removed, or another run has taken its place.*Fix:"):
        run(tmp_path / "r", work)
    assert not (tmp_path / "r").exists()
    assert run(tmp_path / "r", lambda _: "made") == "made"


def test_a_run_that_was_cut_goes_on_in_another_place(tmp_path: Path) -> None:
    def work(run_: runs.Run) -> str:
        kept = run_.checkpoints
        found = kept.read()
        if found is None:
            kept.write({"n": 7}, chunk="a")
            raise RuntimeError("power cut")
        return f"{found.state['n']} {found.chunks}"

    with pytest.raises(RuntimeError):
        run(tmp_path / "here", work)
    there = tmp_path / "ein anderer Ort" / "läuft"
    shutil.copytree(tmp_path / "here", there)
    assert run(there, work, resume=True) == "7 ['a']"
    (tmp_path / "here").rename(tmp_path / "moved")
    assert run(tmp_path / "moved", work, resume=True) == "7 ['a']"


@pytest.mark.parametrize(
    "name", ["with spaces", "ünï-çødé", "dots..", "a/../b", "trailing/", "x" * 200, "-dash", "new\nline"]
)
def test_a_folder_may_be_called_anything_from_python(name: str, tmp_path: Path) -> None:
    out = f"{tmp_path}/{name}"
    if ".." in Path(name).parts:
        (tmp_path / Path(name).parts[0]).mkdir()
    assert run(Path(out), lambda run_: run_.checkpoints.write({"n": 1}) or "one") == "one"
    assert run(Path(out), lambda _: "two", overwrite=True) == TEXT.read(Path(out)) == "two"


def test_a_link_that_leads_nowhere_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(lvm.PyrolvmError, match=r"out.*Fix:"):
        run(tmp_path / "out", lambda _: "made")
    assert (tmp_path / "out").is_symlink() and not (tmp_path / "nowhere").exists()


def test_of_calls_that_ask_for_one_new_folder_at_once_none_is_told_of_anything_but_the_others(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def call(n: int) -> str:
        try:
            return run(tmp_path / "a" / "r", lambda _: "made", resume=True)
        except lvm.StoreError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(call, range(40)))
    assert "made" in said and not {one for one in said if one != "made" and "is writing to" not in one}
    assert TEXT.read(tmp_path / "a" / "r") == "made" and [one.name for one in (tmp_path / "a").iterdir()] == ["r"]


def test_runs_that_fail_at_once_in_one_new_folder_are_told_of_nothing_but_each_other(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def fail(_: runs.Run) -> str:
        raise RuntimeError("failed")

    def call(n: int) -> str:
        try:
            return run(tmp_path / "r", fail)
        except (lvm.StoreError, RuntimeError) as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(call, range(200)))
    assert "failed" in said and not {one for one in said if one != "failed" and "is writing to" not in one}
    assert not list(tmp_path.glob("*/*"))  # the folder itself may be left by one that did not make it


def test_a_marker_that_is_made_between_two_looks_at_a_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyrolvm._runs.directory import Directory

    assert run(tmp_path / "made", lambda _: "made") == "made"
    looked = Directory.names

    def names(directory: Directory) -> list[str]:
        monkeypatch.setattr(Directory, "names", looked)
        (tmp_path / "made").rename(tmp_path / "away")
        for one in (tmp_path / "away").iterdir():
            one.rename(tmp_path / "r" / one.name)
        return looked(directory)

    (tmp_path / "r").mkdir()
    monkeypatch.setattr(Directory, "names", names)
    assert run(tmp_path / "r", lambda _: "again", resume=True) == "made"


@pytest.mark.parametrize("gone", ["the marker", "the folder"])
def test_what_is_removed_while_a_folder_is_claimed_is_made_again(
    gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyrolvm._runs import claims

    out, removed = tmp_path / "r", []
    assert run(out, lambda _: "made") == "made"

    def remove(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **words: Any) -> Any:
            found = call(*given, **words)
            if not removed:
                removed.append(out)
                shutil.rmtree(out)
                if gone == "the marker":  # and another run's folder has its place
                    out.mkdir()
            return found

        return called

    for name, place in (("names", claims.Directory), ("_lock", claims)):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, remove(getattr(place, name)))
            removed.clear()
            assert run(out, lambda _, name=name: name, overwrite=True) == TEXT.read(out) == name
            assert removed


@pytest.mark.parametrize("what", ["a link", "a pipe", "a socket", "a folder"])
def test_what_has_the_markers_name_and_is_no_file_makes_a_folder_foreign(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    out.mkdir()
    monkeypatch.chdir(out)  # the path of a socket may not be long
    place = out / runs.MARKER
    if what == "a socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(runs.MARKER)
    else:
        {"a link": lambda: place.symlink_to("x"), "a pipe": lambda: os.mkfifo(place), "a folder": place.mkdir}[what]()
    mode = place.lstat().st_mode
    with pytest.raises(lvm.StoreError, match=r"was not made by pyrolvm.*Fix:"):
        run(out, lambda _: "made", overwrite=True)
    assert place.lstat().st_mode == mode and len(list(out.iterdir())) == 1


def test_a_run_that_fails_leaves_none_of_the_folders_that_it_made(tmp_path: Path) -> None:
    def fail(_: runs.Run) -> str:
        raise RuntimeError("failed")

    (tmp_path / "mine").mkdir()
    for out in ("mine/r", "mine/a/b/r", "new/a/r"):
        with pytest.raises(RuntimeError):
            run(tmp_path / out, fail)
        assert [one.name for one in tmp_path.rglob("*")] == ["mine"]

    def beside(_: runs.Run) -> str:
        (tmp_path / "new" / "a file of mine").touch()
        raise RuntimeError("failed")

    with pytest.raises(RuntimeError):
        run(tmp_path / "new" / "a" / "r", beside)
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["a file of mine", "mine", "new"]


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

    def cut(run_: runs.Run) -> str:
        run_.checkpoints.write({"night": 1})
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        run(out, cut)
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

    def cut(run_: runs.Run) -> str:
        run_.checkpoints.write({"night": 1})
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        run(out, cut)
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
