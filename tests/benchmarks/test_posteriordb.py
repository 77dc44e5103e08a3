"""The posteriordb benchmark runs the models that its reference draws are of, and its scores see what is wrong."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyrolvm._program.density import Joint

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

needs_posteriordb = pytest.mark.skipif(
    "POSTERIORDB" not in os.environ, reason="the environment variable POSTERIORDB names no posteriordb folder"
)

# The log density at the second, third and fourth draw of the first chain, less that at the first draw.
CHECK = {
    "eight_schools-eight_schools_centered": (-0.7439, -1.2948, 1.2619),
    "eight_schools-eight_schools_noncentered": (0.7181, 0.6760, 0.8700),
    "arK-arK": (-0.9098, 1.4677, -2.4969),
    "arma-arma11": (0.2265, 0.4770, 1.1046),
    "garch-garch11": (-0.0859, 1.3838, -2.0453),
    "gp_pois_regr-gp_regr": (1.0372, 0.5194, -1.2803),
    "gp_pois_regr-gp_pois_regr": (-1.2447, -0.7340, 5.7999),
    "hmm_example-hmm_example": (-1.7679, 0.0730, -0.6790),
    "bball_drive_event_0-hmm_drive_0": (-0.5000, -0.1547, -0.4639),
    "low_dim_gauss_mix-low_dim_gauss_mix": (0.4487, -0.9349, -2.4224),
    "hudson_lynx_hare-lotka_volterra": (-1.7007, 1.2521, 0.0432),
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": (1.1948, -4.8233, 0.7534),
    "diamonds-diamonds": (-0.9811, -1.8115, 0.0674),
    "kilpisjarvi_mod-kilpisjarvi": (1.8906, -1.8437, 0.7914),
    "sblrc-blr": (-4.0660, -3.4599, 0.4465),
    "sblri-blr": (-1.4233, -0.9137, -0.8470),
    "nes2000-nes": (-0.0130, 3.5516, 3.2267),
    "nes1972-nes": (3.7079, 3.6463, 4.8950),
    "earnings-earn_height": (-0.2008, 0.7304, -0.6544),
    "earnings-log10earn_height": (-1.3538, 1.0715, 1.1060),
    "earnings-logearn_interaction": (2.1771, 2.9302, -0.1206),
    "earnings-logearn_logheight_male": (0.7071, -1.4048, -0.3328),
    "kidiq-kidscore_interaction": (1.8783, 5.1909, 2.0845),
    "kidiq-kidscore_momiq": (0.0789, -0.1354, -0.1139),
    "kidiq_with_mom_work-kidscore_interaction_c": (-1.3707, -1.7944, 0.8456),
    "mesquite-mesquite": (2.1891, 3.2168, 0.0596),
    "mesquite-logmesquite_logvas": (4.0468, 0.1272, 1.0623),
}


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


# --- models -----------------------------------------------------------------------------------------------------------


def test_every_model_has_check_values(load: Any) -> None:
    assert set(load("posteriordb.models").PROBLEMS) == set(CHECK)


@needs_posteriordb
@pytest.mark.parametrize("name", CHECK)
def test_the_density_is_that_of_the_reference(load: Any, name: str) -> None:
    models, reference = load("posteriordb.models"), load("posteriordb.reference")
    data, columns = reference.data(name), reference.draws(name)
    problem = models.PROBLEMS[name](data)
    assert problem.dtype == torch.float64
    values = []
    with problem.session(seed=0), torch.no_grad():
        joint = Joint(problem)
        for i in range(4):
            draw = reference.one_draw(columns, 0, i)
            sites = models.TO_SITES[name](data, draw) if name in models.TO_SITES else draw
            assert sites.keys() == {site.name for site in problem.latents}
            volume = models.VOLUMES[name](data, draw) if name in models.VOLUMES else 0.0
            values.append(float(joint.log_p(sites) + volume))
            derived = joint.deterministic(sites)
            for site in columns.keys() & derived.keys():
                torch.testing.assert_close(derived[site], draw[site])
    # Four digits are given; the steps of the differential equations leave as much.
    np.testing.assert_allclose(np.array(values[1:]) - values[0], CHECK[name], atol=7e-5)


@needs_posteriordb
@pytest.mark.parametrize("name", CHECK)
def test_sites_have_the_names_and_shapes_of_the_reference(load: Any, name: str) -> None:
    models, reference = load("posteriordb.models"), load("posteriordb.reference")
    problem = models.PROBLEMS[name](reference.data(name))
    for site, values in reference.one_draw(reference.draws(name), 0, 0).items():
        assert problem.sites[site].shape == tuple(values.shape)


def test_a_linear_recursion_is_solved_for_all_times_at_once(load: Any) -> None:
    solve = load("posteriordb.models.time_series").linear_recursion
    inputs = torch.randn(13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for coefficient in (-0.8, 0.0, 1.3):
        expected = [inputs[0]]
        for value in inputs[1:]:
            expected.append(coefficient * expected[-1] + value)
        torch.testing.assert_close(solve(torch.tensor(coefficient, dtype=torch.float64), inputs), torch.stack(expected))


@pytest.mark.parametrize("length", [2, 3, 8, 11])
def test_hidden_states_are_summed_out(load: Any, length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    transition = torch.randn(2, 2, generator=generator).log_softmax(-1)
    emission = torch.randn(length, 2, generator=generator)
    state = emission[0]
    for row in emission[1:]:
        state = (state[:, None] + transition).logsumexp(0) + row
    found = load("posteriordb.models.hidden_markov").forward(transition, emission)
    torch.testing.assert_close(found, state.logsumexp(0))


def test_predator_and_prey_stay_on_their_orbit(load: Any) -> None:
    theta = torch.tensor([0.55, 0.028, 0.8, 0.024], dtype=torch.float64)
    start = torch.tensor([34.0, 6.0], dtype=torch.float64)
    logs = load("posteriordb.models.odes").populations(theta, start, 20)

    def constant(z: torch.Tensor) -> torch.Tensor:
        u, v = z.unbind(-1)
        return theta[3] * u - theta[2] * u.log() + theta[1] * v - theta[0] * v.log()

    torch.testing.assert_close(constant(logs.exp()), constant(start).expand(20), atol=1e-4, rtol=0)


def test_a_drug_that_is_not_eliminated_is_absorbed_as_its_closed_form_says(load: Any) -> None:
    odes, one = load("posteriordb.models.odes"), torch.ones((), dtype=torch.float64)
    times = torch.arange(1, 21, dtype=torch.float64) / 2
    found = odes.concentrations(0.7 * one, one, 0 * one, 30 * one, 2 * one, times)
    torch.testing.assert_close(found, 15 * (1 - torch.exp(-0.7 * times)), atol=1e-5, rtol=1e-6)


# --- references -------------------------------------------------------------------------------------------------------


@needs_posteriordb
def test_references_are_ten_chains_by_name(load: Any) -> None:
    reference = load("posteriordb.reference")
    assert set(CHECK) <= set(reference.available())
    columns = reference.draws("garch-garch11")
    assert {name: values.shape for name, values in columns.items()} == dict.fromkeys(
        ["mu", "alpha0", "alpha1", "beta1"], (10, 1000)
    )
    shared = [reference.draws(f"eight_schools-eight_schools_{kind}")["tau"] for kind in ("centered", "noncentered")]
    np.testing.assert_array_equal(*shared)
    assert reference.info("garch")["name"] == "garch-garch11"
    with pytest.raises(ValueError, match=r"no posterior 'nothing'.*Fix:"):
        reference.info("nothing")


@needs_posteriordb
@pytest.mark.parametrize("name", ["nes2000-nes", "earnings-earn_height", "mesquite-mesquite"])
def test_closed_forms_agree_with_the_draws(load: Any, name: str) -> None:
    score, reference = load("posteriordb.score"), load("posteriordb.reference")
    exact, sampled = score.standard(name), score.from_draws(reference.draws(name))
    assert exact.keys() == sampled.keys()
    for label, moments in exact.items():
        assert moments.mcse_mean == 0.0
        assert abs(moments.mean - sampled[label].mean) < 4.5 * sampled[label].mcse_mean, label
        assert abs(moments.sd - sampled[label].sd) < 4.5 * sampled[label].mcse_sd, label


@needs_posteriordb
def test_what_has_no_variance_is_measured_on_the_log_scale(load: Any) -> None:
    table = load("posteriordb.score").standard("one_comp_mm_elim_abs-one_comp_mm_elim_abs")
    assert {label for label, moments in table.items() if moments.log} == {"K_m", "V_m"}


def _folder(path: Path, chains: Any, **described: Any) -> Path:
    for part in ("posteriors", "data/data", "reference_posteriors/draws/draws"):
        (path / part).mkdir(parents=True)
    text = json.dumps({"data_name": "d", "reference_posterior_name": "p", **described})
    (path / "posteriors" / "p.json").write_text(text, encoding="utf-8")
    for where, content in (("data/data/d", {"N": 1}), ("reference_posteriors/draws/draws/p", chains)):
        with zipfile.ZipFile(path / f"{where}.json.zip", "w") as opened:
            opened.writestr("x.json", json.dumps(content))
    return path


def test_a_folder_is_read(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = load("posteriordb.reference")
    chains = [{"a": [1.0, 2.0], "b[1]": [3.0, 4.0], "b[2]": [5.0, 6.0]}] * 2
    monkeypatch.setenv("POSTERIORDB", str(_folder(tmp_path, chains)))
    assert reference.available() == ["p"] and reference.data("p") == {"N": 1} and reference.aliases() == {}
    assert reference.draws("p")["b[2]"].tolist() == [[5.0, 6.0], [5.0, 6.0]]
    draw = reference.one_draw(reference.draws("p"), 1, 1)
    assert draw["a"].shape == () and draw["b"].tolist() == [4.0, 6.0]


@pytest.mark.parametrize(
    ("chains", "described", "message"),
    [
        ({"a": [1.0]}, {}, "not a list of chains"),
        ([{"a": [1.0]}, {"b": [1.0]}], {}, "not a list of chains"),
        ([{"a": [1.0, 2.0]}, {"a": [1.0]}], {}, "chains of 1 to 2 draws"),
        ([{"a": [1.0]}], {"reference_posterior_name": None}, "no reference draws"),
        ([{"a": [1.0]}], {"reference_posterior_name": "q"}, "no file 'q.json.zip'"),
    ],
)
def test_a_broken_reference_is_refused(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chains: Any, described: Any, message: str
) -> None:
    monkeypatch.setenv("POSTERIORDB", str(_folder(tmp_path, chains, **described)))
    with pytest.raises(ValueError, match=rf"{message}.*Fix: "):
        load("posteriordb.reference").draws("p")


def test_a_folder_that_is_not_one_is_refused(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = load("posteriordb.reference").folder
    monkeypatch.delenv("POSTERIORDB", raising=False)
    with pytest.raises(ValueError, match=r"POSTERIORDB is not set.*Fix: "):
        folder()
    monkeypatch.setenv("POSTERIORDB", str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"which is not a folder.*Fix: "):
        folder()
    monkeypatch.setenv("POSTERIORDB", str(tmp_path))
    with pytest.raises(ValueError, match=r"has no folder 'posteriors'.*Fix: "):
        folder()


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
    monkeypatch.setenv("POSTERIORDB", str(tmp_path))
    job = {"posterior": "garch-garch11", "method": "full_rank"}
    (row,) = load("posteriordb.cell").run(job, [3], timeout=120, share=False)
    assert (row["posterior"], row["method"], row["seed"]) == ("garch-garch11", "full_rank", 3)
    assert row["status"].startswith("failed: PosteriordbError: POSTERIORDB names")


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


@needs_posteriordb
def test_stopping_measures_one_guide(load: Any) -> None:
    found = load("stopping").measure("sblrc-blr", "full_rank", 0)
    assert found["converged"]
    assert abs(found["gap"]) < 0.1
    assert found["oracle"] is not None
