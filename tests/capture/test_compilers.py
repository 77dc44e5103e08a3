"""Whatever ``CC`` and the folder for temporary files are, the C engine says why it cannot run, so that others do."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from pyrolvm._base.errors import CaptureError
from pyrolvm._capture.native import build


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("echo a script without an interpreter", "cannot run"),
        ("#!/bin/sh\nprintf '\\377\\376 error \\200' >&2; exit 1\n", "cannot be compiled"),
        ("#!/bin/sh\nexit 0\n", "cannot load what it compiled"),
        ("#!/bin/sh\nexit 1\n", "cannot be compiled"),
    ],
)
def test_a_compiler_that_is_none_is_a_reason(
    content: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(content)
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(CaptureError, match=said):
        build.trial()


@pytest.mark.parametrize("asked", ['cc "', "/nonexistent/cc", "/tmp"])
def test_a_name_that_is_no_compiler_is_a_reason(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", asked)
    with pytest.raises(CaptureError, match="engine 'c'"):
        build.trial()


@pytest.mark.parametrize("asked", ["", "  ", "cc -g -DX=1"])
def test_a_blank_name_and_arguments_are_read_as_a_shell_does(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", asked)
    assert build.trial() == 3.0


def test_a_folder_for_temporary_files_that_is_missing_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    monkeypatch.setenv("CC", "cc -DNEW")
    with pytest.raises(CaptureError, match="temporary file"):
        build.trial()
