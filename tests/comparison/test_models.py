"""``lvm.compare_models``."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._check.elpd.stacking import stacking_weights

QUIET: dict[str, Any] = {"progress": False}
X = torch.linspace(-1, 1, 120)
Y = 1.0 + 1.5 * X + 0.5 * torch.randn(120, generator=torch.Generator().manual_seed(1))


def polynomial(x: Tensor, y: Tensor, degree: int) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 3.0).expand([degree + 1]).to_event(1))
    mean = sum((w[..., k, None] * x**k for k in range(degree + 1)), torch.zeros(()))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def problem(degree: int, y: Tensor = Y) -> lvm.Problem:
    return lvm.Problem(polynomial, X[: len(y)], y, degree)


@pytest.fixture(scope="module")
def chains() -> dict[str, lvm.Posterior]:
    return {f"degree {k}": lvm.nuts(problem(k), chains=4, warmup=300, draws=1500, **QUIET) for k in (0, 1, 2)}


@pytest.fixture(scope="module")
def compared(chains: dict[str, lvm.Posterior]) -> lvm.ModelComparison:
    return lvm.compare_models(chains)


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of pandas, to whom arviz-stats calls
def test_the_table_is_that_of_arviz_on_chains(chains: dict[str, lvm.Posterior], compared: lvm.ModelComparison) -> None:
    raw = {"round_to": "none"} if "round_to" in inspect.signature(arviz_stats.compare).parameters else {}
    theirs = arviz_stats.compare({name: one.data for name, one in chains.items()}, **raw)
    assert list(compared.table.index) == list(theirs.index)
    for ours, name in (("elpd", "elpd"), ("elpd_diff", "elpd_diff"), ("p", "p")):
        # Of differences, releases of arviz-stats turned the sign.
        np.testing.assert_allclose(compared.table[ours].abs(), theirs[name].abs(), atol=0.1)
    np.testing.assert_allclose(compared.table["diff_error"], theirs["dse"], rtol=0.05, atol=0.05)
    np.testing.assert_allclose(compared.table["weight"], theirs["weight"], atol=0.05)


@pytest.mark.slow
def test_models_rank_alike_by_chains_guides_and_closed_forms(compared: lvm.ModelComparison) -> None:
    exact = lvm.compare_models({f"degree {k}": lvm.exact(problem(k), draws=2000, **QUIET) for k in (0, 1, 2)})
    steps: dict[str, Any] = {"max_steps": 1200, "draws": 2000, "engine": "pyro", **QUIET}
    fits = lvm.compare_models({f"degree {k}": lvm.fit(problem(k), "mean_field", **steps) for k in (0, 1, 2)})
    for found, off in ((exact, 0.3), (fits, 0.6)):  # independent unknowns leave out a third of a nat here
        assert found.best == compared.best
        for name in compared.table.index:
            assert found.table.loc[name, "elpd"] == pytest.approx(compared.table.loc[name, "elpd"], abs=off)
    assert exact.table["evidence"].notna().all() and compared.table["evidence"].isna().all()


def test_advice_says_which_differences_tell(compared: lvm.ModelComparison) -> None:
    text = " ".join(compared.advice)
    assert "predicts better than degree 0" in text and "about equally well" in text
    assert compared.verdict.trusted


def test_doubts_about_a_posterior_are_doubts_about_the_order() -> None:
    short = {str(k): lvm.nuts(problem(k), chains=1, warmup=100, draws=100, **QUIET) for k in (0, 1)}
    found = lvm.compare_models(short)
    assert found.verdict.status == "doubtful"
    assert any("the posterior itself is" in reason.text for reason in found.verdict.reasons)


def test_models_of_other_rows_or_values_are_refused(chains: dict[str, lvm.Posterior]) -> None:
    fewer = lvm.exact(problem(1, Y[:100]), draws=200, **QUIET)
    with pytest.raises(lvm.ArgumentError, match="100 rows"):
        lvm.compare_models({"a": chains["degree 1"], "b": fewer})
    moved = lvm.exact(problem(1, Y.exp()), draws=200, **QUIET)
    with pytest.raises(lvm.ArgumentError, match="observe other values"):
        lvm.compare_models({"a": chains["degree 1"], "b": moved})
    with pytest.raises(lvm.ArgumentError, match="two results"):
        lvm.compare_models({"a": fewer})


def test_sites_of_a_loop_are_rows_and_those_of_other_values_are_refused() -> None:
    def steps(y: torch.Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 5.0))
        for t in range(len(y)):
            pyro.sample(f"y and {t}", dist.Normal(level, 1.5), obs=y[t])

    one, other = (lvm.exact(lvm.Problem(steps, values[:6]), draws=200, **QUIET) for values in (Y, Y.exp()))
    found = one.loo()
    assert len(found.sites) == found.rows["elpd"].size == 6
    assert found.site == "y and 0, y and 1, y and 2 and 3 more"
    with pytest.raises(lvm.ArgumentError, match="observe other values"):
        lvm.compare_models({"a": one, "b": other})


def test_it_shows_itself(compared: lvm.ModelComparison, tmp_path: Path) -> None:
    assert repr(compared).startswith("<ModelComparison by elpd: degree ") and len(repr(compared)) < 200
    assert " below" in repr(compared)
    assert "degree 0" in compared._repr_html_() and "degree 0" in str(compared)
    json.dumps(compared.as_dict(), allow_nan=False)
    compared.plot(tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 3000


def test_stacking_weights_are_the_best_of_a_grid_and_do_not_underflow() -> None:
    scores = np.random.default_rng(0).normal(size=(50, 2)) + np.array([0.3, 0.0])
    grid = np.linspace(0, 1, 10_001)
    joint = np.log(grid[:, None] * np.exp(scores[:, 0]) + (1 - grid[:, None]) * np.exp(scores[:, 1])).sum(1)
    assert stacking_weights(scores)[0] == pytest.approx(grid[joint.argmax()], abs=2e-4)
    np.testing.assert_allclose(stacking_weights(scores - 5000.0), stacking_weights(scores), atol=1e-9)
    np.testing.assert_allclose(stacking_weights(np.tile([[0.0, -3.0]], (9, 1))), [1.0, 0.0], atol=1e-6)
