"""``pyrolvm gaps``: what it prints, draws and returns."""

from __future__ import annotations

import json

import pytest

MODEL = """
import pyro
import pyro.distributions as dist
import torch

def model(x):
    w = pyro.param("w", torch.ones(3))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1) * w, 1.0).to_event(1), obs=x)

def encoder(x):
    slope = pyro.param("slope", torch.full((3,), 0.2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ slope, 0.5))

def shared(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
"""


@pytest.fixture
def call(pyrolvm, tmp_path):
    (tmp_path / "m.py").write_text(MODEL)
    (tmp_path / "d.json").write_text(json.dumps({"x": [[float(i % 5), 1.0, -float(i % 3)] for i in range(12)]}))
    (tmp_path / "y.json").write_text(json.dumps({"y": [0.0, 1.0]}))
    return lambda *words: pyrolvm("gaps", *words)


def test_gaps_are_printed_drawn_and_written(call, tmp_path):
    given = ["m.py:model", "--data", "d.json", "--guide", "m.py:encoder", "--max-steps", "30", "--rows", "6"]
    run = call(*given, "--plot", "g.png", "--json", "g.json")
    assert run.code == 0, run.err
    assert all(
        word in run.out for word in ("approximation gap", "amortization gap", "variance_of_mean", "written: g.png")
    )
    found = json.loads((tmp_path / "g.json").read_text())
    assert found["rows"] == 6 and found["method"] == "exact" and found["collapse"]["units"] == 1
    assert found["figures"]["gap"] >= -1e-3
    assert (tmp_path / "g.png").stat().st_size > 5_000
    assert "exists already" in call(*given, "--plot", "g.png").err


def test_a_model_without_rows_is_exit_code_2(call):
    run = call("m.py:shared", "--data", "y.json", "--guide", "mean_field", "--max-steps", "5")
    assert run.code == 2 and "'mu' is outside plate" in run.err
