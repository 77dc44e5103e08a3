"""What the benchmark of posteriordb measures by sees what is wrong."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyrolvm_models import posteriordb

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

needs_files = pytest.mark.skipif(
    "PYROLVM_DATA" not in os.environ, reason="PYROLVM_DATA names no folder with the files of posteriordb"
)


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Imports a module of the benchmarks' folder, as a program in it would, and forgets it afterwards."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    yield import_module
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


# --- references ------------------------------------------------------------------------------------------------------


@needs_files
@pytest.mark.parametrize("name", ["nes2000-nes", "earnings-earn_height", "mesquite-mesquite"])
def test_closed_forms_agree_with_the_draws(load: Any, name: str) -> None:
    score = load("posteriordb.score")
    exact, sampled = score.standard(name), score.from_draws(posteriordb.columns(name))
    assert exact.keys() == sampled.keys()
    for label, moments in exact.items():
        assert moments.mcse_mean == 0.0
        assert abs(moments.mean - sampled[label].mean) < 4.5 * sampled[label].mcse_mean, label
        assert abs(moments.sd - sampled[label].sd) < 4.5 * sampled[label].mcse_sd, label


@needs_files
def test_what_has_no_variance_is_measured_on_the_log_scale(load: Any) -> None:
    table = load("posteriordb.score").standard("one_comp_mm_elim_abs-one_comp_mm_elim_abs")
    assert {label for label, moments in table.items() if moments.log} == {"K_m", "V_m"}


# --- scores -----------------------------------------------------------------------------------------------------------


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_right_draws_are_near_and_shifted_or_widened_ones_are_off_by_as_much(load: Any) -> None:
    score = load("posteriordb.score")
    table = score.from_draws(score.columns({"x": 3 + 2 * _normal(10, 1000, 3), "y": _normal(10, 1000, seed=1)}))
    assert list(table) == ["x[1]", "x[2]", "x[3]", "y"]
    assert table["x[1]"].mcse_mean == pytest.approx(0.02, rel=0.2)
    assert table["x[1]"].mcse_sd == pytest.approx(0.02 / math.sqrt(2), rel=0.2)
    x, y = 3 + 2 * _normal(4, 1000, 3, seed=2), _normal(4, 1000, seed=3)
    good = score.score(score.columns({"x": x, "y": y}), table, chains=True).summary()
    assert good["mean_error"] < 0.07 and good["sd_error"] < 0.05 and good["reference_mcse"] < 0.013
    assert max(good["z_mean"], good["z_square"]) < 4.5 and good["rhat"] < 1.01 and good["ess"] > 3000
    x[..., 1] += 0.6
    y *= 1.3
    bad = score.score(score.columns({"x": x, "y": y}), table, chains=True).summary()
    assert bad["mean_error"] == pytest.approx(0.3, abs=0.08) and bad["mean_error_at"] == "x[2]"
    assert bad["sd_error"] == pytest.approx(0.3, abs=0.08) and bad["sd_error_at"] == "y"
    assert bad["z_mean"] > 8 and bad["z_mean_at"] == "x[2]" and bad["z_square"] > 8


def test_weights_make_draws_of_another_distribution_right(load: Any) -> None:
    score = load("posteriordb.score")
    draws = {"x": 1.5 * _normal(1, 100_000)}
    weights = np.exp(-0.5 * draws["x"] ** 2 * (1 - 1 / 1.5**2))
    table = {"x": score.Moments(0.0, 1.0)}
    assert score.score(draws, table).summary()["sd_error"] == pytest.approx(0.5, abs=0.02)
    assert score.score(draws, table, weights=weights).summary()["sd_error"] < 0.02
    with pytest.raises(ValueError, match=r"weights are given.*Fix: "):
        score.score(draws, table, weights=weights, chains=True)


def test_logarithms_are_compared_where_the_table_says_so(load: Any) -> None:
    score = load("posteriordb.score")
    table = score.from_draws({"x": np.exp(3 * _normal(10, 1000))}, log=["x"])
    assert table["x"].log and table["x"].sd == pytest.approx(3, rel=0.05)
    assert score.score({"x": np.exp(3 * _normal(4, 1000, seed=1))}, table).summary()["sd_error"] < 0.05


def test_what_is_not_finite_or_never_moves_is_said(load: Any) -> None:
    score = load("posteriordb.score")
    table = {"x": score.Moments(0.0, 1.0), "y": score.Moments(0.0, 1.0)}
    draws = {"x": _normal(4, 100), "y": _normal(4, 100, seed=1)}
    draws["y"][2, 3] = np.nan
    found = score.score(draws, table)
    assert not found.finite and found.summary()["mean_error_at"] == "y"
    draws["y"][2] = 1.0
    stuck = score.score(draws, table, chains=True).summary()
    assert stuck["finite"] and stuck["ess"] == 0 and stuck["ess_at"] == "y" and stuck["rhat"] == math.inf


def test_a_missing_parameter_is_an_error(load: Any) -> None:
    score = load("posteriordb.score")
    with pytest.raises(ValueError, match=r"no 'z', which the reference has.*Fix: "):
        score.score({"x": _normal(1, 10)}, {"z": score.Moments(0.0, 1.0)})


def test_the_closed_form_is_that_of_a_mean(load: Any) -> None:
    score = load("posteriordb.score")
    y = _normal(20) + 5
    table = score.closed_form(np.ones((20, 1)), y)
    freedom = 18
    assert table["beta[1]"].mean == pytest.approx(y.mean())
    assert table["beta[1]"].sd == pytest.approx(math.sqrt(((y - y.mean()) ** 2).sum() / (freedom - 2) / 20))
    scales = np.sqrt(((y - y.mean()) ** 2).sum() / np.random.default_rng(0).chisquare(freedom, 200_000))
    assert table["sigma"].mean == pytest.approx(scales.mean(), rel=3e-3)
    assert table["sigma"].sd == pytest.approx(scales.std(), rel=2e-2)
    with pytest.raises(ValueError, match=r"degrees of freedom.*Fix: "):
        score.closed_form(np.ones((3, 1)), y[:3])


# --- runs -------------------------------------------------------------------------------------------------------------


def _row(posterior: str, seed: int, mean: float | None, verdict: str = "trusted", **more: Any) -> dict[str, Any]:
    row = {"posterior": posterior, "method": "m", "seed": seed, "status": "ok", "verdict": verdict, "seconds": 1.0}
    errors = {"mean_error": mean, "mean_error_at": "x", "sd_error": 0.01, "sd_error_at": "y"}
    return row | (errors if mean is not None else {"status": "failed: no"}) | more


def test_a_method_meets_a_level_in_four_of_five_seeds(load: Any) -> None:
    run = load("posteriordb.run")
    rows = [_row("a", seed, 0.04 if seed else 0.2) for seed in range(5)]
    rows += [_row("b", seed, 0.07 if seed > 1 else None, "doubtful") for seed in range(5)]
    found = run.summary(rows, ["a", "b", "c"])
    assert (found["good_posteriors"], found["strict_posteriors"], found["failures"]) == (1, 1, 2)
    assert found["trusted_wrong_share"] == pytest.approx(0.2) and found["good_trusted_share"] == pytest.approx(4 / 7)
    first, second, _ = run.table(rows, ["a", "b", "c"])
    assert first["good"] == "4/5" and first["mean_error"] == 0.04 and first["mean_error_at"] == "x"
    assert second["status"].startswith("failed: no") and second["verdicts"] == "5 doubtful"


def test_resuming_keeps_the_rows_of_the_same_settings(load: Any, tmp_path: Path) -> None:
    run, path = load("posteriordb.run"), tmp_path / "found.json"
    args = argparse.Namespace(resume=True, share=False, pyro_steps=10, pyro_rate=0.01, cap=1.0)
    rows = [
        {"method": method, "settings": run.settings(method, args)}
        for method in ("nuts", "pyro:AutoNormal", "full_rank")
    ]
    path.write_text(json.dumps({"rows": rows}), encoding="utf-8")
    assert run.kept(args, path) == rows
    args.cap = 2.0
    assert [row["method"] for row in run.kept(args, path)] == ["nuts", "full_rank"]
    args.resume = False
    assert run.kept(args, path) == []


def test_an_unknown_method_is_refused_with_a_list(load: Any) -> None:
    cell = load("posteriordb.cell")
    assert cell.check_method("pyro:AutoNormal") == "pyro:AutoNormal" and cell.check_method("full_rank") == "full_rank"
    with pytest.raises(ValueError, match=r"no method 'gibbs'. Fix: use one of infer-vi, infer, nuts, "):
        cell.check_method("gibbs")


def test_a_run_that_cannot_be_made_is_a_row_with_its_reason(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYROLVM_DATA", str(tmp_path))
    job = {"posterior": "garch-garch11", "method": "full_rank"}
    (row,) = load("posteriordb.cell").run(job, [3], timeout=120, share=False)
    assert (row["posterior"], row["method"], row["seed"]) == ("garch-garch11", "full_rank", 3)
    assert row["status"].startswith("failed: DataError: ")


# --- where fits stop --------------------------------------------------------------------------------------------------


def test_stopping_counts_what_is_close_and_beside_the_oracle(load: Any) -> None:
    stopping = load("stopping")

    def row(gap: float, converged: bool = True, oracle: int | None = 400) -> dict[str, Any]:
        return {
            "guide": "flow", "converged": converged, "gap": gap, "gap_error": 0.01, "steps": 1000, "oracle": oracle,
            "ratio": None if oracle is None else 1000 / oracle,
        }  # fmt: skip

    (line,) = stopping.summary([row(0.0), row(0.06), row(0.5, oracle=None), row(9.0, converged=False)])
    assert (line["runs"], line["converged"], line["close"]) == (4, 3, 2)
    assert line["worst_gap"] == 0.5
    assert (line["steps"], line["oracle"], line["ratio"]) == (1000, 400, 2.5)


@needs_files
def test_stopping_measures_one_guide(load: Any) -> None:
    found = load("stopping").measure("sblrc-blr", "full_rank", 0)
    assert found["converged"]
    assert abs(found["gap"]) < 0.1
    assert found["oracle"] is not None
