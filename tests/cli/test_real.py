"""The command line with real inference: small runs, one in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def regression(tmp_path, model_file):
    """Data for ``my_model.py:model``, whose posterior of ``slope`` is a Gaussian known in closed form."""
    x = np.linspace(-1.0, 1.0, 20)
    y = 0.7 * x + 0.1 * np.cos(np.arange(20.0))
    np.savez(tmp_path / "d.npz", x=x, y=y)
    precision = 1.0 + float(x @ x)
    return float(x @ y) / precision, precision**-0.5


def test_fit_nuts_compare_diagnose_report(pyrolvm, regression):
    mean, sd = regression
    target = ["my_model.py:model", "--data", "d.npz", "--dtype", "float64", "--engine", "c"]
    fit = pyrolvm("fit", *target, "--guide", "full_rank", "--out", "runs/fit", "--json", "-")
    assert fit.code == 0
    (slope,) = fit.json["quantities"]
    assert abs(slope["mean"] - mean) < 0.1 * sd and abs(slope["sd"] / sd - 1) < 0.1
    again = pyrolvm("fit", *target, "--guide", "full_rank", "--out", "runs/fit", "--resume", "--json", "-")
    assert again.json == fit.json
    nuts = pyrolvm("nuts", *target, "--chains", "2", "--warmup", "100", "--draws", "200", "--out", "runs/nuts")
    assert nuts.code == 0, nuts.err
    assert pyrolvm("diagnose", "runs/fit").code == 0
    report = pyrolvm("report", "runs/fit", "runs/nuts", "--reference", "fit", "--json", "-")
    assert report.code == 0
    assert report.json["reference"] == "fit"
    assert Path("report.html").stat().st_size > 10_000 and Path("report.png").is_file()


def test_compare_in_a_process_of_its_own(tmp_path, regression):
    words = (
        "compare my_model.py:model --data d.npz --engine c --guide mean_field --guide my_model.py:guide "
        "--chains 2 --warmup 60 --draws 100 --max-steps 600 --out runs/a --json -"
    )
    command = [sys.executable, "-W", "error::UserWarning:pyrolvm", "-m", "pyrolvm", *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["reference"] == "nuts"
    assert {row["method"] for row in found["methods"]} == {"nuts", "mean_field", "my_model.py:guide"}
    assert (tmp_path / "runs/a/overview.png").is_file()
    assert "Traceback" not in done.stderr


def _wait_for_draws(process: subprocess.Popen[str], folder: Path, *, after: int) -> None:
    """Waits for a draw after so many transitions of warmup: there is at most one checkpoint for each transition."""
    while process.poll() is None:
        numbers = [int(path.stem.rpartition("-")[2]) for path in folder.glob("*/checkpoints/checkpoint-*.json")]
        if max(numbers, default=0) > after + 1:
            return
        time.sleep(0.05)
    pytest.fail(f"it ended by itself: {process.communicate()[1]}")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_keeps_what_was_reached(tmp_path, regression, number, code):
    words = (
        "nuts my_model.py:model --data d.npz --engine pyro --chains 1 --warmup 20 --draws 1000000 --out runs/a "
        "--checkpoint-every 0.001"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pyrolvm", *words.split()],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    assert "Problem(" in process.stderr.readline()  # the model was read
    _wait_for_draws(process, tmp_path / "runs/a", after=20)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "stopped; what was reached is saved in runs/a" in err and "Traceback" not in err
    assert (tmp_path / "runs/a/manifest.json").is_file()
    assert "slope" in out
