"""Uses of predictions that are odd: what was numbers given as labels, labels inside dictionaries, single values, rates without end."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base.errors import ArgumentError

QUIET: dict[str, Any] = {"progress": False}
NAMES = np.array(list("abc") * 6)
X = torch.linspace(-1.0, 1.0, 18)
Y = X + torch.tensor([0.0, 2.0, 4.0]).repeat(6)


def of_groups(data: dict[str, Any]) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 3.0))
    with pyro.plate("groups", 3):
        effect = pyro.sample("effect", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(data["x"])):
        pyro.sample("y", dist.Normal(slope * data["x"] + effect[data["group"]], 0.1), obs=data.get("y"))


def line(x: Tensor, y: Tensor | None = None) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 3.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)


def counted(x: Tensor, y: Tensor | None = None) -> None:
    slope = pyro.sample("slope", dist.Normal(0.5, 0.01))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Poisson((slope * x).exp()), obs=y)


@pytest.fixture(scope="module")
def grouped() -> lvm.Posterior:
    return lvm.exact(lvm.Problem(of_groups, {"x": X, "group": NAMES, "y": Y}), **QUIET)


@pytest.fixture(scope="module")
def fitted() -> lvm.Posterior:
    return lvm.exact(lvm.Problem(line, X, Y), **QUIET)


def test_labels_inside_a_dictionary_mean_what_they_meant_in_the_fit(grouped: lvm.Posterior) -> None:
    found = lvm.predict(grouped, {"x": torch.zeros(2), "group": np.array(["c", "b"])})["predictions"]["y"]
    np.testing.assert_allclose(found.mean(("chain", "draw")), [4.0, 2.0], atol=0.1)


def test_members_that_are_said_have_their_own_labels(grouped: lvm.Posterior) -> None:
    data = {"x": torch.zeros(1), "group": np.array(["a"])}
    found = lvm.predict(grouped, data, members={"groups": [2, None, 0]})["predictions"]["effect"]
    assert list(found["groups"].values) == ["c", "new 1", "a"]
    assert float(found.sel(groups="c").mean()) == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (["low", "high"], "labels"), (pd.Series(["low", "high"]), "labels"), (pd.Categorical([3.0, 1.0]), "labels"),
        (pd.Series(pd.to_datetime(["2024-01-01", "2024-01-03"])), "dates"), ([datetime.date(2024, 1, 1)], "dates"),
    ],
)  # fmt: skip
def test_labels_are_not_taken_for_the_numbers_of_the_fit(fitted: lvm.Posterior, x: object, what: str) -> None:
    with pytest.raises(ArgumentError, match=f"'x' holds {what}, and held numbers in the fit"):
        lvm.predict(fitted, x)


def test_a_single_value_in_the_place_of_rows_is_said(fitted: lvm.Posterior) -> None:
    with pytest.raises(ArgumentError, match=r"single value, and had 18 rows.*\[1.0\]"):
        lvm.predict(fitted, 1.0)


def test_batches_and_quantities_that_are_no_numbers_are_refused(fitted: lvm.Posterior) -> None:
    with pytest.raises(ArgumentError, match="summary=True"):
        lvm.predict(fitted, iter([torch.zeros(2)]))
    with pytest.raises(ArgumentError, match="quantity 'word' is str, expected a tensor or a number"):
        lvm.predict(fitted, torch.zeros(2), quantities={"word": lambda values: "a"})


def test_a_guide_far_from_the_posterior_has_no_sensitivity_and_its_data_are_checked_all_the_same() -> None:
    def far(x: Tensor, y: Tensor) -> None:
        pyro.sample("slope", dist.Normal(pyro.param("middle", torch.tensor(0.0)), 0.1))

    x = torch.linspace(-1.0, 1.0, 3_000)
    fit = lvm.fit(lvm.Problem(line, x, 2 * x), far, max_steps=1, engine="pyro", draws=200, **QUIET)
    with pytest.raises(ArgumentError, match="far from the posterior"):
        fit.psense()
    assert lvm.check(fit).sensitivity is None


def test_a_guide_of_many_rows_has_the_sensitivity_of_its_draws() -> None:
    x = torch.linspace(-1.0, 1.0, 3_000)
    noise = 0.5 * torch.randn(3_000, generator=torch.Generator().manual_seed(0))
    fit = lvm.fit(lvm.Problem(line, x, 2 * x + noise), "mean_field", max_steps=400, draws=1_000, **QUIET)
    table = fit.psense()
    assert float(table["prior"].iloc[0]) < 0.05 < float(table["likelihood"].iloc[0])


def test_counts_without_a_finite_rate_are_infinite_and_not_negative() -> None:
    result = lvm.fit(lvm.Problem(counted, X, torch.ones(18)), "mean_field", max_steps=20, engine="pyro", **QUIET)
    for words in ((torch.tensor([0.0, 1e4]),), (torch.tensor([0.0, 1e4]), torch.tensor([1.0, 1.0]))):
        found = lvm.predict(result, *words, draws=50)["predictions"]["y"].values[0]
        assert np.isfinite(found[:, 0]).all() and np.isposinf(found[:, 1]).all()
    told = lvm.predict(result, torch.tensor([0.0, 1e4]), draws=50, summary=True)["predictions"]["y"]
    assert np.isfinite(told[0]).all() and np.isposinf(told.sel(statistic=["mean", "q05", "q50"])[1]).all()
