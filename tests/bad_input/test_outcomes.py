"""Input that looks bad and must come out right, and runs that go wrong on the way and must say so in their verdict."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyrolvm as lvm


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bad_input_models", Path(__file__).with_name("table.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


table = _load()


def _fit(problem: lvm.Problem, guide: Any = "mean_field", **options: Any) -> lvm.Fit:
    return lvm.fit(problem, guide, **{"max_steps": 5, "draws": 20, "progress": False, **options})


# --- B8, B9: minibatches ----------------------------------------------------------------------------------------------


@pytest.mark.bad_input("B8")
@pytest.mark.parametrize("model", ["shrunk", "shrunk_by_subsample"])
def test_a_plate_sized_by_the_batch_gives_the_full_data_posterior(model: str) -> None:
    y = 1.0 + torch.randn(100, generator=torch.Generator().manual_seed(0))
    precision = 100.0 + len(y)
    mean, sd = float(y.sum()) / precision, precision**-0.5
    options = {"batch_size": 10} if model == "shrunk" else {}
    fit = _fit(lvm.Problem(getattr(table, model), y), max_steps=500, draws=4000, learning_rate=0.02, **options)
    w = fit.data["posterior"]["w"].values
    # Without the scale N/B the mean were 0.09 and the sd 0.095: 6 and 1.3 of these sds away.
    assert abs(w.mean() - mean) < 0.2 * sd
    assert abs(w.std() / sd - 1) < 0.1


def test_local_latents_of_minibatches_are_all_trained() -> None:
    y = torch.linspace(-8.0, 8.0, 8)
    fit = _fit(
        lvm.Problem(table.local, torch.ones(8), y),
        AutoNormal,
        batch_size=4,
        max_steps=1500,
        learning_rate=0.05,
        draws=500,
    )
    z = fit.data["posterior"]["z"]
    assert z.sizes["rows"] == 8
    np.testing.assert_allclose(z.mean(("chain", "draw")), y / 2, atol=0.5)


def test_guide_with_indices_of_its_own_sees_the_models_rows() -> None:
    def guide(x: Tensor, y: Tensor) -> None:
        pyro.sample("w", dist.Normal(pyro.param("m", torch.tensor(0.0)), 0.1))
        loc = pyro.param("loc", torch.zeros(8))
        with pyro.plate("rows", len(y), subsample=torch.arange(4)) as i:
            pyro.sample("z", dist.Normal(loc[i], 0.5))

    y = torch.linspace(-8.0, 8.0, 8)
    fit = _fit(lvm.Problem(table.subsampled, torch.zeros(8), y), guide, max_steps=400, learning_rate=0.1, draws=500)
    np.testing.assert_allclose(fit.data["posterior"]["z"].mean(("chain", "draw")), y / 2, atol=0.5)


# --- B10: what was there before ---------------------------------------------------------------------------------------


@pytest.mark.bad_input("B10")
def test_an_earlier_fit_has_no_influence_and_leaves_no_trace(record_property: Any) -> None:
    mine = pyro.param("auto_loc", torch.tensor([7.0]))
    pyro.param("loc_0_w", torch.tensor(1e6))
    before = pyro.get_param_store().get_state()["params"].copy()
    try:
        problem = table._line()
        first = _fit(problem, seed=3)
        _fit(table._schools(), seed=8)
        _fit(problem, "full_rank", seed=4)
        second = _fit(problem, seed=3)
        np.testing.assert_array_equal(first.losses, second.losses)
        np.testing.assert_array_equal(first.data["posterior"]["w"], second.data["posterior"]["w"])
        after = pyro.get_param_store().get_state()["params"]
        assert after.keys() == before.keys()
        assert all(after[name] is before[name] for name in before)
        assert mine.item() == 7.0 and pyro.param("loc_0_w").item() == 1e6
    finally:
        pyro.clear_param_store()
    record_property(
        "evidence",
        "a second fit after two others and foreign parameters in the store: the same losses, bit for bit; the store is as it was",
    )


def test_a_guide_function_starts_afresh_each_time() -> None:
    start = torch.tensor(0.5)

    def guide(x: Tensor, y: Tensor) -> None:
        pyro.sample("w", dist.Normal(pyro.param("m", start), 1.0))

    first = _fit(table._line(), guide, max_steps=50)
    assert start.item() == 0.5
    assert abs(float(first.params["m"]) - 0.5) > 1e-3
    np.testing.assert_array_equal(first.losses, _fit(table._line(), guide, max_steps=50).losses)


# --- B11, B17, B18: runs that go wrong --------------------------------------------------------------------------------


@pytest.mark.bad_input("B11")
def test_a_density_that_stops_being_a_number_keeps_the_last_good_state(record_property: Any) -> None:
    far = lvm.guide("mean_field", precondition="none")
    fit = _fit(lvm.Problem(table.cliff, torch.full((8,), 6.0)), far, max_steps=2000, learning_rate=0.05, draws=200)
    assert 1 < len(fit.losses) < 1900
    assert np.isfinite(fit.losses).all()
    assert all(bool(torch.isfinite(value).all()) for value in fit.params.values())
    assert not fit.converged
    assert "'cliff'" in fit.stop_reason and "last good state" in fit.stop_reason and "Fix:" in fit.stop_reason
    assert fit.verdict.status != "trusted"
    record_property("evidence", fit.stop_reason)


def test_one_chain_is_doubtful() -> None:
    chains = lvm.nuts(table._line(), chains=1, warmup=50, draws=200, progress=False)
    assert chains.verdict.status != "trusted"
    assert any("chain" in reason.text for reason in chains.verdict.reasons if reason.status != "trusted")


def _chains(draws: np.ndarray, **stats: Any) -> lvm.Chains:
    """A NUTS result with these draws of one scalar, shape ``(chain, draw)``."""
    shape = draws.shape
    sample_stats = {
        "lp": -0.5 * draws**2,
        "diverging": np.zeros(shape, dtype=bool),
        "acceptance_rate": np.full(shape, 0.9),
        "energy": np.random.default_rng(5).normal(size=shape),
        "tree_depth": np.full(shape, 3),
        "n_steps": np.full(shape, 7),
        "step_size": np.full(shape, 0.5),
        "reached_max_treedepth": np.zeros(shape, dtype=bool),
        **stats,
    }
    attrs = {"inference_library": "pyrolvm", "inference_method": "nuts", "pyrolvm_problem": "made up"}

    def dataset(values: dict[str, np.ndarray]) -> xr.Dataset:
        coords = {"chain": np.arange(shape[0]), "draw": np.arange(shape[1])}
        return xr.Dataset({n: (("chain", "draw"), v) for n, v in values.items()}, coords=coords, attrs=attrs)

    tree = xr.DataTree.from_dict({"posterior": dataset({"x": draws}), "sample_stats": dataset(sample_stats)})
    return lvm.Chains(
        name="nuts", data=tree, problem=None, params={}, seconds={"run": 1.0}, engine="pyro", engine_reason="", seed=0
    )


def _independent() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 1000))


def _sticky() -> np.ndarray:
    noise = _independent()
    draws = np.zeros_like(noise)
    for i in range(1, noise.shape[1]):
        draws[:, i] = 0.995 * draws[:, i - 1] + 0.1 * noise[:, i]
    return draws


def test_good_chains_are_trusted() -> None:
    """The verdicts below are about what is wrong there, not about made-up results."""
    assert _chains(_independent()).verdict.status == "trusted"


@pytest.mark.bad_input("B18")
def test_divergences_are_not_trusted(record_property: Any) -> None:
    diverging = np.zeros((4, 1000), dtype=bool)
    diverging[0, :50] = True
    verdict = _chains(_independent(), diverging=diverging).verdict
    assert verdict.status != "trusted"
    assert any("diverg" in reason.text and reason.status != "trusted" for reason in verdict.reasons)
    assert verdict.next_steps
    record_property("evidence", str(verdict))


@pytest.mark.bad_input("B18")
def test_rhat_above_1_01_is_not_trusted(record_property: Any) -> None:
    draws = _independent()
    draws[0] += 1.0
    verdict = _chains(draws).verdict
    assert verdict.status != "trusted"
    assert any("R-hat" in reason.text and reason.status != "trusted" for reason in verdict.reasons)
    record_property("evidence", str(verdict))


@pytest.mark.bad_input("B18")
def test_low_ess_is_not_trusted(record_property: Any) -> None:
    verdict = _chains(_sticky()).verdict
    assert verdict.status != "trusted"
    assert any("effective" in reason.text.lower() or "ESS" in reason.text for reason in verdict.reasons)
    record_property("evidence", str(verdict))


def test_a_short_run_of_centred_eight_schools_is_not_trusted() -> None:
    problem = lvm.problem("eight_schools_centered")
    chains = lvm.nuts(problem, chains=2, warmup=30, draws=60, target_accept=0.6, max_tree_depth=5, progress=False)
    assert chains.verdict.status != "trusted"


# --- B13: workers -----------------------------------------------------------------------------------------------------


@pytest.mark.bad_input("B13")
def test_a_model_that_cannot_be_pickled_runs_on_several_chains(record_property: Any) -> None:
    import pickle

    model = table.Unpicklable()
    with pytest.raises(TypeError):
        pickle.dumps(model)
    chains = lvm.nuts(lvm.Problem(model, table.SIGMA, table.Y), chains=2, warmup=5, draws=5, progress=False)
    assert chains.data["posterior"].sizes["chain"] == 2
    record_property(
        "evidence",
        "a model with a lock in it, which pickle refuses: 2 chains of draws, as chains of one problem share a process",
    )


# --- B20: what the user holds -----------------------------------------------------------------------------------------

VALUES = [1.0, 2.0, -3.0, 4.5]
INTEGERS = [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(VALUES, torch.tensor(VALUES), id="list"),
        pytest.param(np.array(VALUES), torch.tensor(VALUES), id="float64 array"),
        pytest.param(np.array(VALUES, dtype=np.float16), torch.tensor(VALUES), id="float16 array"),
        pytest.param(np.array(VALUES)[::-1], torch.tensor(VALUES[::-1]), id="reversed array"),
        pytest.param(np.array(VALUES, dtype=">f8"), torch.tensor(VALUES), id="big-endian array"),
        pytest.param(np.array(VALUES, dtype=object), torch.tensor(VALUES), id="array of objects"),
        pytest.param(np.broadcast_to(np.array(2.0), (4,)), torch.full((4,), 2.0), id="read-only array"),
        pytest.param(np.float64(2.0), torch.tensor(2.0), id="NumPy scalar"),
        pytest.param(pd.Series(VALUES, index=[9, 8, 7, 6]), torch.tensor(VALUES), id="series with an index"),
        pytest.param(pd.Series(VALUES, dtype="Float64"), torch.tensor(VALUES), id="nullable floats"),
        pytest.param(pd.DataFrame({"a": VALUES, "b": INTEGERS}), torch.tensor([[v, i] for v, i in zip(VALUES, INTEGERS, strict=True)]),
                     id="frame"),
        pytest.param(INTEGERS, torch.tensor(INTEGERS), id="list of integers"),
        pytest.param(np.array(INTEGERS, dtype=np.uint8), torch.tensor(INTEGERS), id="uint8 array"),
        pytest.param(np.array(INTEGERS, dtype=">i4"), torch.tensor(INTEGERS), id="big-endian integers"),
        pytest.param(pd.Series(INTEGERS, dtype="Int64"), torch.tensor(INTEGERS), id="nullable integers"),
        pytest.param(pd.DataFrame({"a": pd.array(INTEGERS, dtype="Int64")}), torch.tensor(INTEGERS)[:, None], id="nullable frame"),
        pytest.param([True, False, True], torch.tensor([True, False, True]), id="list of booleans"),
        pytest.param([VALUES, VALUES], torch.tensor([VALUES, VALUES]), id="nested list"),
    ],
)  # fmt: skip
def test_conversions(given: Any, expected: Tensor) -> None:
    seen = []

    def model(x: Tensor) -> None:
        seen.append(x)
        pyro.sample("w", dist.Normal(0.0, 1.0))

    problem = lvm.Problem(model, given)
    assert seen[0] is problem.args[0]
    assert problem.args[0].dtype == expected.dtype
    torch.testing.assert_close(problem.args[0], expected, rtol=0, atol=0)


def test_converted_floats_follow_the_tensors_among_the_arguments() -> None:
    problem = lvm.Problem(table.line, table.SIGMA.double(), table.Y.tolist())
    assert problem.args[1].dtype == torch.float64 == problem.dtype


def test_converted_data_are_a_copy() -> None:
    mine = np.array(table.Y.tolist())
    problem = lvm.Problem(table.line, table.SIGMA, mine)
    mine[:] = 0.0
    torch.testing.assert_close(problem.args[1], table.Y)


def test_what_is_no_array_passes_through() -> None:
    def model(labels: list[str], size: int, flag: bool, name: str, pair: tuple[int, int], nothing: None) -> None:
        pyro.sample("w", dist.Normal(0.0, 1.0))

    given = (["a", "b"], 3, True, "x", (1, 2), None)
    assert lvm.Problem(model, *given).args == given


# --- B24: NUTS on all rows --------------------------------------------------------------------------------------------


def test_nuts_of_a_subsampling_model_takes_all_rows() -> None:
    y = 1.0 + torch.randn(100, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"chains": 2, "warmup": 50, "draws": 50, "progress": False, "seed": 2}
    with pytest.warns(lvm.PyrolvmWarning, match="all rows are used"):
        part = lvm.nuts(lvm.Problem(table.shrunk_by_subsample, y), **options)
    full = lvm.nuts(lvm.Problem(table.shrunk, y), **options)
    np.testing.assert_array_equal(part.data["posterior"]["w"], full.data["posterior"]["w"])
    assert part.data["log_likelihood"]["y"].sizes["rows"] == 100


# --- B2, B12: what looks like a mistake and is none ---------------------------------------------------------------------


def test_missing_values_that_the_model_masks_are_no_error() -> None:
    y = table.Y.clone()
    y[2] = math.nan
    fit = _fit(lvm.Problem(table.masked, y))
    assert np.isfinite(fit.losses).all()
    kept = fit.data["log_likelihood"]["y"]["rows"].values
    assert 2 not in kept and len(kept) == len(y) - 1


def test_a_bound_that_the_data_exclude_at_first_is_no_error() -> None:
    """``y ~ Uniform(0, high)`` has no density where ``high`` is at its prior's middle, and one beyond."""

    def model(y: Tensor) -> None:
        high = pyro.sample("high", dist.Uniform(0.0, 100.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Uniform(0.0, high), obs=y)

    problem = lvm.Problem(model, torch.tensor([10.0, 60.0, 30.0]))
    chains = lvm.nuts(problem, chains=1, warmup=50, draws=50, progress=False)
    assert float(chains.data["posterior"]["high"].min()) >= 60.0
