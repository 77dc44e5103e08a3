"""``pyrolvm predict``."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from pyrolvm._base.errors import DataError
from pyrolvm._cli import main

MODEL = """
import pyro
import pyro.distributions as dist


def line(x, y):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a + b * x, 0.5), obs=y)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(MODEL)
    pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "y": [1.0, 3.1, 4.9, 7.0]}).to_csv("data.csv", index=False)
    pd.DataFrame({"x": [10.0, 0.5], "patient": [7, 8]}).to_csv("new.csv", index=False)
    assert main(["exact", "my_model.py:line", "--data", "data.csv", "--out", "runs/a", "--quiet"]) == 0
    return tmp_path


WORDS = ["predict", "runs/a", "--problem", "my_model.py:line", "--data", "data.csv", "--new", "new.csv"]


def test_new_rows_are_predicted_into_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--out", "p.csv", "--json", "-", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["shapes"]["predictions/y"] == [2, 5]
    table = pd.read_csv("p.csv")
    assert list(table["variable"]) == ["y", "y"]
    assert table["mean"].tolist() == pytest.approx([21.0, 2.0], abs=0.4)


def test_known_rows_are_scored_and_draws_are_kept(run: Path) -> None:
    pd.DataFrame({"x": [1.5], "y": [4.0]}).to_csv("new.csv", index=False)
    assert main([*WORDS, "--out", "p.csv", "--quiet"]) == 0
    assert pd.read_csv("p.csv")["lpd"][0] == pytest.approx(-0.4, abs=0.3)
    assert main([*WORDS, "--out", "p.nc", "--quiet"]) == 0
    assert Path("p.nc").stat().st_size > 1000


def test_a_file_that_is_there_stays(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.csv").write_text("mine")
    assert main([*WORDS, "--out", "p.csv"]) == 2
    assert Path("p.csv").read_text() == "mine" and "--overwrite" in capsys.readouterr().err


def test_a_file_of_other_names_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"z": [1.5]}).to_csv("new.csv", index=False)
    assert main([*WORDS, "--out", "p.csv"]) == 2
    assert "none of which is an argument of line (x, y)" in capsys.readouterr().err


def test_a_long_table_is_predicted_in_pieces_as_it_is_as_a_whole(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame({"x": [0.5 * i for i in range(25)], "y": [1.0 + i for i in range(25)]})
    table.to_csv("new.csv", index=False)
    Path("new.json").write_text(json.dumps(table.to_dict(orient="list")))
    monkeypatch.setattr("pyrolvm._check.predict.streaming.AT_ONCE", 1_000)  # ten rows with a hundred draws
    words = [*WORDS[:-1], "new.csv", "--draws", "100", "--quiet", "--out"]
    assert main([*words, "pieces.csv"]) == 0
    assert main([*[word.replace("new.csv", "new.json") for word in words], "whole.csv"]) == 0
    pieces, whole = pd.read_csv("pieces.csv"), pd.read_csv("whole.csv")
    pd.testing.assert_frame_equal(pieces, whole)
    assert pieces["index"].tolist() == list(range(25)) and pieces["lpd"].notna().all()


def test_a_column_has_one_type_in_all_pieces(tmp_path: Path) -> None:
    from pyrolvm._cli.tables import read_pieces

    path = tmp_path / "t.csv"
    path.write_text("a,b,c,d\n1,7,x,1\n2,8,y,2\n\n3.5,9,z,late\n")
    frames = [frame for _, frame in read_pieces(path, 2)]
    assert [len(frame) for frame in frames] == [2, 1]
    assert all(frame["a"].dtype == float and frame["b"].dtype == "int64" for frame in frames)
    assert frames[0]["d"].tolist() == ["1", "2"] and frames[1]["d"].tolist() == ["late"]
    path.write_text("a,b\n1,2\n3\n")
    with pytest.raises(DataError, match="fewer values in a row"):
        next(read_pieces(path, 1))
    path.write_text("a\n1\n2\n1e999\n")
    with pytest.raises(DataError, match="1e999 is beyond"):
        list(read_pieces(path, 2))
