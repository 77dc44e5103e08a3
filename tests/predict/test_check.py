"""Data that a model makes beside the data that there are, and the prior's part in a posterior."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._check.discrepancy import inference
from pyrolvm._cli import main

RANDOM = np.random.default_rng(1)
X = RANDOM.normal(size=200)
CITY = RANDOM.choice(["Lima", "Oslo", "Bern"], 200)
POISSON = RANDOM.poisson(np.exp(0.5 + 0.3 * X))
ZEROS = POISSON * (RANDOM.random(200) > 0.4)


def counts(x: Tensor, city: Tensor, n: Tensor) -> None:
    base = pyro.sample("base", dist.Normal(0.0, 1.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 0.5))
    with pyro.plate("rows", len(x)):
        pyro.sample("n", dist.Poisson((base + slope * x).exp()), obs=n)


def normal(y: Tensor, width: float) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, width))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def nested(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("groups", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def fitted(n: np.ndarray) -> lvm.Fit:  # type: ignore[type-arg]
    table = pd.DataFrame({"x": X, "city": CITY, "n": n})
    return lvm.fit(lvm.Problem(counts, table), "full_rank", progress=False, seed=0)


@pytest.fixture(scope="module")
def inflated() -> lvm.Fit:
    return fitted(ZEROS)


def test_what_the_model_does_not_make_is_extreme_and_named(inflated: lvm.Fit) -> None:
    found = lvm.check(inflated)
    p = found.table["p"].xs(("n", ""), level=("site", "group"))
    assert p["zeros"] < 0.01 and 0.1 < p["mean"] < 0.9
    assert found.verdict.status == "doubtful"
    assert "zeros of n" in found.verdict.reasons[0].text and "zero-inflated" in found.verdict.next_steps[0]


@pytest.mark.slow
def test_data_from_the_model_give_no_reason_to_doubt_it_and_are_no_proof() -> None:
    found = lvm.check(fitted(POISSON))
    assert found.verdict.status == "trusted"
    assert "That is no proof" in found.verdict.reasons[0].text
    assert list(found.tables) == ["posterior_predictive", "prior_predictive"]


def test_features_are_those_of_the_draws_themselves(inflated: lvm.Fit) -> None:
    found = lvm.check(inflated, draws=100_000, statistics={"range": lambda y: y.max(axis=1) - y.min(axis=1)})
    drawn = inflated.data["posterior_predictive"]["n"].values.reshape(-1, 200)
    row = found.table.loc[("n", "", "zeros")]
    share = (drawn == 0).mean(axis=1)
    assert row["observed"] == (ZEROS == 0).mean()
    assert math.isclose(row["mean"], share.mean()) and math.isclose(row["sd"], share.std())
    expected = (share > row["observed"]).mean() + 0.5 * (share == row["observed"]).mean()
    assert math.isclose(row["p"], expected)
    assert found.table.loc[("n", "", "range"), "observed"] == ZEROS.max() - ZEROS.min()
    with pytest.raises(lvm.ArgumentError, match="gave shape"):
        lvm.check(inflated, statistics={"all": lambda y: y})


def test_groups_of_rows_are_looked_at_by_their_labels(inflated: lvm.Fit) -> None:
    found = lvm.check(inflated, by="city").table
    assert set(found.index.get_level_values("group")) == {"", "Bern", "Lima", "Oslo"}
    assert found.loc[("n", "Oslo", "mean"), "observed"] == ZEROS[CITY == "Oslo"].mean()
    by_hand = lvm.check(inflated, by=list(CITY)).table
    assert by_hand.loc[("n", "Oslo", "mean"), "observed"] == ZEROS[CITY == "Oslo"].mean()
    with pytest.raises(lvm.ArgumentError, match=r"by='town' is no column.*x, city, n"):
        lvm.check(inflated, by="town")
    with pytest.raises(lvm.ArgumentError, match="by has 3 rows, and 'n' has 200"):
        lvm.check(inflated, by=["a", "b", "c"])


def test_rows_that_are_missing_are_in_neither_data_nor_replicates() -> None:
    n = POISSON.astype(float)
    n[[3, 5]] = np.nan
    problem = lvm.Problem(counts, X, CITY, n, missing="latent")
    found = lvm.check(problem, by="city")
    assert found.table.loc[("n", "", "mean"), "observed"] == pytest.approx(np.nanmean(n))
    assert found.table.loc[("n", "Lima", "mean"), "observed"] == pytest.approx(np.nanmean(n[CITY == "Lima"]))


def test_a_prior_that_does_not_reach_the_data_is_found_before_inference() -> None:
    y = torch.full((10,), 30.0) + torch.linspace(-1, 1, 10)
    assert lvm.check(lvm.Problem(normal, y, 1.0)).verdict.status == "doubtful"
    assert lvm.check(lvm.Problem(normal, y, 50.0)).verdict.status == "trusted"

    def improper(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    with pytest.raises(lvm.ProblemError, match="prior that cannot be sampled"):
        lvm.check(lvm.Problem(improper, y))


def test_labels_are_compared_by_their_shares() -> None:
    def model(city: Tensor) -> None:
        p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("rows", len(city)):
            pyro.sample("city", dist.Categorical(p), obs=city)

    table = lvm.check(lvm.Problem(model, pd.DataFrame({"city": CITY}))).table
    assert table.loc[("city", "", "share of Oslo"), "observed"] == (CITY == "Oslo").mean()
    assert "mean" not in table.index.get_level_values("statistic")


def test_a_check_is_a_page_pictures_and_json(inflated: lvm.Fit, tmp_path: Path) -> None:
    found = lvm.check(inflated)
    text = found.to_html(tmp_path / "a.html").read_text()
    assert text.count("<figure>") == 2 and "<script" not in text and "zeros" in text
    assert json.dumps(found.as_dict()) and "zeros" in found._repr_html_()
    for kind in ("statistics", "data"):
        found.plot(kind, path=tmp_path / f"{kind}.png")
    with pytest.raises(lvm.UnknownNameError):
        found.plot("pie")


def test_a_check_is_saved_and_loaded(inflated: lvm.Fit, tmp_path: Path) -> None:
    found = lvm.check(inflated, by="city", draws=50)
    found.save(tmp_path / "check")
    again = lvm.load(tmp_path / "check")
    assert isinstance(again, type(found)) and str(again) == str(found) and again.verdict == found.verdict
    for kind, table in found.tables.items():
        pd.testing.assert_frame_equal(again.tables[kind], table)
    assert found.sensitivity is not None
    pd.testing.assert_frame_equal(again.sensitivity, found.sensitivity)
    assert again.sensitivity.attrs == found.sensitivity.attrs
    first, second = (one.to_html(tmp_path / "page.html").read_text().split("<dt>command") for one in (again, found))
    assert first[0] == second[0]
    with pytest.raises(lvm.StoreError, match="already"):
        found.save(tmp_path / "check")


def test_a_check_is_a_run_that_is_kept_read_and_replaced(
    inflated: lvm.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"out": tmp_path / "check", "statistics": {"highest": lambda y: y.max(axis=1)}}
    found = lvm.check(inflated, draws=50, **asked)
    with pytest.raises(lvm.StoreError, match="resume=True"):
        lvm.check(inflated, draws=50, **asked)
    with monkeypatch.context() as patch:
        patch.delattr(inference, "_checked")  # what is finished is read
        again = lvm.check(inflated, draws=50, resume=True, **asked)
    assert str(again) == str(found) and "highest" in str(again)
    with pytest.raises(lvm.StoreError, match="draws"):
        lvm.check(inflated, draws=40, resume=True, **asked)
    other = lvm.check(lvm.Problem(counts, X, np.arange(200) % 3, ZEROS), draws=20, overwrite=True, **asked)
    assert str(lvm.load(tmp_path / "check")) == str(other) and list(other.tables) == ["prior_predictive"]


def test_a_result_that_is_loaded_without_its_problem_is_checked_and_kept(inflated: lvm.Fit, tmp_path: Path) -> None:
    inflated.save(tmp_path / "fit")
    bare = lvm.load(tmp_path / "fit")
    found = lvm.check(bare, draws=50, out=tmp_path / "check")
    assert str(found) == str(lvm.check(bare, draws=50, out=tmp_path / "check", resume=True))


@pytest.mark.slow
def test_the_shell_checks_a_prior_and_a_saved_result(
    inflated: lvm.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", "eight_schools", "--draws", "50"]) == 0
    assert "prior predictive" in capsys.readouterr().out
    Path("m.py").write_text(
        "import pyro\nimport pyro.distributions as dist\n\n"
        "def counts(x, city, n):\n"
        "    base = pyro.sample('base', dist.Normal(0.0, 1.0))\n"
        "    slope = pyro.sample('slope', dist.Normal(0.0, 0.5))\n"
        "    with pyro.plate('rows', len(x)):\n        pyro.sample('n', dist.Poisson((base + slope * x).exp()), obs=n)\n"
    )
    pd.DataFrame({"x": X, "city": CITY, "n": ZEROS}).to_csv("d.csv", index=False)
    inflated.save("r")
    model = ["--problem", "m.py:counts", "--data", "d.csv"]
    assert main(["check", "r", *model, "--by", "city", "--out", "c", "--json", "c.json"]) == 0
    assert Path("c/report.html").read_text().startswith("<!doctype html>")
    told = json.loads(Path("c.json").read_text())
    assert {row["group"] for row in told["posterior_predictive"]} == {"", "Bern", "Lima", "Oslo"}
    assert main(["check", "r", *model, "--by", "city", "--out", "c"]) == 2
    assert main(["check", "r", *model, "--by", "city", "--out", "c", "--resume"]) == 0
    capsys.readouterr()
    assert main(["diagnose", "c"]) == 0 and "posterior predictive" in capsys.readouterr().out


def test_one_call_simulates_data_from_the_prior_with_the_truth_behind_them() -> None:
    problem = lvm.Problem(normal, np.zeros(4000), 1.0)
    made = lvm.simulate(problem, seed=3)
    assert abs(float(made.observed["y"].mean() - made.truth["mu"])) < 4 / math.sqrt(4000)
    assert torch.equal(made.problem.arguments["y"], made.observed["y"])
    assert not torch.equal(lvm.simulate(problem, seed=4).truth["mu"], made.truth["mu"])


def test_sensitivity_to_the_prior_is_that_of_the_power_scaled_posterior() -> None:
    y = torch.full((4,), 2.0, dtype=torch.float64)
    far, wide = (lvm.exact(lvm.Problem(normal, y, width)) for width in (0.5, 50.0))
    assert far.psense().loc["mu", "prior"] > 0.05 > wide.psense().loc["mu", "prior"]
    assert far.psense().loc["mu", "diagnosis"] == "prior and likelihood may disagree"
    assert wide.psense().loc["mu", "likelihood"] > 0.05

    x = np.sort(far.data["posterior"]["mu"].values.reshape(-1))

    def below(power: float) -> np.ndarray:  # type: ignore[type-arg]
        precision = power / 0.25 + 4
        return dist.Normal(8 / precision, precision**-0.5).cdf(torch.tensor(x[:-1])).numpy()

    def distance(p: np.ndarray, q: np.ndarray) -> float:  # type: ignore[type-arg]
        width = np.diff(x)
        parts = [one * np.log2(one / ((p + q) / 2)) for one in (p, q)]
        return float(np.sqrt(np.sum(width * (parts[0] + parts[1])) / np.sum(width * (p + q))))

    ways = [(p, q) for p, q in ((below(power), below(1.0)) for power in (0.99, 1.01))]
    both = [max(distance(p, q), distance(1 - p, 1 - q)) for p, q in ways]
    assert math.isclose(far.psense().loc["mu", "prior"], sum(both) / (2 * math.log2(1.01)), rel_tol=0.15)


@pytest.mark.slow
def test_of_a_hierarchy_the_priors_at_the_top_are_scaled_and_draws_of_a_guide_by_their_weights() -> None:
    y = torch.tensor([2.0, 2.5, 1.5, 2.2], dtype=torch.float64)
    exact = lvm.exact(lvm.Problem(nested, y)).psense()
    assert exact.attrs["prior_sites"] == ["mu"]
    narrow = lvm.fit(lvm.Problem(nested, y), "mean_field", progress=False, seed=0).psense()
    for name in ("theta[0]", "theta[1]"):  # without the weights they hardly move, since the guide has no correlations
        assert abs(narrow.loc[name, "prior"] - exact.loc[name, "prior"]) < 0.025 < exact.loc[name, "prior"]
    point = lvm.fit(lvm.Problem(nested, y), pyro.infer.autoguide.AutoDelta, progress=False, max_steps=20)
    with pytest.raises(lvm.ArgumentError, match="one value where a posterior has a density"):
        point.psense()
