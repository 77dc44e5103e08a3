"""What `pyrolvm list` and `pyrolvm doctor` know and find."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pyrolvm as lvm
from pyrolvm._base.programs import key_of, programs
from pyrolvm._cli import catalogue
from pyrolvm._cli.catalogue import SHELVES


def test_list_names_everything_registered(pyrolvm):
    run = pyrolvm("list")
    assert run.code == 0 and run.err == ""
    for name in (*lvm.problems(), *lvm.guides()):
        assert name in run.out
    assert "next: pyrolvm compare" in run.out


def test_list_as_json(pyrolvm):
    found = pyrolvm("list", "--json", "-", "--quiet").json
    assert [row["name"] for row in found["guides"]] == lvm.guides()
    assert all(row["does"].endswith(".") for row in found["problems"])
    assert {row["distribution"] for row in found["problems"]} == {"pyrolvm"}


def test_doctor_finds_this_installation_sound(pyrolvm):
    run = pyrolvm("doctor", "--json", "o.json")
    assert run.code == 0
    found = json.loads(Path("o.json").read_text())
    checks = {check["what"]: check for check in found["checks"]}
    assert found["broken"] == 0
    assert {"python", "torch", "numpyro", "torch devices", "ArviZ API", "guides"} <= checks.keys()
    assert "torch" in run.out


def test_doctor_clears_the_compiled_programs_when_asked(pyrolvm, monkeypatch, tmp_path):
    monkeypatch.setenv("PYROLVM_CACHE", str(tmp_path / "programs"))
    programs().put(key_of("a"), b"program")
    (tmp_path / "programs" / "mine").write_text("")
    run = pyrolvm("doctor", "--clear-cache", "--json", "-")
    assert run.code == 0 and run.json["removed"] == 1
    assert [path.name for path in (tmp_path / "programs").iterdir()] == ["mine"]
    (tmp_path / "programs").chmod(0o755)
    run = pyrolvm("doctor", "--clear-cache")
    assert run.code == 2 and "others may read or write it" in run.err and "Fix:" in run.err


@pytest.mark.parametrize("thorough", [True, False])
def test_doctor_finds_releases_that_are_not_taken(thorough, pyrolvm, monkeypatch):
    monkeypatch.setattr("pyrolvm._cli.doctor.metadata.requires", lambda name: ["rich>=999", "numpy; extra == 'all'"])
    monkeypatch.setattr("pyrolvm._cli.doctor._engines", lambda thorough: [])
    run = pyrolvm("doctor", *(["--thorough"] if thorough else []))
    assert run.code == 1 and "broken: rich" in run.out and "pip install 'rich>=999'" in " ".join(run.out.split())


def test_list_says_what_the_docstrings_say():
    """Read from the sources, since imports take seconds: the same words, none left to be imported."""
    for shelf in SHELVES:
        assert shelf.rows() == shelf.rows(imported=True)
        ours = [entry for entry in shelf.kind.entries().values() if entry.distribution == "pyrolvm"]
        assert all(catalogue._written(entry) for entry in ours)


def test_doctor_fails_where_something_required_is_broken(pyrolvm, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    run = pyrolvm("doctor")
    assert run.code == 1
    assert "broken: safetensors" in run.out
