"""``pyrolvm compress`` and ``decompress``: files, and what is said of them."""

from __future__ import annotations

import json

import numpy as np

MODEL = """
import pyro
import pyro.distributions as dist
import torch

def model(x):
    w = pyro.param("w", torch.ones(3))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Bernoulli(logits=z.unsqueeze(-1) * w).to_event(1), obs=x)

def encoder(x):
    slope = pyro.param("slope", torch.full((3,), 0.2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ slope, 0.5))
"""


def test_rows_go_into_a_file_and_come_out_of_it(pyrolvm, tmp_path):
    x = np.arange(36).reshape(12, 3) % 2.0
    (tmp_path / "m.py").write_text(MODEL)
    (tmp_path / "d.json").write_text(json.dumps({"x": x.tolist()}))
    np.savez(tmp_path / "new.npz", x=1 - x)
    model = ["--problem", "m.py:model", "--data", "d.json", "--guide", "m.py:encoder"]
    fit = pyrolvm(
        "fit",
        "m.py:model",
        "--data",
        "d.json",
        "--guide",
        "m.py:encoder",
        "--max-steps",
        "3",
        "--engine",
        "pyro",
        "--out",
        "run",
    )
    assert fit.code in (0, 1), fit.err
    run = pyrolvm("compress", "run", "new.npz", *model, "--out", "new.lvmz", "--json", "c.json")
    assert run.code == 0, run.err
    told = json.loads((tmp_path / "c.json").read_text())
    assert told["rows"] == 12 and told["bits"]["whole file"] == 8 * (tmp_path / "new.lvmz").stat().st_size
    assert "written: new.lvmz" in run.out and "net" in run.out
    assert "exists already" in pyrolvm("compress", "run", "new.npz", *model, "--out", "new.lvmz").err
    for name in ("again.npz", "again.csv"):
        run = pyrolvm("decompress", "run", "new.lvmz", *model, "--out", name)
        assert run.code == 0, run.err
    assert np.array_equal(np.load(tmp_path / "again.npz")["x"], 1 - x)
    assert np.array_equal(np.loadtxt(tmp_path / "again.csv", delimiter=",", skiprows=1), 1 - x)
    (tmp_path / "bad.lvmz").write_bytes((tmp_path / "new.lvmz").read_bytes()[:-7])
    run = pyrolvm("decompress", "run", "bad.lvmz", *model, "--out", "no.npz")
    assert run.code == 2 and "damaged" in run.err and not (tmp_path / "no.npz").exists()
