"""F6: SIGINT and SIGTERM make one safe save; a second one leaves at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyrolvm as lvm
from tests.faults.conftest import same

Ask = Callable[..., dict[str, Any]]

MODEL = """
import pyro
import pyro.distributions as dist

def model(y):
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
"""
COMMANDS = {
    "fit": "fit m.py:model --guide mean_field:precondition=none --max-steps 80 --engine pyro",
    "nuts": "nuts m.py:model --chains 2 --warmup 20 --draws 60 --engine pyro",
}


@pytest.fixture
def cli(ask: Ask, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs the command line in a process that gets signals; returns how it ended and what it wrote."""
    import numpy as np

    (tmp_path / "m.py").write_text(MODEL)
    np.savez(tmp_path / "d.npz", y=np.array([0.3, 1.1, -0.4, 0.9]))

    def call(words: str, *signals: int, stop: int = 50) -> dict[str, Any]:
        log = tmp_path / "log"
        said = ask(
            "cli", words=[*words.split(), "--data", "d.npz"], signals=list(signals), stop=stop, folder=tmp_path, log=log
        )
        return {**said, "log": log.read_text()}

    return call


@pytest.mark.fault("F6")
@pytest.mark.parametrize("command", ["fit", pytest.param("nuts", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_saves_once_and_the_run_can_go_on(
    cli: Any, tmp_path: Path, command: str, number: int, code: int, record_property: Any
) -> None:
    words = COMMANDS[command]
    said = cli(f"{words} --out runs/a", number, stop=50 if command == "fit" else 100)
    assert said.get("result") == {"code": code}, said
    assert "stopped; what was reached is saved in runs/a" in said["log"] and "Traceback" not in said["log"]
    partial = lvm.load(tmp_path / "runs/a")
    group = "optimization" if command == "fit" else "sample_stats"
    assert partial.data[group].attrs["interrupted"] == 1
    reasons = " ".join(reason.text for reason in partial.verdict.reasons)
    had = len(partial.losses) if command == "fit" else partial.data["posterior"].sizes["draw"]
    assert 0 < had < (80 if command == "fit" else 60)
    assert ("interrupted by the user after" if command == "fit" else f"has {had} of 60 draws") in reasons
    assert cli(f"{words} --out runs/a --resume")["result"]["code"] in (0, 1)
    assert cli(f"{words} --out runs/b")["result"]["code"] in (0, 1)
    assert same(lvm.load(tmp_path / "runs/a"), lvm.load(tmp_path / "runs/b"))
    what = f"{had} steps" if command == "fit" else f"{had} draws a chain"
    record_property(
        "evidence", f"{command}: {signal.Signals(number).name} saved {what}, exit {code}; resumed bit-identical"
    )


@pytest.mark.slow
@pytest.mark.fault("F6")
def test_a_second_signal_leaves_at_once(cli: Any, tmp_path: Path, record_property: Any) -> None:
    words = f"{COMMANDS['fit']} --checkpoint-every 0.001"
    said = cli(f"{words} --out runs/a", signal.SIGINT, signal.SIGINT)
    assert said["code"] == 130 and "result" not in said  # it did not even return
    assert "stopped at once; what was saved before is whole." in said["log"] and "Traceback" not in said["log"]
    assert not (tmp_path / "runs/a/manifest.json").exists()
    assert cli(f"{words} --out runs/a --resume")["result"]["code"] in (0, 1)
    assert cli(f"{words} --out runs/b")["result"]["code"] in (0, 1)
    assert same(lvm.load(tmp_path / "runs/a"), lvm.load(tmp_path / "runs/b"))
    record_property(
        "evidence", "the second SIGINT ends the process in the middle of a step, exit 130; resumed bit-identical"
    )
