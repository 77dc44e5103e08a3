"""``pyrolvm calibrate``: what it prints, keeps and returns."""

from __future__ import annotations

import json

import pytest

MODEL = """
import pyro
import pyro.distributions as dist
import torch

def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

def guide(y):
    scale = (1 + len(y)) ** -0.5
    pyro.sample("mu", dist.Normal(y.sum() * scale**2 + pyro.param("off", torch.zeros(())), scale))

def careless(y):
    pyro.sample("mu", dist.Normal(pyro.param("loc", torch.zeros(())), 0.05))
"""


@pytest.fixture
def call(pyrolvm, tmp_path):
    (tmp_path / "m.py").write_text(MODEL)
    (tmp_path / "d.json").write_text(json.dumps({"y": [0.0] * 5}))
    given = ["m.py:model", "--data", "d.json", "--simulations", "6", "--workers", "1", "--out", "runs/c"]
    return lambda *words: pyrolvm("calibrate", *given, *words)


def test_it_is_run_kept_shown_and_gone_on_with(pyrolvm, call, tmp_path):
    run = call("--method", "m.py:guide", "--json", "c.json")
    assert run.code == 0, run.err
    for word in ("guide on model: 6 simulations", "log_likelihood", "verdict: doubtful", "gross errors only", "runs/c"):
        assert word in run.out
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["simulations"] == 6 and found["verdict"]["status"] == "doubtful"
    assert (tmp_path / "runs/c/ranks.png").stat().st_size > 5_000
    assert "something is saved there already" in call("--method", "m.py:guide").err
    more = call("--method", "m.py:guide", "--resume", "--simulations", "8")
    assert more.code == 0 and "8 simulations" in more.out
    assert "another " in call("--method", "m.py:careless", "--resume").err
    again = pyrolvm("diagnose", "runs/c")
    assert again.code == 0 and "8 simulations" in again.out
    assert "diagnose runs/c" in pyrolvm("report", "runs/c", "runs/c").err


@pytest.mark.slow
def test_a_method_that_is_wrong_is_exit_code_1(call):
    run = call("--method", "m.py:careless", "--simulations", "15", "--ranked", "63")
    assert run.code == 1, run.err
    assert "mu: posterior too narrow" in run.out
    assert call("--method", "m.py:guide", "--overwrite", "--simulations", "2").code == 0
