"""Tables taken whole, and columns of labels and dates."""

from __future__ import annotations

import datetime
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._cli import main
from pyrolvm._program.labels import Levels, Times, coded, coded_again

QUIET = {"progress": False, "max_steps": 5, "draws": 50, "engine": "pyro"}
RANDOM = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "school": RANDOM.choice(["Lima", "Oslo", "Bern"], 30),
        "when": pd.date_range("2024-03-01 12:00", periods=30),
        "x": RANDOM.normal(size=30),
        "y": RANDOM.normal(size=30),
        "left_aside": "same",
    }
)


def by_name(school: Tensor, when: Tensor, x: Tensor, y: Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    trend = pyro.sample("trend", dist.Normal(0.0, 1.0))
    with pyro.plate("schools", int(school.max()) + 1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(mu + (tau * z)[school] + trend * when / 100 + x, 1.0), obs=y)


def whole(df: Any) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with pyro.plate("rows", len(df)):
        pyro.sample("y", dist.Normal(a[df["school"]] + df.x, 1.0), obs=df["y"])


def counted(school: Tensor, n_schools: int, y: Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("schools", n_schools):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
    with pyro.plate("rows", len(school)):
        pyro.sample("y", dist.Normal(z[school], 1.0), obs=y)


def matrix(x: Tensor, k: int = 2) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([k]).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("obs", dist.Normal(w, 1.0).to_event(1), obs=x)


COLUMNS = {
    "text": (pd.Series(["b", "a"]), [1, 0], Levels(("a", "b"))),
    "objects": (pd.Series(["b", "a"], dtype=object), [1, 0], Levels(("a", "b"))),
    "text of Arrow": (pa.array(["b", "a"]), [1, 0], Levels(("a", "b"))),
    "a dictionary of Arrow": (pa.array(["b", "a"]).dictionary_encode(), [0, 1], Levels(("b", "a"))),
    "text of NumPy": (np.array(["b", "a"]), [1, 0], Levels(("a", "b"))),
    "categories in their order": (pd.Categorical(["b", "a"], ["b", "c", "a"]), [0, 2], Levels(("b", "c", "a"))),
    "categories of numbers": (pd.Series([20, 10], dtype="category"), [1, 0], Levels((10, 20))),
    "dates": (pd.Series(pd.to_datetime(["2024-01-02 12:00", "2024-01-01 06:00"])), [1.5, 0.25], Times("2024-01-01")),
    "dates of a zone": (
        pd.Series(pd.to_datetime(["2024-01-01"]).tz_localize("Etc/GMT+6")),
        [0.25],
        Times("2024-01-01"),
    ),
    "dates of NumPy": (np.array(["2024-01-03", "2024-01-01"], "datetime64[D]"), [2.0, 0.0], Times("2024-01-01")),
    "dates in text": (np.array(["2024-01-03", "2024-01-01"]), [2.0, 0.0], Times("2024-01-01")),
    "dates in a list": ([datetime.date(2024, 1, 3), datetime.date(2024, 1, 1)], [2.0, 0.0], Times("2024-01-01")),
    "durations": (pd.Series(pd.to_timedelta(["36h"])), [1.5], Times("")),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_labels_and_dates_are_numbers_that_say_what_they_stand_for(kind: str) -> None:
    value, numbers, code = COLUMNS[kind]
    found = coded("y", value)
    assert found is not None
    assert found[0].tolist() == numbers and found[1] == code
    again = coded_again("y", value, code)
    assert again is not None and again[0].tolist() == numbers


@pytest.mark.skipif(importlib.util.find_spec("polars") is None, reason="needs polars")
def test_columns_of_polars_are_coded_alike() -> None:
    import polars as pl

    for value, codes in ((pl.Series(["b", "a"]), [1, 0]), (pl.Series(["b", "a"], dtype=pl.Enum(["b", "a"])), [0, 1])):
        found = coded("y", value)
        assert found is not None and found[0].tolist() == codes
    assert lvm.Problem(by_name, pl.from_pandas(TABLE)).coords == {"schools": ["Bern", "Lima", "Oslo"]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (pd.Series(["a", None, "b", None]), r"2 missing values \(NA\), the first at \[1\]"),
        (pd.Series(pd.Categorical.from_codes([0, -1, 1], ["a", "b"])), r"1 missing value \(NA\), the first at \[1\]"),
        (pd.Series(pd.to_datetime(["2024-01-01", None])), r"1 missing value \(NA\), the first at \[1\]"),
        (
            pd.Series(["1.5", "2", "n/a"]),
            r"2 values read as numbers \('1.5' at \[0\]\).*the first \('n/a'\) at \[2\].*astype",
        ),
        (pd.Series(["1,5", "2,5"]), r"2 values read as numbers"),
    ],
)
def test_labels_that_are_missing_or_may_be_numbers_are_refused_with_the_first(value: Any, message: str) -> None:
    with pytest.raises(lvm.DataError, match=rf"argument 'school'.*{message}"):
        lvm.Problem(counted, value, 3, np.zeros(len(value)))


def test_the_columns_of_a_table_go_to_the_arguments_of_their_names() -> None:
    problem = lvm.Problem(by_name, TABLE)
    assert list(problem.arguments) == ["school", "when", "x", "y"]
    assert problem.dims["z"] == ["schools"]
    assert problem.coords == {"schools": ["Bern", "Lima", "Oslo"]}
    assert problem.arguments["when"][0] == 0.5
    with pytest.raises(lvm.ProblemError, match=r"it has none called 'school' or 'when' \(it has 'x', 'y'\)"):
        lvm.Problem(by_name, TABLE[["x", "y"]])
    assert lvm.Problem(counted, TABLE, n_schools=4).coords == {"schools": ["Bern", "Lima", "Oslo", "3"]}


def test_a_model_of_one_argument_gets_a_matrix_or_the_columns_that_it_asks_for() -> None:
    assert lvm.Problem(whole, TABLE).coords == {"a_dim_0": ["Bern", "Lima", "Oslo"]}
    assert lvm.Problem(matrix, TABLE[["y", "x"]].rename(columns={"x": "z"})).sites["obs"].shape == (30, 2)

    def asked(df: Any) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(df)):
            pyro.sample("y", dist.Normal(a * df["x"], 1.0), obs=df["y"])

    def dotted(df: Any) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(df)):
            pyro.sample("y", dist.Normal(a * df.x, 1.0), obs=df.y)

    for model in (asked, dotted):
        assert lvm.Problem(model, TABLE[["x", "y"]]).observed[0].shape == (30,)
    with pytest.raises(lvm.ProblemError, match=r"asks argument 'df', a tensor, for 'x'"):
        lvm.Problem(asked, torch.ones(3, 2))
    with pytest.raises(lvm.ProblemError, match=r"a table in a model has columns"):
        lvm.Problem(lambda df: df.shape, TABLE)


def test_labels_that_are_observed_as_quantities_are_refused() -> None:
    def model(school: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(school)):
            pyro.sample("school", dist.Normal(mu, 1.0), obs=school)

    with pytest.raises(lvm.DataError, match=r"site 'school' is Normal.*labels \('Bern', 'Lima', 'Oslo'\).*0 to 2"):
        lvm.Problem(model, TABLE)


def test_results_and_predictions_have_labels_and_unknown_levels_are_new_members(tmp_path: Path) -> None:
    problem = lvm.Problem(by_name, TABLE)
    fit = lvm.fit(problem, "mean_field", **QUIET)
    assert [*fit.summary().index][-3:] == ["z[Bern]", "z[Lima]", "z[Oslo]"]
    assert fit.data["constant_data"]["school"].attrs["levels"] == '["Bern", "Lima", "Oslo"]'
    assert fit.data["constant_data"]["when"].attrs == {"unit": "days", "origin": "2024-03-01"}
    fit.save(tmp_path / "a")
    loaded = lvm.load(tmp_path / "a", problem=problem)
    new = pd.DataFrame({"school": ["Oslo", "Rome"], "when": ["2024-05-01", "2024-05-02"], "x": [0.0, 1.0], "unused": 1})
    found = lvm.predict(loaded, new)
    assert found["predictions"]["z"].coords["schools"].values.tolist() == ["Bern", "Lima", "Oslo", "Rome"]
    assert found["predictions_constant_data"]["when"].values.tolist() == [61.0, 62.0]
    old = fit.data["posterior"]["z"].sel(schools="Oslo").values
    assert np.array_equal(found["predictions"]["z"].sel(schools="Oslo").values, old)
    by_list = lvm.predict(fit, school=["Oslo"], when="2024-03-02", x=[0.0])
    assert by_list["predictions"]["y"].shape[-1] == 1
    scored = lvm.predict(fit, TABLE.head(3))
    assert scored["log_score"]["y"].shape[-1] == 3


def test_a_number_of_members_that_does_not_grow_with_the_levels_is_asked_for() -> None:
    fit = lvm.fit(lvm.Problem(counted, TABLE, n_schools=3), "mean_field", **QUIET)
    new = pd.DataFrame({"school": ["Rome"]})
    with pytest.raises(lvm.ArgumentError, match=r"'school' has 1 label.*'Rome'.*n_schools=4"):
        lvm.predict(fit, new)
    assert lvm.predict(fit, new, n_schools=4)["predictions"]["z"].coords["schools"].values[-1] == "Rome"


def test_a_table_that_is_one_argument_is_predicted_without_its_observed_columns() -> None:
    fit = lvm.fit(lvm.Problem(whole, TABLE), "mean_field", **QUIET)
    found = lvm.predict(fit, TABLE[["school", "x"]].head(2))
    assert found["predictions"]["y"].shape[-1] == 2 and "log_score" not in found.children
    assert lvm.predict(fit, TABLE.head(2))["log_score"]["y"].shape[-1] == 2


def test_observed_labels_are_named_in_predictions() -> None:
    def model(x: Tensor, school: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("kind", dist.Categorical(logits=x[:, None] * w), obs=school)

    fit = lvm.fit(lvm.Problem(model, TABLE), "mean_field", **QUIET)
    for dataset in (fit.data["observed_data"], lvm.predict(fit, x=[0.0, 1.0])["predictions"]):
        assert dataset["kind"].attrs["levels"] == '["Bern", "Lima", "Oslo"]'


def test_labels_and_dates_of_a_table_in_a_file_are_taken_by_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.py").write_text(
        "import pyro, torch\nimport pyro.distributions as dist\n\n"
        "def model(school, when, y):\n"
        "    t = pyro.sample('t', dist.Normal(0.0, 1.0))\n"
        "    with pyro.plate('schools', int(school.max()) + 1):\n        a = pyro.sample('a', dist.Normal(0.0, 1.0))\n"
        "    with pyro.plate('rows', len(school)):\n        pyro.sample('y', dist.Normal(a[school] + t * when, 1.0), obs=y)\n"
    )
    Path("d.csv").write_text("school,when,y\nOslo,2024-01-01,0.5\nBern,2024-01-02,0.1\nOslo,2024-01-03,0.2\n")
    Path("n.csv").write_text("school,when\nRome,2024-01-04\n")
    assert (
        main(
            [
                "fit",
                "m.py:model",
                "--data",
                "d.csv",
                "--guide",
                "mean_field",
                "--max-steps",
                "5",
                "--engine",
                "pyro",
                "--out",
                "r",
            ]
        )
        == 0
    )
    assert "a[Bern]" in capsys.readouterr().out
    assert main(["predict", "r", "--problem", "m.py:model", "--data", "d.csv", "--new", "n.csv", "--out", "p.csv"]) == 0
    found = pd.read_csv("p.csv")
    assert found["variable"].tolist() == ["a", "a", "a", "y"]


def test_text_of_dates_with_zones_is_dates_in_utc() -> None:
    def days(*text: str) -> list[float]:
        found = coded("when", np.array(text, dtype=object))
        assert found is not None and isinstance(found[1], Times)
        return [float(day) for day in found[0]]

    assert days("2024-03-01T12:00:00+02:00", "2024-03-02") == pytest.approx([10 / 24, 1.0])
    assert days("2024-03-01T12:00Z") == [0.5]
    assert days("2024-03-01 06:00:00.500000000") == pytest.approx([0.25 + 0.5 / 86400])
    again = coded_again("when", ["2024-03-02T02:00+0200"], Times("2024-03-01"))
    assert again is not None and again[0].tolist() == [1.0]
    labels = coded("when", np.array(["2024-13-01T00:00Z"], dtype=object))
    assert labels is not None and isinstance(labels[1], Levels)


def herds(herd: Tensor, x: Tensor, y: Tensor | None = None) -> None:
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    with pyro.plate("herds", int(herd.max()) + 1):
        own = pyro.sample("own", dist.Normal(0.0, spread))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(own[herd] + x, 0.01), obs=y)


@pytest.mark.parametrize(
    "held",
    [pd.Series([3, 11, 99]), np.array([3, 11, 99]), [3, 11, 99], pa.array([3, 11, 99]), pd.Series([3.0, 11.0, 99.0])],
)
def test_numbers_that_name_members_are_labels_in_new_data_too(held: Any) -> None:
    again = coded_again("herd", held, Levels((3, 7, 11)))
    assert again is not None and again[0].tolist() == [0, 2, 3] and len(again[1].labels) == 4  # type: ignore[union-attr]
    assert coded_again("herd", torch.tensor([0, 2]), Levels((3, 7, 11))) is None  # codes already
    assert coded_again("herd", held, Levels(("a", "b"))) is None
    with pytest.raises(lvm.DataError, match="missing"):
        coded_again("herd", pd.Series([3.0, np.nan]), Levels((3, 7, 11)))


def test_a_new_table_names_the_members_of_the_fit_by_their_numbers() -> None:
    table = pd.DataFrame({"herd": np.repeat([3, 7, 11], 20), "x": 0.0, "y": np.repeat([-2.0, 0.0, 2.0], 20)})
    fit = lvm.fit(lvm.Problem(herds, table.astype({"herd": "category"})), "full_rank", progress=False)
    found = lvm.predict(fit, pd.DataFrame({"herd": [11, 3], "x": [0.0, 0.0]}), seed=0)["predictions"]["y"]
    assert found.mean(("chain", "draw")).values == pytest.approx([2.0, -2.0], abs=0.05)
