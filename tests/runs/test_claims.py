"""Who writes to a folder: locks that do not reach, locks that are not there, holders that are gone, folders that move."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._base.errors import PyrolvmWarning
from tests.runs.text import TEXT, run

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
