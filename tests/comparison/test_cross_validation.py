"""``lvm.cross_validate``: rows and groups held out of fits, and predicted by them."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

HERE: dict[str, Any] = {"backend": "here", "progress": False}
X = torch.linspace(-1, 1, 24)
GROUP = torch.arange(24) % 4
Y = 1.0 + 2.0 * X + torch.tensor([0.0, 1.0, -1.0, 2.0])[GROUP] + 0.4 * torch.sin(37.0 * torch.arange(24.0))


def grouped(x: Tensor, group: Tensor, count: int, y: Tensor) -> None:
    base = pyro.sample("base", dist.Normal(0.0, 3.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 3.0))
    with pyro.plate("group", count):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.5))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(base + slope * x + effect[group], 0.5), obs=y)


def held_out(rows: np.ndarray) -> np.ndarray:
    """The log density of each row given all but those rows, by the normal law of all of them."""
    x, y = X.numpy().astype(float), Y.numpy().astype(float)
    same = (GROUP[:, None] == GROUP).numpy().astype(float)
    cov = 9.0 + 9.0 * np.outer(x, x) + 2.25 * same + 0.25 * np.eye(24)
    rest = np.setdiff1d(np.arange(24), rows)
    gain = cov[np.ix_(rows, rest)] @ np.linalg.inv(cov[np.ix_(rest, rest)])
    mean = gain @ y[rest]
    var = np.diag(cov[np.ix_(rows, rows)] - gain @ cov[np.ix_(rest, rows)])
    return -0.5 * (y[rows] - mean) ** 2 / var - 0.5 * np.log(2 * np.pi * var)


@pytest.fixture(scope="module")
def problem() -> lvm.Problem:
    return lvm.Problem(grouped, X, GROUP, 4, Y)


def test_rows_and_groups_that_are_held_out_have_their_exact_densities(problem: lvm.Problem) -> None:
    found = lvm.cross_validate(problem, "exact", folds=3, draws=2000, options={"draws": 2000}, **HERE)
    assert sorted(found.rows.index) == list(range(24)) and list(found.table["rows"]) == [8] * 3
    for _, part in found.rows.groupby("fold"):
        np.testing.assert_allclose(part["elpd"], held_out(part.index.to_numpy()), atol=0.15)
    assert found.verdict.trusted and found.se == found.error and found.n_data_points == 24
    groups = lvm.cross_validate(problem, "exact", groups="group", draws=2000, options={"draws": 2000}, **HERE)
    assert list(groups.table.index) == [f"group {i}" for i in range(4)]
    wanted = sum(held_out(np.flatnonzero(GROUP.numpy() == i)).sum() for i in range(4))
    assert groups.elpd == pytest.approx(wanted, abs=5 * float(np.hypot.reduce(groups.table["mc_error"])) + 0.1)


def test_rows_without_an_observation_are_fitted_without_and_count_nowhere() -> None:
    y = Y.clone()
    y[[3, 10]] = torch.nan
    found = lvm.cross_validate(
        lvm.Problem(grouped, X, GROUP, 4, y, missing="latent"), "mean_field", folds=2,
        options={"max_steps": 60, "engine": "pyro"}, **HERE,
    )  # fmt: skip
    assert found.n_data_points == len(found.rows) == 22 and not {3, 10} & set(found.rows.index)
    assert found.error == pytest.approx(np.sqrt(22) * found.rows["elpd"].std())


def test_it_is_kept_gone_on_with_and_loaded(problem: lvm.Problem, tmp_path: Path) -> None:
    found = lvm.cross_validate(problem, "exact", folds=2, out=tmp_path / "cv", **HERE)
    again = lvm.cross_validate(problem, "exact", folds=2, out=tmp_path / "cv", resume=True, **HERE)
    loaded = lvm.load(tmp_path / "cv")
    assert loaded.elpd == again.elpd == found.elpd and repr(loaded) == repr(found)
    assert loaded.table.equals(found.table) and loaded.rows.equals(found.rows)
    assert "all" in loaded.summary().index and "elpd" in loaded._repr_html_()
    with pytest.raises(lvm.StoreError, match="folds"):
        lvm.cross_validate(problem, "exact", folds=3, out=tmp_path / "cv", resume=True, **HERE)
    assert found.save(tmp_path / "other").is_dir()


def test_folds_that_the_disk_did_not_take_are_fitted_when_it_is_called_again(
    problem: lvm.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyrolvm._check.sweep.cells import Cells

    out, real = tmp_path / "cv", Cells._write

    def full(cells: Cells, name: str, content: Any) -> None:
        if name.endswith("cell.json") and content["problem"] == "fold 1":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(cells, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Cells, "_write", full)
        found = lvm.cross_validate(problem, "exact", folds=2, out=out, **HERE)
    assert found.interrupted and found.verdict.status == "failed" and "resume=True" in found.verdict.next_steps[0]
    again = lvm.cross_validate(problem, "exact", folds=2, out=out, resume=True, **HERE)
    assert not again.interrupted and again.elpd == lvm.load(out).elpd < 0
    assert again.table["seconds"]["fold 0"] == found.table["seconds"]["fold 0"]  # which was not fitted again


def test_a_fold_that_cannot_be_fitted_is_told_and_there_is_no_sum(problem: lvm.Problem) -> None:
    def fails(problem: lvm.Problem) -> lvm.Posterior:
        if float(problem.arguments["x"].min()) > -1:
            raise ValueError("no such row")
        return lvm.exact(problem, progress=False)

    found = lvm.cross_validate(problem, fails, folds=4, **HERE)
    assert found.verdict.status == "failed" and np.isnan(found.elpd)
    assert list(found.table["error"] != "").count(True) == 1 and "no such row" in str(found.verdict)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"folds": 40}, r"folds must be from 2 to 24, the number of rows, got 40"),
        ({"groups": "nobody"}, r"no plate of grouped is called 'nobody'"),
        ({"groups": [1, 2]}, r"groups has 2 labels, and there are 24 rows"),
        ({"groups": "group", "folds": 9}, r"from 2 to 4, the number of groups"),
        ({"groups": ["one"] * 24}, r"all 24 rows are of one group, 'one'"),
        ({"groups": ["a", None] * 12}, r"groups has no label for row 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(problem: lvm.Problem, words: dict[str, Any], message: str) -> None:
    with pytest.raises((lvm.ArgumentError, lvm.UnknownNameError), match=message):
        lvm.cross_validate(problem, "exact", **words, **HERE)
