"""Compiled programs are kept for later processes, and nothing is believed that is not as it was kept."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyrolvm._base import programs as room
from pyrolvm._base.errors import CaptureError
from pyrolvm._base.programs import Programs, key_of, processor, programs
from pyrolvm._capture.native import build

KEY, OTHER = key_of("one"), key_of("two")
BODY = bytes(range(256)) * 20


@pytest.fixture
def kept(tmp_path: Path) -> Programs:
    found = Programs(tmp_path / "user" / "programs")
    found.put(KEY, BODY)
    assert found.get(KEY) == BODY
    return found


def _file(kept: Programs) -> Path:
    assert kept.folder is not None
    (found,) = kept.folder.iterdir()
    return found


def test_a_folder_that_cannot_be_made_is_a_fault_and_costs_the_kept_program_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Programs(tmp_path / "a" / "b")
    assert there.fault() is None
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    assert f"nothing can be written to {tmp_path}" in str(there.fault())
    (tmp_path / "file").touch()
    below = Programs(tmp_path / "file" / "programs")
    below.put(KEY, BODY)
    assert below.get(KEY) is None and below.fault() is not None and below.kept().number == 0


def test_what_is_kept_is_found_by_its_key_alone_in_a_folder_that_nobody_else_can_read(kept: Programs) -> None:
    assert kept.get(OTHER) is None
    assert kept.folder is not None and stat.S_IMODE(kept.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(_file(kept).stat().st_mode) == 0o600
    assert kept.kept().number == 1


def test_keys_tell_apart_what_is_written_alike() -> None:
    assert len({key_of("ab", "c"), key_of("a", "bc"), key_of("abc"), key_of("", "abc"), key_of("abc", "")}) == 5


def test_a_damaged_program_is_never_given_out(kept: Programs) -> None:
    file = _file(kept)
    whole = file.read_bytes()
    for place in [*range(0, 170), len(whole) // 2, len(whole) - 1]:
        harmed = bytearray(whole)
        harmed[place] ^= 1
        file.write_bytes(harmed)
        assert kept.get(KEY) is None, place
    for length in (0, 5, 20, 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert kept.get(KEY) is None
    file.write_bytes(whole + b"\0")
    assert kept.get(KEY) is None
    kept.put(KEY, BODY)
    assert kept.get(KEY) == BODY


def test_a_program_under_another_name_is_not_that_one(kept: Programs) -> None:
    file = _file(kept)
    file.rename(file.with_name(file.name.replace(KEY, OTHER)))
    assert kept.get(OTHER) is None


def _loose(kept: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept.folder is not None
    kept.folder.chmod(0o770)


def _linked(kept: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept.folder is not None
    kept.folder.rename(tmp_path / "elsewhere")
    kept.folder.symlink_to(tmp_path / "elsewhere")


def _foreign(kept: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4711)


def _linked_file(kept: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _file(kept)
    file.rename(tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")


def _pipe(kept: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _file(kept)
    file.unlink()
    os.mkfifo(file)


def _folder(kept: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _file(kept)
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("harm", [_loose, _linked, _foreign, _linked_file, _pipe, _folder])
def test_what_others_could_have_put_there_is_not_read(
    harm: Callable[..., None], kept: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm(kept, tmp_path, monkeypatch)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    assert kept.get(KEY) is None
    if harm in (_loose, _linked, _foreign):
        kept.put(OTHER, BODY)  # and nothing is written there either
        assert kept.fault() is not None
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("fails", ["open", "replace", "lstat", "utime"])
def test_a_disk_that_fails_costs_the_kept_program_alone(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Programs(tmp_path / "programs")

    def broken(*args: object, **options: object) -> object:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(room.os, fails, broken)
        kept.put(KEY, BODY)
        assert kept.get(KEY) in (None, BODY)
    assert not list(tmp_path.rglob(".part-*"))


def test_a_folder_that_cannot_be_made_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = Programs(tmp_path / "file" / "programs")
    kept.put(KEY, BODY)
    assert kept.get(KEY) is None


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    kept = Programs(tmp_path / "programs", limit=4 * len(BODY))
    keys = [key_of(str(k)) for k in range(3)]
    for age, key in enumerate(keys):
        kept.put(key, BODY)
        os.utime(tmp_path / "programs" / f"{key}.program", (1000 + age, 1000 + age))
    assert kept.get(keys[0]) == BODY  # used now
    kept.put(KEY, BODY)
    assert [kept.get(key) is not None for key in (*keys, KEY)] == [True, False, True, True]
    assert kept.kept().size <= kept.limit
    kept.put(OTHER, BODY * 5)
    assert kept.get(OTHER) is None


def test_writers_at_once_leave_whole_programs(tmp_path: Path) -> None:
    found: list[bytes | None] = []

    def work(k: int) -> None:
        own = Programs(tmp_path / "programs", limit=3 * len(BODY))
        for _ in range(10):
            own.put(key_of(str(k % 3)), BODY)
            found.append(own.get(key_of(str((k + 1) % 3))))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) <= {BODY, None}
    assert not list(tmp_path.rglob(".part-*"))


def test_clearing_and_making_room_remove_programs_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    kept = Programs(folder, limit=2 * len(BODY))
    kept.put(KEY, BODY)
    mine = ("notes.txt", "solver.program", ".part-of-mine", f"{KEY.upper()}.program")
    for name in mine:
        (folder / name).write_bytes(BODY * 3)
        os.utime(folder / name, (1000, 1000))
    (folder / f"{OTHER}.program").mkdir()
    kept.put(key_of("more"), BODY)
    assert kept.clear().number == 1
    assert {path.name for path in folder.iterdir()} == {*mine, f"{OTHER}.program"}


@pytest.mark.parametrize(
    ("system", "variables", "ends"),
    [
        ("linux", {}, ".cache/pyrolvm"),
        ("linux", {"XDG_CACHE_HOME": "/c"}, "/c/pyrolvm"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, ".cache/pyrolvm"),
        ("darwin", {}, "Library/Caches/pyrolvm"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/pyrolvm"),
    ],
)
def test_the_folder_is_where_the_system_keeps_what_can_be_made_again(
    system: str, variables: dict[str, str], ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYROLVM_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(room.sys, "platform", system)
    assert str(programs().folder).endswith(ends)


def test_nothing_is_kept_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYROLVM_CACHE", "off")
    assert programs() == Programs(None)
    programs().put(KEY, BODY)
    assert programs().get(KEY) is None and programs().fault() is not None


# --- what is compiled -------------------------------------------------------------------------------------------------


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """A compiler that counts what it is asked for; how often it compiled."""
    script, log = tmp_path / "cc", tmp_path / "log"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo x >> {log}\nexec cc "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setenv("PYROLVM_CACHE", str(tmp_path / "programs"))
    build._library.cache_clear()
    yield lambda: len(log.read_text().split()) if log.exists() else 0
    build._library.cache_clear()


def _another_process() -> None:
    build._library.cache_clear()


def test_a_later_process_compiles_nothing_again(compiler: Callable[[], int]) -> None:
    assert build.trial() == 3.0
    _another_process()
    assert build.trial() == 3.0
    assert compiler() == 1


def test_another_processor_compiler_or_flag_has_programs_of_its_own(
    compiler: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.trial()
    with monkeypatch.context() as patch:
        patch.setattr(build, "processor", lambda: processor() + "\nflags: another")
        _another_process()
        build.trial()
    assert compiler() == 2
    with monkeypatch.context() as patch:
        patch.setattr(build, "FLAGS", (*build.FLAGS, "-DOTHER"))
        _another_process()
        build.trial()
    assert compiler() == 3
    script = tmp_path / "cc"
    script.write_text(script.read_text() + "# another release\n")
    _another_process()
    build.trial()
    assert compiler() == 4


def test_a_program_that_is_damaged_is_compiled_again(compiler: Callable[[], int], tmp_path: Path) -> None:
    build.trial()
    (file,) = (tmp_path / "programs").iterdir()
    file.write_bytes(file.read_bytes()[:-100] + bytes(100))
    _another_process()
    assert build.trial() == 3.0
    assert compiler() == 2


def test_a_kept_program_does_not_hide_that_there_is_no_compiler(
    compiler: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    build.trial()
    monkeypatch.setenv("CC", "no-such-compiler")
    _another_process()
    with pytest.raises(CaptureError, match="no-such-compiler"):
        build.trial()
