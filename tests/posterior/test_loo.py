"""Leave-one-out cross-validation from draws: against exact refits, for guides too, and rows that are masked."""

from __future__ import annotations

import math
from typing import Any

import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

GENERATOR = torch.Generator().manual_seed(3)
X = torch.linspace(-1, 2, 40)  # off the origin, so that intercept and slope are correlated
Y = 1.0 + 2.0 * X + 0.5 * torch.randn(40, generator=GENERATOR)
QUIET: dict[str, Any] = {"progress": False}


def line(x: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a + b * x, 0.5), obs=y)


def level(x: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a, 1.5), obs=y)


def masked(x: Tensor, y: Tensor, seen: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)), pyro.poutine.mask(mask=seen):
        pyro.sample("y", dist.Normal(a + b * x, 0.5), obs=y)


def table(y: Tensor, seen: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    with pyro.plate("columns", y.shape[1], dim=-1), pyro.plate("rows", y.shape[0], dim=-2):
        pyro.sample("y", dist.Normal(a, 1.0).mask(seen), obs=y)


def by_factor(x: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)):
        pyro.factor("like", dist.Normal(a, 1.5).log_prob(y))


def at_once(x: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    pyro.factor("like", dist.Normal(a, 1.5).log_prob(y).sum())


def exact_loo(columns: list[Tensor], y: Tensor, noise: float, *, others: bool = True) -> np.ndarray:
    """By refits in closed form: the log predictive density of each row given all others; given all rows if not ``others``."""
    design, seen = torch.stack(columns, 1).double().numpy(), y.double().numpy()
    found = []
    for i in range(len(seen)):
        kept = (np.arange(len(seen)) != i) | (not others)
        precision = design[kept].T @ design[kept] / noise**2 + np.eye(len(columns)) / 25
        mean = np.linalg.solve(precision, design[kept].T @ seen[kept] / noise**2)
        variance = noise**2 + design[i] @ np.linalg.solve(precision, design[i])
        off = seen[i] - design[i] @ mean
        found.append(-0.5 * math.log(2 * math.pi * variance) - 0.5 * off**2 / variance)
    return np.array(found)


LINE = lvm.Problem(line, X, Y)
EXACT = exact_loo([torch.ones(40), X], Y, 0.5)
P = float((exact_loo([torch.ones(40), X], Y, 0.5, others=False) - EXACT).sum())


@pytest.fixture(scope="module")
def results() -> dict[str, lvm.Posterior]:
    steps: dict[str, Any] = {"max_steps": 1500, "draws": 4000, "engine": "pyro", **QUIET}
    return {
        "exact": lvm.exact(LINE, draws=4000, **QUIET),
        "full_rank": lvm.fit(LINE, "full_rank", **steps),
        "mean_field": lvm.fit(LINE, "mean_field", **steps),
        "nuts": lvm.nuts(LINE, chains=4, warmup=200, draws=500, **QUIET),
    }


@pytest.mark.parametrize("name", ["exact", "full_rank", "mean_field", "nuts"])
def test_loo_of_any_method_is_that_of_exact_refits(results: dict[str, lvm.Posterior], name: str) -> None:
    found = results[name].loo()
    assert found.bad <= 3 and (found.verdict.trusted or name == "mean_field")
    assert found.elpd == pytest.approx(EXACT.sum(), abs=0.15)
    assert np.abs(found.rows["elpd"].values - EXACT).max() < 0.05
    assert found.error == pytest.approx(math.sqrt(40) * EXACT.std(ddof=1), rel=0.03)
    assert found.p == pytest.approx(P, abs=0.1)
    assert found.corrected == (name in ("full_rank", "mean_field"))


def test_draws_of_a_guide_without_its_weights_have_another_loo(results: dict[str, lvm.Posterior]) -> None:
    fit = results["mean_field"]  # too narrow by the correlation
    naive = arviz_stats.loo(fit.data, pointwise=True)
    off, right = (np.abs(one - EXACT).max() for one in (naive.elpd_i.values, fit.loo().rows["elpd"].values))
    assert off > 2 * right


def test_figures_are_those_of_arviz_on_chains(results: dict[str, lvm.Posterior]) -> None:
    chains = results["nuts"]
    theirs, ours = arviz_stats.loo(chains.data, pointwise=True), chains.loo()
    assert ours.elpd == pytest.approx(theirs.elpd, abs=0.02)
    assert ours.p == pytest.approx(theirs.p, abs=0.05)
    np.testing.assert_allclose(ours.rows["elpd"].values, theirs.elpd_i.values, atol=5e-3)


def test_a_row_far_from_all_others_is_named_by_its_khat() -> None:
    y = Y.clone()
    y[7] += 12.0
    posterior = lvm.exact(lvm.Problem(line, X, y), draws=2000, **QUIET)
    moved, found = posterior.loo(), posterior.loo(moment_match=False)
    assert moved.verdict.status == "trusted"
    assert moved.elpd == pytest.approx(exact_loo([torch.ones(40), X], y, 0.5).sum(), abs=0.5)
    assert found.verdict.status == "doubtful" and 1 <= found.bad <= 4
    assert int(found.rows["khat"].values.argmax()) == 7
    assert "refit=True" in " ".join(found.verdict.next_steps)


def test_rows_that_are_masked_are_in_no_group_of_data() -> None:
    seen = torch.ones(40, dtype=torch.bool)
    seen[[3, 11, 12]] = False
    y = torch.where(seen, Y, torch.tensor(99.0))
    chains = lvm.nuts(lvm.Problem(masked, X, y, seen), chains=2, warmup=200, draws=400, **QUIET)
    for group in ("log_likelihood", "observed_data"):
        values = chains.data[group]["y"]
        assert values.sizes["rows"] == 37 and 11 not in values["rows"].values and 13 in values["rows"].values
    expected = exact_loo([torch.ones(37), X[seen]], Y[seen], 0.5)
    assert chains.loo().elpd == pytest.approx(expected.sum(), abs=0.3)
    assert arviz_stats.loo(chains.data).elpd == pytest.approx(expected.sum(), abs=0.3)
    assert chains.data["posterior_predictive"]["y"].sizes["rows"] == 40


def test_entries_of_a_table_that_are_masked_are_left_out_one_by_one() -> None:
    y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    seen = torch.ones(6, 4, dtype=torch.bool)
    seen[0, 1] = seen[3, 2] = seen[5, 2] = False
    found = lvm.exact(lvm.Problem(table, y, seen), draws=1000, **QUIET)
    values = found.data["observed_data"]["y"]
    assert values.dims == ("y_seen",) and values.size == 21
    np.testing.assert_allclose(np.sort(values.values), np.sort(y[seen].numpy()))
    place = int(np.flatnonzero((values["rows"].values == 3) & (values["columns"].values == 3))[0])
    assert float(values[place]) == pytest.approx(float(y[3, 3]))
    assert found.loo().rows["elpd"].size == 21


def test_a_factor_in_a_plate_is_a_likelihood_by_row_and_one_for_all_is_named() -> None:
    found = lvm.nuts(lvm.Problem(by_factor, X, Y), chains=2, warmup=200, draws=400, **QUIET).loo()
    assert found.elpd == pytest.approx(exact_loo([torch.ones(40)], Y, 1.5).sum(), abs=0.2)
    chains = lvm.nuts(lvm.Problem(at_once, X, Y), chains=2, warmup=50, draws=50, **QUIET)
    with pytest.raises(lvm.ArgumentError, match=r"factor 'like'.*plate"):
        chains.loo()


def test_a_point_estimate_and_a_site_that_is_not_there_are_refused(results: dict[str, lvm.Posterior]) -> None:
    from pyro.infer.autoguide import AutoDelta

    fit = lvm.fit(LINE, AutoDelta, max_steps=50, engine="pyro", **QUIET)
    with pytest.raises(lvm.ArgumentError, match=r"lvm\.nuts"):
        fit.loo()
    with pytest.raises(lvm.UnknownNameError, match="y"):
        results["exact"].loo(site="z")


def test_sites_of_the_same_rows_are_left_out_together_and_others_are_asked_about() -> None:
    def two(x: Tensor, y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 5.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(a, 1.5), obs=y)
            pyro.sample("w", dist.Normal(0.0, 3.0), obs=y)

    def other(x: Tensor, y: Tensor) -> None:
        two(x, y)
        pyro.sample("z", dist.Normal(0.0, 1.0), obs=torch.tensor(0.3))

    found = lvm.exact(lvm.Problem(two, X, Y), draws=2000, **QUIET).loo()
    single = lvm.exact(lvm.Problem(level, X, Y), draws=2000, **QUIET).loo()
    extra = dist.Normal(0.0, 3.0).log_prob(Y).sum().item()
    assert (found.sites, found.site) == (("y", "w"), "y and w")
    assert found.elpd == pytest.approx(single.elpd + extra, abs=0.05)
    with pytest.raises(lvm.ArgumentError, match="site='y'"):
        lvm.exact(lvm.Problem(other, X, Y), draws=100, **QUIET).loo()
