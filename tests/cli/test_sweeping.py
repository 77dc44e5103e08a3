"""``pyrolvm sweep``: what it prints, keeps and returns."""

from __future__ import annotations

import json

import pytest

import pyrolvm as lvm

MODEL = """
import pyro
import pyro.distributions as dist
import torch

def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

def guide(y):
    pyro.sample("mu", dist.Normal(pyro.param("loc", torch.zeros(())), 0.4))

def refuses(problem, seed):
    raise RuntimeError(f"seed {seed} is refused")
"""


@pytest.fixture
def call(pyrolvm, tmp_path):
    (tmp_path / "m.py").write_text(MODEL)
    (tmp_path / "d.json").write_text(json.dumps({"y": [0.0] * 5}))
    given = [
        "m.py:model",
        "--data",
        "d.json",
        "--guide",
        "m.py:guide",
        "--max-steps",
        "5",
        "--draws",
        "50",
        "--backend",
        "here",
    ]
    return lambda *words: pyrolvm("sweep", *given, "--out", "runs/s", *words)


def test_it_is_run_kept_shown_and_gone_on_with(pyrolvm, call, tmp_path):
    run = call("--guide", "mean_field", "--seeds", "2", "--json", "s.json")
    assert run.code == 0, run.err
    for word in ("4 cells (1 problems, 2 methods): 4 done", "mean_field", "m.py:guide", "saved in runs/s"):
        assert word in run.out
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["counts"] == {"done": 4} and len(found["table"]) == 4
    assert "something is saved there already" in call().err
    more = call("--seeds", "1,5", "--resume")
    assert more.code == 0 and "2 done" in more.out
    assert lvm.load(tmp_path / "runs/s").counts == {"done": 5}
    again = pyrolvm("diagnose", "runs/s")
    assert again.code == 0 and "5 done" in again.out
    assert "is a sweep" in pyrolvm("report", "runs/s", "runs/s").err


def test_cells_that_fail_are_exit_code_1(call):
    run = call("--guide", "m.py:refuses", "--seeds", "2")
    assert run.code == 1
    assert "2 done, 2 failed" in run.out and "1 x RuntimeError: seed 1 is refused" in run.out
    assert call("--overwrite").code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seeds", "x"], "--seeds must be a number or numbers with commas, got 'x'"),
        (["--seeds", "0"], "seeds must be an integer of at least 1, got 0"),
        (["--guide", "fullrank"], "did you mean 'full_rank'"),
        (["--backend", "locla"], "did you mean 'local'"),
        (["--retries", "-1"], "must be an integer of at least 0"),
    ],
)
def test_usage(call, words, says):
    run = call(*words)
    assert run.code == 2 and says in run.err and "Fix: " in run.err
