"""Commands end in order wherever their words go, or cannot go."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro
import pytest

from pyrolvm._base.progress import Progress, is_terminal
from pyrolvm._cli import main


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """The first listing imports plugins, and a library below them sets a flag of Pyro's when it is imported."""
    before = pyro.settings.get()
    yield
    pyro.settings.set(**before)


class Refusing(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("names", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_a_process_without_streams_runs_its_command(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in names:
        monkeypatch.setattr(sys, name, None)
    assert main(["list"]) == 0
    for name in names:
        getattr(sys, name).close()


def test_a_reader_that_goes_away_ends_a_command_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Refusing(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    assert main(["list"]) == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_behind_stdout_is_said(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Refusing(OSError(number, os.strerror(number))))
    assert main(["list"]) == 2
    said = capsys.readouterr().err
    assert f"{os.strerror(number)}. Fix: " in said and "Traceback" not in said


def test_what_an_encoding_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["list"]) == 0
    stream.write("\u03b8")
    assert stream.errors == "backslashreplace"


def test_a_stream_that_is_closed_or_missing_is_no_terminal() -> None:
    closed = io.StringIO()
    closed.close()
    assert not is_terminal(None) and not is_terminal(closed) and not is_terminal(io.StringIO())


@pytest.mark.parametrize("out", ["/proc/x/a", "/dev/null/a", "d.npz/a"])
def test_a_comparison_is_not_begun_where_nothing_can_be_written(pyrolvm: Any, inference: Any, out: str) -> None:
    Path("d.npz").write_bytes(b"")
    done = pyrolvm("compare", "eight_schools", "--out", out)
    assert done.code == 2
    assert "Fix: pass a path" in done.err and repr(out) in done.err
    assert not inference.calls
    assert "bug in pyrolvm" not in done.err


def test_a_terminal_that_is_gone_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bar:
        def update(self, *_: Any, **__: Any) -> None:
            raise OSError(errno.EIO, "Input/output error")

        stop = update

    done = []
    with Progress("work", 3, show=False) as progress:
        monkeypatch.setattr(progress, "_visible", True)
        monkeypatch.setattr(progress, "_bar", Bar())
        for i in range(3):
            progress.update(i + 1, str)
            done.append(i)
    assert done == [0, 1, 2]
