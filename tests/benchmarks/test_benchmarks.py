"""The benchmarks compare equal things, and their accuracy columns see what is wrong."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
NAMES = [path.stem for path in sorted((FOLDER / "problems").glob("*.py")) if path.stem not in ("__init__", "vae")]
SMALL = {
    "eight_schools": {}, "gaussian_process": {"points": 12}, "item_response": {"items": 4, "persons": 6},
    "logistic": {"predictors": 3, "rows": 20}, "mixture": {"rows": 30}, "radon": {"groups": 5, "rows": 25},
    "stochastic_volatility": {"steps": 15},
}  # fmt: skip


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of the folder, as a program in it would, and forgets it afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def _densities(load: Any, name: str, change: float = 0.0) -> tuple[list[float], list[float]]:
    import jax

    problems, density = load("problems"), load("methods.density")
    problem = problems.Problem(f"small {name}", name, 0, SMALL[name])
    problems.PROBLEMS[problem.name] = problem
    arrays = {f"data.{key}": value for key, value in problem.data(0).items()}
    found, points = density.pyro_density({"problem": problem.name, "seed": 0, "points": 3}, arrays)
    last = list(arrays)[-1]
    arrays[last] = arrays[last] + change
    with jax.enable_x64(True):
        other = density.numpyro_densities(problem.name, *density.split({**arrays, **points}))
    return found["densities"], other


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "eight_schools" else [pytest.mark.slow]) for name in NAMES],
)
def test_pyro_and_numpyro_twins_are_one_density(load: Any, name: str) -> None:
    ours, other = _densities(load, name)
    assert load("twins").different(other, ours, constant=False) == ""


def test_a_twin_with_other_data_is_found_out(load: Any) -> None:
    ours, other = _densities(load, "gaussian_process", change=1e-3)
    assert load("twins").different(other, ours, constant=False)


def test_a_constant_is_allowed_only_where_it_is_asked_for(load: Any) -> None:
    different = load("twins").different
    assert different([1.0, 2.0, 4.0], [3.0, 4.0, 6.0], constant=True) == ""
    assert different([1.0, 2.0, 4.0], [3.0, 4.0, 6.0], constant=False)
    assert different([1.0, 2.0, 4.5], [3.0, 4.0, 6.0], constant=True)


def test_equal_draws_are_near_and_shifted_or_widened_draws_are_far(load: Any) -> None:
    accuracy = load("accuracy")
    rng = np.random.default_rng(0)
    draws = [{"x": rng.standard_normal((4, 1000, 5))} for _ in range(4)]
    centre = np.zeros(5)
    reference = accuracy.pool([accuracy.summarize(d, centre) for d in draws[:3]])
    usual = accuracy.usual_worst_z(5)
    assert max(accuracy.worst_z(accuracy.summarize(draws[3], centre), reference)) < usual + 1
    assert accuracy.worst_z(accuracy.summarize({"x": draws[3]["x"] + 0.2}, centre), reference)[0] > 2 * usual
    assert accuracy.worst_z(accuracy.summarize({"x": draws[3]["x"] * 1.2}, centre), reference)[1] > 2 * usual


def test_a_chain_that_never_moves_has_no_effective_draws(load: Any) -> None:
    draws = np.random.default_rng(0).standard_normal((4, 100, 2))
    draws[1, :, 0] = 0.5
    assert load("accuracy").summarize({"x": draws}).ess == 0


def test_mixture_components_are_put_in_order(load: Any) -> None:
    mixture = load("problems.mixture")
    rng = np.random.default_rng(0)
    draws = {"weights": rng.random((2, 7, 3)), "locs": rng.random((2, 7, 3, 2)), "scales": rng.random((2, 7, 3, 2))}
    other = {name: value[:, :, [2, 0, 1]] for name, value in draws.items()}
    for name, value in mixture.quantities(draws).items():
        np.testing.assert_array_equal(value, mixture.quantities(other)[name])
    assert (np.diff(mixture.quantities(draws)["locs"][..., 0]) > 0).all()


def test_a_failure_is_a_row_with_its_reason(load: Any) -> None:
    found, out = load("fresh").run("density.nothing", {}, {}, python=sys.executable, timeout=300)
    assert found["status"].startswith("failed: AttributeError") and out == {}


def test_a_calibration_is_a_row_and_so_is_a_failure(
    load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyrolvm as lvm

    calibration = load("calibration")
    run = lvm.calibrate
    options = {"max_steps": 40, "simulations": 3, "workers": 1}
    monkeypatch.setattr(lvm, "calibrate", lambda problem, method, **given: run(problem, method, **{**given, **options}))
    words = ["--problem", "eight_schools_noncentered", "--problem", "vae", "--method", "mean_field", "--quick"]
    monkeypatch.setattr(sys, "argv", ["calibration.py", *words, "--out", str(tmp_path / "c.json")])
    calibration.main()
    good, bad = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert good["status"] == "ok" and good["simulations"] == 3 and 0 < good["ks"] < 1
    assert "learnable parameters" in bad["status"]
    assert "eight_schools_noncentered" in capsys.readouterr().out


def test_rows_of_scale_that_are_not_measured_now_stay_and_those_without_one_say_so(load: Any, tmp_path: Path) -> None:
    scale = load("scale")
    row = {"problem": "grid", "method": "infer", "status": "trusted"}
    path = tmp_path / "scale.json"
    path.write_text(json.dumps({"date": "2026-01-02", "revision": "abc", "rows": [row]}))
    kept = scale.earlier(scale.common.argparse.Namespace(out=path, quick=False))
    assert kept == {("grid", "infer"): {"date": "2026-01-02", "revision": "abc", **row}}
    kept["grid", "numpyro"] = {**row, "method": "numpyro"}
    found = scale.in_order(kept)
    assert [one["problem"] for one in found if one["problem"] != "grid"] == [
        name for name in scale.PROBLEMS if name != "grid"
    ]
    assert [one["method"] for one in found if one["problem"] == "grid"] == ["infer", "numpyro"]
    assert all(one["status"] == "not measured" for one in found if one["problem"] != "grid")
    path.write_text(json.dumps({"date": "2026-01-03", "revision": "def", "rows": found}))
    assert scale.earlier(scale.common.argparse.Namespace(out=path, quick=False)).keys() == kept.keys()


def _chains(rng: np.random.Generator, shift: float, diverged: bool) -> Any:
    from types import SimpleNamespace

    import xarray as xr

    x = rng.normal(size=(4, 300)) + shift * np.arange(4)[:, None]
    flags = np.zeros((4, 300), bool)
    flags[2, 40] = diverged
    dims = ("chain", "draw")
    stats = xr.Dataset(
        {"n_steps": (dims, np.full((4, 300), 7)), "diverging": (dims, flags)}, attrs={"kernel": "nutpie"}
    )
    attrs = {"frame_evaluations": 1_000, "warmup_steps": 2_000, "sampled_in": "frame"}
    tree = {
        "posterior": xr.Dataset({"x": (dims, x)}, attrs=attrs), "sample_stats": stats,
        "unconstrained_posterior": xr.Dataset({"x": (dims, x)}),
    }  # fmt: skip
    return SimpleNamespace(
        data=xr.DataTree.from_dict(tree), divergences=int(diverged), verdict=SimpleNamespace(status="")
    )


def test_gradients_to_enough_draws_count_what_came_before_and_failures_are_rows(load: Any) -> None:
    samplers = load("samplers")
    fine = samplers.judged(_chains(np.random.default_rng(0), 0.0, False))
    assert fine["gradients"] == 3_000 + 4 * 300 * 7
    assert 3_000 + 4 * 100 * 7 <= fine["gradients_to"] == 3_000 + 4 * fine["draws_to"] * 7 < fine["gradients"]
    for bad in (
        samplers.judged(_chains(np.random.default_rng(0), 2.0, False)),
        samplers.judged(_chains(np.random.default_rng(0), 0.0, True)),
    ):
        assert "gradients_to" not in bad and bad["status"].startswith("not reached: min ESS")
    rows = [
        {"problem": "a", "method": "nuts", "gradients_to": 100}, {"problem": "a", "method": "other", "gradients_to": 300},
        {"problem": "b", "method": "nuts", "gradients_to": 100}, {"problem": "b", "method": "other"},
    ]  # fmt: skip
    assert samplers.ratios(rows) == [
        "other: 3.00 times the gradients of nuts in the median of 1, 3.00 to 3.00; reached 1 of 2"
    ]


def test_every_problem_of_the_zoo_has_a_prediction_of_what_was_held_out(load: Any) -> None:
    import pyrolvm as lvm

    unseen = load("held_out")
    found = json.loads((FOLDER / "results" / "held_out.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in found["rows"]}
    assert set(lvm.problems(ready=True)) == set(rows) == set(unseen.RECIPES)
    for name, row in rows.items():
        assert (row.get("lpd") is None) == (unseen.RECIPES[name].split is None), name
        page = (FOLDER.parent / "docs" / f"{row['page']}.md").read_text(encoding="utf-8")
        assert row["problem"] in unseen.shown(found, row["page"]) and unseen.shown(found, row["page"]) in page
