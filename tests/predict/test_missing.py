"""New data of which some is missing or masked: the rest is scored. Models without latents, which predict as often as is wanted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

X = torch.linspace(-1, 1, 30)
Y = 2.0 * X + 0.3 * torch.randn(30, generator=torch.Generator().manual_seed(0))


def slope(x: Tensor, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(b * x, 0.3), obs=y)


def some(x: Tensor, seen: Tensor, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(x)), pyro.poutine.mask(mask=seen):
        pyro.sample("y", dist.Normal(b * x, 0.3), obs=y)


@pytest.fixture(scope="module")
def fit() -> lvm.Posterior:
    return lvm.exact(lvm.Problem(slope, X, Y), progress=False)


GAPS = [1.0, float("nan"), -1.0, float("nan")]


@pytest.mark.parametrize("y", [np.array(GAPS), pd.array([1, None, -1, None], dtype="Int64"), torch.tensor(GAPS)])
def test_rows_without_an_observation_are_predicted_and_the_others_scored(fit: lvm.Posterior, y: object) -> None:
    x = torch.tensor([0.5, 0.1, -0.5, 0.9])
    found = lvm.predict(fit, x, y)
    known = lvm.predict(fit, x[[0, 2]], torch.tensor([1.0, -1.0]))
    lpd = found["scores"]["y_lpd"].values
    assert np.isnan(lpd).tolist() == [False, True, False, True]
    assert lpd[[0, 2]] == pytest.approx(known["scores"]["y_lpd"].values, rel=1e-5)
    for name in ("y_lpd", "y_lpd_error", "y_lpd_row_error"):
        assert found["scores"].attrs[name] == pytest.approx(known["scores"].attrs[name], rel=1e-4)
    assert np.isnan(found["scores"]["y_pit"].values).tolist() == [False, True, False, True]
    assert found["scores"].attrs["y_inside_90"] in (0.0, 0.5, 1.0)
    drawn = found["predictions"]["y"].mean(("chain", "draw")).values
    assert drawn[[1, 3]] == pytest.approx([0.2, 1.8], abs=0.15)


def test_rows_that_the_model_masks_have_no_score() -> None:
    seen = torch.arange(30) % 3 > 0
    fit = lvm.exact(lvm.Problem(some, X, seen, Y), progress=False)
    found = lvm.predict(fit, X[:6], seen[:6], Y[:6])["scores"]
    assert np.array_equal(np.isnan(found["y_lpd"].values), ~seen[:6].numpy())
    assert found.attrs["y_lpd"] == pytest.approx(float(np.nansum(found["y_lpd"].values)))
    told = lvm.evaluate(fit, lvm.Problem(some, X[:6], seen[:6], Y[:6]), progress=False)
    assert told.log_p == pytest.approx(found.attrs["y_lpd"] / 4, abs=0.02)


def test_a_missing_covariate_says_what_to_do(fit: lvm.Posterior) -> None:
    with pytest.raises(lvm.DataError, match=r"'x' has 1 .* at \[1\], in what is to be predicted. Fix: of covariates"):
        lvm.predict(fit, np.array([0.5, np.nan]))


def test_a_model_without_latents_predicts_as_many_draws_as_one_with() -> None:
    def line(x: Tensor, y: Tensor) -> None:
        a, b = pyro.param("a", torch.tensor(0.0)), pyro.param("b", torch.tensor(0.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(a + b * x, 0.5), obs=y)

    fit = lvm.fit(lvm.Problem(line, X, 1 + 2 * X), progress=False, seed=0, engine="pyro")
    new = torch.tensor([0.0, 3.0])
    drawn = lvm.predict(fit, new)["predictions"]["y"]
    assert drawn.shape == (1, 1000, 2)
    assert drawn.std(("chain", "draw")).values == pytest.approx(0.5, abs=0.06)
    assert lvm.predict(fit, new, draws=300)["predictions"]["y"].shape == (1, 300, 2)
    y = 1 + 0.5 * torch.randn(60, generator=torch.Generator().manual_seed(1))
    scores = lvm.predict(fit, torch.zeros(60), y)["scores"]
    assert 0.3 < scores.attrs["y_inside_50"] < 0.7 and scores.attrs["y_inside_90"] > 0.8
    assert "y_inside_50" not in lvm.predict(fit, new, 1 + 2 * new, draws=5)["scores"].attrs
    summed = lvm.predict(fit, new, summary=True)["predictions"]["y"]
    assert float(summed.sel(statistic="q95")[0]) == pytest.approx(1 + 1.645 * 0.5, abs=0.15)
