"""Decisions that rest on costs rest on what is computed: a clock that is slow, as on a busy machine, changes no result."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._program.density import Joint
from pyrolvm._program.density.effort import INNER, NUMBER, OPERATION, POINT
from pyrolvm._program.density.target import Target

Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])


def schools(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 12.0), obs=y)


def products(x: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=x[:, 0])


def scripted(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    if float(mu) > 1e6:  # read by Python, so that there is no graph
        mu = mu + 1
    pyro.sample("y", dist.Normal(mu, 1.0).expand([len(y)]).to_event(1), obs=y)


def target(problem: lvm.Problem, engine: str = "auto") -> Target:
    with problem.session(seed=0):
        made = Target.of(Joint(problem), engine=engine)
        assert made.each is made.each
        return made


def test_compiled_densities_take_what_their_numbers_take() -> None:
    made = target(lvm.Problem(schools, Y), "c")
    assert made._captured is not None
    assert made.each.point == pytest.approx(POINT + NUMBER["c"] * made._captured.numbers)
    assert made.each.of(10) == pytest.approx(10 * made.each.point)


def test_products_of_matrices_take_what_is_summed_in_them() -> None:
    thin, wide = (target(lvm.Problem(products, torch.ones(40, columns)), "c") for columns in (2, 200))
    assert thin._captured is not None and wide._captured is not None
    more = (wide.each.point - thin.each.point) / NUMBER["c"] - (wide._captured.numbers - thin._captured.numbers)
    assert more == pytest.approx(INNER * (200 - 2) * 40)


def counts(y: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    pyro.sample("y", dist.StudentT(3 + rate, 0.0, 1.0).expand([len(y)]).to_event(1), obs=y)


def test_functions_of_numbers_are_no_products_whatever_their_names_hold() -> None:
    made = target(lvm.Problem(counts, torch.ones(300)), "c")
    assert made._captured is not None
    named = [str(node.target) for node in made._captured.module.graph.nodes]
    assert any("lgamma" in name for name in named)  # in which there is "mm"
    assert made.each.point == pytest.approx(POINT + NUMBER["c"] * made._captured.numbers)


def test_what_runs_operation_by_operation_takes_a_time_for_each() -> None:
    graph = target(lvm.Problem(schools, Y), "torch")
    assert graph._captured is not None
    assert graph.each.of(1) > graph._captured.size * OPERATION
    plain = lvm.Problem(scripted, Y)
    with plain.session(seed=0):
        made = Target.of(Joint(plain))
        assert made.engine == "pyro"
        assert 10 * OPERATION < made.each.of(1) < 1000 * OPERATION


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A clock that says that a minute has passed, whenever it is looked at."""

    def start() -> None:
        ticks = itertools.count()
        monkeypatch.setattr(time, "perf_counter", lambda: 60.0 * next(ticks))

    yield start
    monkeypatch.undo()


def taken(problem: lvm.Problem) -> dict[str, Any]:
    chains = lvm.nuts(problem, warmup=60, draws=60, chains=2, seed=1, progress=False)
    found = lvm.infer(problem, methods=["mean_field", "nuts"], seed=1, progress=False)
    return {
        "chains": chains.data["posterior"]["mu"].values,
        "accept": chains.data["posterior"].attrs["target_accept"],
        "effort": chains.data["posterior"].attrs["effort"],
        "rungs": [(rung["method"], rung["status"]) for rung in found.ladder],
        "inferred": found.data["posterior"]["mu"].values,
    }


def test_a_busy_machine_gives_the_results_of_an_idle_one(slow_clock: Any) -> None:
    idle = taken(lvm.Problem(schools, Y))
    slow_clock()
    busy = taken(lvm.Problem(schools, Y))
    assert idle.keys() == busy.keys()
    for name, value in idle.items():
        np.testing.assert_array_equal(value, busy[name], err_msg=name)
