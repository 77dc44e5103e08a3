"""``pyrolvm loo``, ``compare-models`` and ``cross-validate``."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import pyrolvm as lvm
from pyrolvm._check import saved as kinds
from pyrolvm._cli import main, saved

MODEL = """
import pyro
import pyro.distributions as dist


def line(x, y):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a + b * x, 0.5), obs=y)


def level(x, y):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a, 0.5), obs=y)
"""


def test_rows_are_left_out_models_compared_and_folds_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(MODEL)
    pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0, 4.0], "y": [1.0, 3.1, 4.9, 7.0, 9.2]}).to_csv("data.csv", index=False)
    data = ["--data", "data.csv", "--quiet"]
    for name in ("line", "level"):
        assert main(["exact", f"my_model.py:{name}", *data, "--out", f"runs/{name}"]) == 0
    capsys.readouterr()
    assert main(["loo", "runs/line", "--out", "rows.csv", "--json", "-", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 5
    assert list(pd.read_csv("rows.csv").columns)[1:] == ["elpd", "khat"]
    main(["compare-models", "runs/line", "runs/level", "--json", "-", "--quiet"])
    assert [row["model"] for row in json.loads(capsys.readouterr().out)["table"]] == ["line", "level"]
    words = ["--method", "exact", "--folds", "2", "--backend", "here", "--out", "runs/cv"]
    assert main(["cross-validate", "my_model.py:line", *data, *words, "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["folds"]) == 2 and found["elpd"] < 0
    assert main(["loo", "runs/cv"]) == 2 and "not a posterior" in capsys.readouterr().err
    assert main(["diagnose", "runs/cv", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["folds"] == found["folds"]
    assert main(["report", "runs/cv", "runs/line", "--out", "r.html"]) == 2
    assert "of kind CrossValidation" in capsys.readouterr().err


@pytest.mark.parametrize("kind", sorted({*kinds._KINDS} - {"Sweep", "Calibration", "CrossValidation"}))
def test_every_kind_that_is_read_is_shown(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Found:
        verdict = lvm.Verdict.of([], [])

        def as_dict(self) -> dict[str, str]:
            return {"kind": kind}

    monkeypatch.setattr(saved, "kind_of", lambda path: kind)
    monkeypatch.setattr(lvm, "load", lambda path: Found())
    assert main(["diagnose", "runs/a", "--json", "-", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == kind
