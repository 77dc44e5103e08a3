from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyrolvm as lvm

X = torch.linspace(-1.0, 1.0, 12).reshape(6, 2)


def rows(x):
    with pyro.plate("data"):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def grid(x):
    with pyro.plate("outer", dim=-2), pyro.plate("inner", dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(x.shape), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def shared(x):
    with pyro.plate("data"):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, torch.ones(len(x))), obs=x[:, 0])


def summed(x):
    means = pyro.param("means", torch.tensor([[-1.0, 0.0], [1.0, 1.0]]))
    with pyro.plate("data"):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
        kind = pyro.sample("kind", dist.OneHotCategorical(torch.full((len(x), 2), 0.5)))
        pyro.sample("x", dist.Normal(kind @ means + z, 0.5).to_event(1), obs=x)


def guide_that_enumerates(x):
    weights = pyro.param("weights", torch.zeros(2, 2))
    with pyro.plate("data"):
        kind = pyro.sample("kind", dist.OneHotCategorical(logits=x @ weights), infer={"enumerate": "parallel"})
        pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True) + 0 * kind[..., :1], 0.7).to_event(1))


@pytest.mark.parametrize(
    ("model", "sizes"),
    [(rows, {"data": 6}), (grid, {"outer": 6, "inner": 2}), (shared, {}), (summed, {"data": 6})],
    ids=["rows", "grid", "one_for_all_rows", "enumerated"],
)
def test_a_plate_without_a_size_has_as_many_rows_as_its_sites(model, sizes):
    assert {name: plate.size for name, plate in lvm.Problem(model, X).plates.items()} == sizes


@pytest.mark.parametrize("model", [rows, grid, shared])
def test_the_density_is_that_of_pyro(model):
    problem = lvm.Problem(model, X)
    fit = lvm.fit(problem, "mean_field", max_steps=20, draws=3, progress=False)
    z = torch.as_tensor(fit.data["posterior"]["z"].values[0])
    for i, value in enumerate(z):
        stock = poutine.trace(poutine.condition(model, {"z": value})).get_trace(X).log_prob_sum()
        assert float(stock) == pytest.approx(float(fit.log_p[0, i]), abs=1e-4)


def test_minibatches_of_such_a_plate_are_scaled():
    problem = lvm.Problem(rows, X)
    with problem.session(seed=0):
        trace = problem.batch(torch.tensor([1, 4])).trace(problem)
    assert trace.nodes["x"]["scale"] == pytest.approx(3.0)


def test_a_guide_may_enumerate_below_one():
    fit = lvm.fit(lvm.Problem(summed, X), guide_that_enumerates, max_steps=20, draws=10, progress=False)
    assert fit.data["posterior"]["kind"].dims == ("chain", "draw", "data", "kind_dim_1")


@pytest.mark.parametrize("name", ["weight", "covariates"])
def test_tables_without_columns_are_data(name, tmp_path):
    def model(table, y):
        weight = pyro.sample("weight", dist.Normal(torch.zeros(table.shape[1]), 1.0).to_event(1))
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(level + table @ weight, 1.0), obs=y)

    def without(covariates, y):
        level = pyro.sample("level", dist.Normal(torch.zeros(1 + covariates.shape[1]), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(level[0], 1.0), obs=y)

    problem = lvm.Problem(model if name == "weight" else without, torch.zeros(6, 0), X[:, 0])
    fit = lvm.fit(problem, "mean_field", max_steps=20, draws=10, progress=False)
    fit.save(tmp_path / "fit")
    assert lvm.load(tmp_path / "fit", problem=problem).data["posterior"].sizes["draw"] == 10
    assert lvm.nuts(problem, chains=2, warmup=10, draws=10, progress=False).num_draws == 20


def test_a_table_without_rows_is_not():
    with pytest.raises(lvm.DataError, match="empty"):
        lvm.Problem(rows, torch.zeros(0, 2))
