"""``pyrolvm evidence``: what it prints, draws and returns."""

from __future__ import annotations

import json
import math

import pytest

MODEL = """
import pyro
import pyro.distributions as dist
import torch

def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

def narrow(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([20]).to_event(1))
    pyro.sample("y", dist.Normal(z.sum(), 1e-3), obs=y.sum())

def guide(y):
    scale = (1 + len(y)) ** -0.5
    pyro.sample("mu", dist.Normal(y.sum() * scale**2 + pyro.param("off", torch.zeros(())), scale))
"""

# Five zeros of variance one about a mean of variance one.
EXACT = -2.5 * math.log(2 * math.pi) - 0.5 * math.log(6.0)


@pytest.fixture
def call(pyrolvm, tmp_path):
    (tmp_path / "m.py").write_text(MODEL)
    (tmp_path / "d.json").write_text(json.dumps({"y": [0.0] * 5}))
    return lambda *words, model="model": pyrolvm("evidence", f"m.py:{model}", "--data", "d.json", *words)


def test_one_method_is_printed_with_its_verdict(call):
    run = call("--method", "prior", "--draws", "2000", "--json", "-")
    assert run.code == 0, run.err
    found = json.loads(run.out)["methods"]["prior"]
    assert abs(found["value"] - EXACT) < 5 * found["error"]
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert "verdict: trusted" in run.err


def test_several_are_a_table_and_a_picture(call, tmp_path):
    run = call("--method", "exact,prior,ais", "--draws", "300", "--plot", "e.png")
    assert run.code == 0, run.err
    assert all(word in run.out for word in ("exact", "prior", "ais", "evaluations", "written: e.png"))
    assert (tmp_path / "e.png").stat().st_size > 5_000
    assert "exists already" in call("--method", "prior", "--plot", "e.png").err


def test_a_guide_is_fitted_and_drawn_from(call):
    run = call("--guide", "m.py:guide", "--method", "importance", "--draws", "500", "--json", "-")
    assert run.code == 0, run.err
    assert json.loads(run.out)["methods"]["importance"]["value"] == pytest.approx(EXACT, abs=0.05)


def test_an_estimate_that_failed_is_exit_code_1(call):
    run = call("--method", "prior", "--draws", "500", model="narrow")
    assert run.code == 1
    assert "verdict: failed" in run.out and "effective" in run.out


def test_an_unknown_method_is_exit_code_2(call):
    run = call("--method", "brige")
    assert run.code == 2 and "did you mean 'bridge'" in run.err
