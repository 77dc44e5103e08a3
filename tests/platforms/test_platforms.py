"""What differs on macOS and Windows, simulated here; docs/platforms.md says what it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pyrolvm as lvm
from pyrolvm._base import interrupts, machine, writing
from pyrolvm._runs.directory import Directory

SPAWNED = """
import multiprocessing, torch, pyro, pyro.distributions as dist
import pyrolvm as lvm

def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

def mean(seed):
    found = lvm.exact(lvm.Problem(model, torch.tensor([1.0, 2.0])), seed=seed)
    return float(found.data["posterior"]["mu"].mean())

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    with multiprocessing.Pool(2) as pool:
        assert all(abs(one - 1.47) < 0.1 for one in pool.map(mean, [0, 1]))
    problem = lvm.Problem(model, torch.tensor([1.0, 2.0]))
    table = lvm.sweep([problem], ["exact"], seeds=2, jobs=2, progress=False).table
    print(table.to_string())
    assert (table["status"] == "done").all()
    print("DONE")
"""


def _run(words: list[str]) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_inference_runs_without_what_windows_does_not_have(tmp_path: Path) -> None:
    found = _run([str(Path(__file__).with_name("elsewhere.py")), str(tmp_path)])
    assert "DONE" in found and (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_processes_may_be_spawned(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SPAWNED)
    assert "DONE" in _run([str(script)])


def test_a_folder_of_results_is_refused_in_words_where_folders_cannot_be_kept_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "supports_dir_fd", set())
    with pytest.raises(lvm.StoreError, match="Fix: run pyrolvm in WSL"):
        Directory.opened(tmp_path)


def test_files_are_replaced_whole_where_none_are_without_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("O_TMPFILE", "O_CLOEXEC", "O_DIRECTORY"):
        monkeypatch.delattr(os, name)
    writing.replace_file(tmp_path / "a", lambda file: file.write(b"new"))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"new")]


def test_flags_are_those_that_the_system_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.flags("O_RDWR", "O_NOFOLLOW") == os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    monkeypatch.delattr(os, "O_NOFOLLOW")
    assert machine.flags("O_RDWR", "O_NOFOLLOW") == os.O_RDWR | os.O_CLOEXEC


def test_all_signals_that_ask_to_stop_are_held() -> None:
    assert set(interrupts.SIGNALS) == {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
