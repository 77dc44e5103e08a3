"""What an exact result is to the rest of the package: stored, judged, compared, chosen by ``infer``, run from the shell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._cli import main

Y = torch.tensor([0.3, -1.2, 2.0, 0.7], dtype=torch.float64)


def line(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(pyro.deterministic("s", a + b), 0.5), obs=y)


def labels(y: Tensor) -> None:
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)


@pytest.fixture(scope="module")
def result() -> lvm.Exact:
    return lvm.exact(lvm.Problem(line, Y), draws=2000, progress=False)


def test_it_is_a_posterior_with_everything_that_others_have(result):
    assert isinstance(result, lvm.Posterior)
    assert result.name == "exact"
    assert result.engine == "torch"
    assert result.data["posterior"].attrs["inference_method"] == "exact"
    groups = {
        "posterior",
        "unconstrained_posterior",
        "sample_stats",
        "log_likelihood",
        "log_prior",
        "posterior_predictive",
    }
    assert groups | {"prior", "prior_predictive", "observed_data"} <= set(result.data.children)
    assert result.num_draws == 2000
    assert result.log_p.shape == result.log_q.shape == (1, 2000)
    assert list(result.data["posterior"].data_vars) == ["a", "b", "s"]
    assert result.marginals is None
    assert "exact inference" in str(result.evidence)
    assert "trusted" in str(result)


def test_the_verdict_is_trusted_and_says_why(result):
    assert result.verdict.status == "trusted"
    text = str(result.verdict)
    assert "exact (Gaussian, 2 unknowns)" in text and "quadratic" in text and "2,000 draws" in text
    diagnosis = lvm.diagnose(result)
    assert diagnosis.figures["evidence"] == result.evidence.value
    assert diagnosis.figures["evidence_error"] < 1e-9
    assert {"mean", "sd", "mcse_mean"} <= set(diagnosis.table.columns)
    assert diagnosis.table.loc["a", "mcse_mean"] == pytest.approx(diagnosis.table.loc["a", "sd"] / 2000**0.5)


@pytest.mark.parametrize("change", ["shifted", "not finite"])
def test_a_result_that_was_tampered_with_fails(result, change):
    tree = result.data.copy(deep=True)
    stats = tree["sample_stats"].to_dataset()
    stats["log_q"][0, 7] = float("nan") if change == "not finite" else stats["log_q"][0, 7] + 0.01
    tree["sample_stats"] = type(tree)(stats)
    assert lvm.diagnose(tree).verdict.status == "failed"


def test_fresh_draws_repeat_by_seed_and_are_of_the_same_law(result):
    first, again, other = (result.sample(3000, seed=seed) for seed in (1, 1, 2))
    assert first["a"].shape == (1, 3000)
    np.testing.assert_array_equal(first["a"].values, again["a"].values)
    assert not np.array_equal(first["a"].values, other["a"].values)
    stored = result.data["posterior"]
    assert float(first["a"].mean()) == pytest.approx(float(stored["a"].mean()), abs=0.1)
    assert float(first["a"].std()) == pytest.approx(float(stored["a"].std()), rel=0.1)
    np.testing.assert_allclose(first["s"].values, first["a"].values + first["b"].values)


def test_the_same_seed_gives_the_same_result(result):
    again = lvm.exact(lvm.Problem(line, Y), draws=2000, progress=False)
    np.testing.assert_array_equal(again.data["posterior"]["a"].values, result.data["posterior"]["a"].values)
    other = lvm.exact(lvm.Problem(line, Y), draws=2000, seed=1, progress=False)
    assert not np.array_equal(other.data["posterior"]["a"].values, result.data["posterior"]["a"].values)
    assert other.evidence.value == result.evidence.value


def test_global_random_state_is_left_alone(untouched_rng):
    lvm.exact(lvm.Problem(line, Y), draws=50, progress=False).sample(10)


def test_progress_is_told():
    seen = []
    lvm.exact(lvm.Problem(line, Y), draws=50, progress=lambda *told: seen.append(told))
    assert seen[-1][:2] == (2, 2)


def test_save_and_load(result, tmp_path):
    result.save(tmp_path / "run")
    loaded = lvm.load(tmp_path / "run", problem=lvm.Problem(line, Y))
    assert type(loaded) is lvm.Exact
    assert loaded.evidence == result.evidence
    assert (loaded.family, loaded.because) == (result.family, result.because)
    assert str(loaded.verdict) == str(result.verdict)
    np.testing.assert_array_equal(loaded.log_q, result.log_q)
    np.testing.assert_array_equal(loaded.sample(20, seed=3)["a"].values, result.sample(20, seed=3)["a"].values)
    alone = lvm.load(tmp_path / "run")
    assert alone.evidence == result.evidence
    with pytest.raises(lvm.StoreError, match="Fix:"):
        alone.sample(3)


def test_marginals_and_parameters_are_kept_by_save_and_load(tmp_path):
    def model(y: Tensor) -> None:
        weights = pyro.param("weights", lambda: torch.ones(2) / 2, constraint=dist.constraints.simplex)
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)

    params = {"weights": torch.tensor([0.1, 0.5], dtype=torch.float64)}
    problem = lvm.Problem(model, Y)
    first = lvm.exact(problem, params=params, draws=300, progress=False, out=tmp_path / "run")
    loaded = lvm.load(tmp_path / "run", problem=problem)
    np.testing.assert_array_equal(loaded.marginals["z"].values, first.marginals["z"].values)
    again = lvm.exact(problem, params=params, draws=300, progress=False, out=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(again.log_q, first.log_q)
    with pytest.raises(lvm.StoreError, match=r"another params.*Fix:"):
        lvm.exact(problem, draws=300, progress=False, out=tmp_path / "run", resume=True)
    with pytest.raises(lvm.StoreError, match="Fix:"):
        lvm.exact(problem, params=params, progress=False, out=tmp_path / "run")


def test_a_folder_of_another_method_is_not_resumed(tmp_path):
    lvm.nuts(lvm.Problem(line, Y), chains=1, warmup=20, draws=20, progress=False, out=tmp_path / "run")
    with pytest.raises(lvm.StoreError, match=r"made by .nuts., not by .exact..*Fix:"):
        lvm.exact(lvm.Problem(line, Y), progress=False, out=tmp_path / "run", resume=True)


@pytest.mark.slow
def test_a_comparison_takes_it_as_the_reference_before_nuts(result, tmp_path):
    problem = lvm.Problem(line, Y)
    nuts = lvm.nuts(problem, chains=2, warmup=200, draws=300, progress=False)
    mean_field = lvm.fit(problem, lvm.guide("mean_field", precondition="none"), draws=1000, progress=False)
    report = lvm.compare({"nuts": nuts, "mean field": mean_field, "truth": result})
    assert report.reference == "truth"
    assert report.methods.index[0] == "truth"
    assert report.methods.loc["truth", "evidence"] == result.evidence.value
    assert report.methods.loc["mean field", "worst_sd_ratio"] < 0.7  # a and b are strongly correlated
    assert not any(text.startswith("WARNING") for text in report.advice)
    assert lvm.compare({"nuts": nuts, "truth": result}, reference="nuts").reference == "nuts"
    page = tmp_path / "report.html"
    report.to_html(page)
    assert page.stat().st_size > 10_000


def test_infer_picks_it_where_it_applies():
    best = lvm.infer(lvm.Problem(line, Y), draws=300, progress=False)
    assert isinstance(best, lvm.Exact)
    assert best.num_draws == 300
    assert [(rung["method"], rung["status"]) for rung in best.ladder] == [("exact", "trusted")]
    assert "exact" in best.ladder[0]["why"]
    assert isinstance(lvm.infer(lvm.Problem(labels, Y), draws=300, progress=False), lvm.Exact)
    assert isinstance(lvm.infer(lvm.Problem(line, Y), methods="vi", draws=300, progress=False), lvm.Fit)


def test_infer_goes_on_without_it_where_it_does_not_apply():
    def scaled(y: Tensor) -> None:
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(0.0, tau + 0.1), obs=y)

    best = lvm.infer(lvm.Problem(scaled, Y), draws=300, progress=False)
    assert isinstance(best, lvm.Fit)
    assert "exact" not in [rung["method"] for rung in best.ladder]
    listed = lvm.infer(lvm.Problem(scaled, Y), methods=["exact", "student"], draws=300, progress=False)
    assert (listed.ladder[0]["method"], listed.ladder[0]["status"]) == ("exact", "error")
    assert "'tau'" in listed.ladder[0]["why"]


def test_infer_fits_learnable_parameters_first():
    def model(y: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.tensor(1.0))
        with pyro.plate("rows", len(y)):
            x = pyro.sample("x", dist.Normal(loc, 1.0))
            pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    best = lvm.infer(lvm.Problem(model, Y), draws=100, progress=False)
    assert isinstance(best, lvm.Fit)
    exact = lvm.exact(lvm.Problem(model, Y), params=best, draws=100, progress=False)
    assert exact.evidence.value == pytest.approx(best.elbo, abs=0.05)


MODEL = """
import pyro, pyro.distributions as dist, torch

def line(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)

def cubed(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(slope**3 * x, 1.0), obs=y)
"""


def test_from_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my_model.py").write_text(MODEL)
    Path("data.csv").write_text("x,y\n1.0,0.5\n2.0,1.5\n3.0,2.5\n")
    words = [
        "exact",
        "my_model.py:line",
        "--data",
        "data.csv",
        "--draws",
        "200",
        "--out",
        "runs/exact",
        "--json",
        "out.json",
    ]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "posterior is exact" in out and "saved in runs/exact" in out
    told = json.loads(Path("out.json").read_text())
    assert told["evidence"]["method"] == "exact inference" and told["figures"]["draws"] == 200
    assert main([*words[:-2], "--resume"]) == 0
    assert main(["diagnose", "runs/exact"]) == 0
    assert main(["exact", "my_model.py:cubed", "--data", "data.csv"]) == 2
    assert "not quadratic in 'slope'" in capsys.readouterr().err
    assert main(["fit", "my_model.py:line", "--data", "data.csv", "--guide", "laplace", "--out", "runs/fit"]) == 0
    assert main(["report", "runs/fit", "runs/exact", "--json", "report.json"]) == 0
    assert json.loads(Path("report.json").read_text())["reference"] == "exact"
