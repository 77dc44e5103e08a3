"""``pyrolvm evaluate`` and ``pyrolvm sample``: from a shell to files, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest

import pyrolvm as lvm
from pyrolvm._cli import main

SOURCE = """
import pyro, pyro.distributions as dist, torch
import pyrolvm as lvm

@lvm.model(images={"x": (2, 3)})
def model(x):
    weights = pyro.param("weights", torch.linspace(-2, 2, 6))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Bernoulli(logits=z.unsqueeze(-1) * weights).to_event(1), obs=x)

def guide(x):
    slope = pyro.param("slope", torch.full((6,), 0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ slope, 0.8))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, data, and a saved fit of both."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "my.py").write_text(SOURCE)
    random = np.random.default_rng(0)
    for name, rows in (("train", 50), ("test", 20), ("other", 10)):
        x = (random.random((rows, 6)) < 0.5).astype(float)
        np.savez(folder / f"{name}.npz", x=x, y=np.arange(rows) % 2)
    np.savez(folder / "wrong.npz", x=np.ones((5, 4)))
    np.savez(folder / "nan.npz", x=np.full((5, 6), np.nan))
    np.savez(folder / "named.npz", z=np.ones((5, 6)))
    words = [
        "--data",
        str(folder / "train.npz"),
        "--guide",
        f"{folder}/my.py:guide",
        "--max-steps",
        "20",
        "--engine",
        "pyro",
    ]
    assert main(["fit", f"{folder}/my.py:model", *words, "--out", str(folder / "run"), "--quiet"]) in (0, 1)
    return folder


def attach(place):
    return ["--problem", f"{place}/my.py:model", "--data", str(place / "train.npz"), "--guide", f"{place}/my.py:guide"]


def test_a_run_is_evaluated_on_held_out_rows(place, tmp_path, capsys):
    out = tmp_path / "e"
    words = [
        "--held-out",
        str(place / "test.npz"),
        "--labels",
        "y",
        "--outliers",
        f"odd={place / 'other.npz'}",
        "--draws",
        "50",
    ]
    code = main(
        ["evaluate", str(place / "run"), *attach(place), *words, "--out", str(out), "--json", str(tmp_path / "o.json")]
    )
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "log p(x)" in told.out and "AUROC" in told.out and "linear probe accuracy" in told.out
    content = json.loads((tmp_path / "o.json").read_text())
    assert content["rows"] == 20 and {row["data set"] for row in content["auroc"]} == {"odd", "plain"}
    assert (out / "report.html").is_file() and len(list((out / "pictures").glob("*.png"))) >= 4
    assert lvm.load(out).draws == 50
    assert main(["diagnose", str(out)]) == 0 and "log p(x)" in capsys.readouterr().out
    assert main(["evaluate", str(place / "run"), *attach(place), *words, "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_target_is_fitted_to_some_rows_and_evaluated_on_others(tmp_path, capsys):
    words = [
        "--option",
        "images=120",
        "--option",
        "hidden=8",
        "--guide",
        "amortized",
        "--max-steps",
        "5",
        "--batch-size",
        "30",
    ]
    code = main(
        [
            "evaluate",
            "vae",
            *words,
            "--hold-out",
            "0.25",
            "--draws",
            "20",
            "--shape",
            "8x8",
            "--out",
            str(tmp_path / "e"),
        ]
    )
    assert code == 0 and "30 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--held-out", "nan.npz"], "finite"),
        (["--held-out", "wrong.npz"], "Fix:"),
        (["--held-out", "named.npz"], "takes x"),
        (["--held-out", "none.npz"], "no data file"),
        (["--held-out", "test.npz", "--labels", "k"], "holds x, y"),
        (["--labels", "y"], "--held-out"),
        (["--held-out", "test.npz", "--shape", "9x9"], "81 pixels"),
        (["--held-out", "test.npz", "--shape", "9"], "28x28"),
        (["--hold-out", "0.5"], "TARGET"),
    ],
)
def test_bad_evaluations_are_refused(place, words, match, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    code = main(["evaluate", str(place / "run"), *attach(place), *words, "--out", str(tmp_path / "e")])
    told = capsys.readouterr().err
    assert code == 2 and match in told and "Fix:" in told and not (tmp_path / "e").exists()


def test_a_run_needs_its_own_model(place, tmp_path, capsys):
    out = ["--out", str(tmp_path / "e")]
    assert main(["evaluate", str(place / "run"), *out]) == 2
    assert "--problem path/file.py:model" in capsys.readouterr().err
    assert main(["evaluate", str(place / "run"), *attach(place)[:4], *out]) == 2
    assert "--guide file.py:guide" in capsys.readouterr().err
    other = ["--problem", f"{place}/my.py:model", "--data", str(place / "test.npz"), "--guide", f"{place}/my.py:guide"]
    assert main(["evaluate", str(place / "run"), *other, *out]) == 2
    assert "with other data" in capsys.readouterr().err
    assert main(["evaluate", str(place), *out]) == 2
    assert "no saved result" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("of", "suffix"), [("new", ".nc"), ("new", ".csv"), ("new", ".png"), ("latents", ".csv"), ("predictive", ".nc")]
)
def test_draws_are_written(place, of, suffix, tmp_path, capsys):
    file = tmp_path / f"drawn{suffix}"
    words = ["sample", str(place / "run"), *attach(place), "--of", of, "--draws", "12", "--out", str(file)]
    assert main(words) == 0, capsys.readouterr().err
    if suffix == ".csv":
        lines = file.read_text().splitlines()
        assert len(lines) == 13 and lines[0].split(",")[0] == ("x.1" if of == "new" else "z.1")
    elif suffix == ".nc":
        import xarray as xr

        with xr.open_datatree(file, engine="h5netcdf") as tree:
            group = "prior_predictive" if of == "new" else "posterior_predictive"
            assert tree[group]["x"].sizes["sample"] == 12
    else:
        assert file.read_bytes()[:4] == b"\x89PNG"
    assert main(words) == 2 and "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--out", "a.txt"], ".nc, .csv or .png"),
        (["--out", "no/where.nc"], "folder"),
        (["--out", "a.nc", "--of", "newest"], "new"),
        (["--out", "a.png", "--of", "latents"], "no image"),
        (["--out", "a.nc", "--of", "predictive", "--draws", "9999999"], "stored"),
    ],
)
def test_bad_draws_are_refused(place, words, match, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(place / "run"), *attach(place), *words]) == 2
    told = capsys.readouterr().err
    assert match in told and "Fix:" in told
