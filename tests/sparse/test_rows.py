"""Unknowns that many rows share: densities by chunks, and posteriors by a few passes over all rows."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import pyrolvm as lvm
from pyrolvm._base.errors import DataError
from pyrolvm._methods.sparse.rows import shared_by_rows
from pyrolvm._program.density import Joint
from pyrolvm._program.density.rowwise import Rowwise


def linear(x, y):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(x.shape[1]), 2.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ slope, 0.7), obs=y)


def logistic(x, y):
    level = pyro.sample("level", dist.Normal(0.0, 5.0))
    slope = pyro.sample("slope", dist.Normal(torch.zeros(x.shape[1]), 2.5).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=level + x @ slope), obs=y)


def standardised(x, y):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(x.shape[1]), 2.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal((x - x.mean(0)) @ slope, 0.7), obs=y)


def pooled(x, y):
    width = pyro.sample("width", dist.HalfNormal(1.0))
    slope = pyro.sample("slope", dist.Normal(torch.zeros(x.shape[1]), width).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ slope, 0.7), obs=y)


@functools.cache
def data(rows: int, width: int = 3, level: float = -0.5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictors, numbers and outcomes."""
    random = np.random.default_rng(5)
    x = random.normal(size=(rows, width))
    place = x @ np.linspace(-0.6, 0.6, width)
    numbers = place + 0.7 * random.normal(size=rows)
    outcomes = random.random(rows) < 1 / (1 + np.exp(-level - place))
    return tuple(torch.as_tensor(np.asarray(one, dtype=np.float32)) for one in (x, numbers, outcomes))


def binary(rows: int) -> lvm.Problem:
    x, _, y = data(rows)
    return lvm.Problem(logistic, x, y)


def of_rows(problem: lvm.Problem) -> Rowwise | None:
    return shared_by_rows(problem, problem.plates["data"])


def test_the_density_by_chunks_is_that_of_the_model_and_the_same_for_any_number_of_threads() -> None:
    problem = binary(9_017).to(dtype=torch.float64)
    points = 0.3 * np.random.default_rng(1).normal(size=(3, 4))
    with problem.session(seed=0):
        rows = of_rows(problem)
        assert rows is not None
        found = []
        for threads in (1, 2, 4):
            rows.threads = threads
            found.append(rows(points))
        wanted = [-float(Joint(problem).potential(torch.as_tensor(point))) for point in points]
    for values, gradients in found:
        np.testing.assert_allclose(values, wanted, rtol=1e-11)
        assert np.array_equal(values, found[0][0]) and np.array_equal(gradients, found[0][1])


@pytest.mark.parametrize("model", [standardised, pooled])
def test_what_is_no_sum_over_rows_or_scaled_by_other_unknowns_is_run_otherwise(model) -> None:
    x, y, _ = data(9_017)
    problem = lvm.Problem(model, x + 3.0, y)
    with problem.session(seed=0):
        assert of_rows(problem) is None


def test_a_fit_with_batches_is_the_exact_posterior_of_all_rows() -> None:
    x, y, _ = data(9_017)
    problem = lvm.Problem(linear, x, y)
    exact, fit = lvm.exact(problem, progress=False), lvm.fit(problem, batch_size=1024, progress=False)
    assert fit.verdict.status == "trusted"
    assert fit.evidence is not None and abs(fit.evidence.value - exact.evidence.value) < 0.02
    wanted, drawn = (one.data["posterior"]["slope"].values[0] for one in (exact, fit))
    assert np.all(np.abs(drawn.mean(0) - wanted.mean(0)) < 0.1 * wanted.std(0))
    assert np.all(np.abs(drawn.std(0) / wanted.std(0) - 1) < 0.1)
    trained = torch.stack([fit.guide_fn()(x, y)["slope"] for _ in range(50)]).numpy()
    assert np.all(np.abs(trained.mean(0) - wanted.mean(0)) < 0.6 * wanted.std(0))


class _Parts(IterableDataset):
    """Rows in batches of their own, as a file has them."""

    def __init__(self, columns: tuple[torch.Tensor, ...], most: int | None = None) -> None:
        self.columns, self.most, self.passes = columns, most, 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        self.passes += 1
        for start in range(0, len(self.columns[0]), 1_700):
            yield tuple(column[start : start + 1_700] for column in self.columns)


class _Noisy(_Parts):
    """Rows that are others in every pass."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        for x, y in super().__iter__():
            yield x + 0.01 * self.passes, y


def test_streams_have_the_posterior_of_the_same_rows_in_memory() -> None:
    x, _, y = data(9_017)
    whole = lvm.fit(lvm.Problem(logistic, x, y), batch_size=500, draws=500, progress=False)
    stream = lvm.stream(DataLoader(_Parts((x, y)), batch_size=None), size=len(x))
    fit = lvm.fit(lvm.Problem(logistic, *stream), draws=500, progress=False)
    assert fit.verdict.status == "trusted"
    assert np.array_equal(fit.data["posterior"]["slope"].values, whole.data["posterior"]["slope"].values)


def test_rows_that_are_lost_or_change_from_pass_to_pass_are_refused() -> None:
    x, _, y = data(9_017)
    lost = lvm.stream(DataLoader(_Parts((x, y)), batch_size=None), size=9_500)
    with pytest.raises(DataError, match="9,017, expected 9,500"):
        lvm.fit(lvm.Problem(logistic, *lost), progress=False)
    noisy = lvm.stream(DataLoader(_Noisy((x, y)), batch_size=None), size=len(x))
    with pytest.raises(DataError, match="not the same in every pass"):
        lvm.fit(lvm.Problem(logistic, *noisy), progress=False)


@pytest.mark.slow
def test_many_rows_are_told_by_some_of_them_and_the_rest_is_measured() -> None:
    found = lvm.sparse(binary(40_000), progress=False)
    assert found.verdict.status == "trusted"
    said = found.data["integration"].attrs
    assert said["rows"] == 40_000 and said["evaluations"] < 60
    assert 0 < found.verdict.figures["density_left"] < 0.03 and found.verdict.figures["rows"] == 4_096


def _cases() -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    x, _, y = data(30_000, 4)
    yield "plain", x, y
    yield "separable", x, (x[:, 0] + 0.5 * x[:, 1] > 0).float()
    yield "collinear", torch.cat([x[:, :3], x[:, 2:3]], 1), y
    yield "constant column", torch.cat([x[:, :3], torch.ones(len(x), 1)], 1), y
    yield "heavy predictors", (2 * x).exp(), y
    x, _, y = data(30_000, 4, -7.5)
    yield "rare", x, y


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("x", "y"), [pytest.param(x, y, id=name) for name, x, y in _cases()])
def test_hard_regressions_are_trusted_and_right(x, y, seed: int) -> None:
    problem = lvm.Problem(logistic, x, y)
    fit = lvm.fit(problem, batch_size=1024, seed=seed, progress=False)
    chains = lvm.nuts(problem, chains=2, draws=1_500, seed=0, progress=False)
    assert fit.verdict.status == "trusted"
    for name in ("level", "slope"):
        shape = fit.data["posterior"][name].shape[2:]
        wanted, drawn = (one.data["posterior"][name].values.reshape(-1, *shape) for one in (chains, fit))
        assert np.all(np.abs(drawn.mean(0) - wanted.mean(0)) < 0.15 * wanted.std(0))
        assert np.all(np.abs(drawn.std(0) / wanted.std(0) - 1) < 0.15)
