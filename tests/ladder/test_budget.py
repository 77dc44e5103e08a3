"""The seconds of a budget hold inside methods: what runs ends with what it has, and says so. The clock is not that of the machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base import budget
from pyrolvm._base.interrupts import Stopped, held
from pyrolvm._methods.infer import correction

Y = torch.tensor([0.3, -0.4, 1.2, 0.8])


class Clock:
    """A clock that stands still until it has been looked at so often, and then shows another time."""

    def __init__(self, looks: int, then: float = 10.5) -> None:
        self.looks, self.then, self.seen = looks, then, 0

    def __call__(self) -> float:
        self.seen += 1
        return self.then if self.seen > self.looks else 0.0


@contextmanager
def looks(count: int, then: float = 10.5) -> Iterator[None]:
    """A budget of ten seconds, which are over, by half a second or more, once it has been looked at so often."""
    with budget.within(10.0, clock=Clock(count, then)):
        yield


def model(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, tau + 0.1), obs=y)


def problem() -> lvm.Problem:
    return lvm.Problem(model, Y)


# --- the budget itself ------------------------------------------------------------------------------------------------


def test_without_a_budget_there_is_no_end() -> None:
    with budget.within(None):
        assert budget.left() == float("inf") and not budget.spent()
        budget.check()


def test_of_several_budgets_the_one_that_ends_first_counts() -> None:
    now = 0.0
    with budget.within(10.0, clock=lambda: now), budget.within(20.0, clock=lambda: now):
        assert budget.left() == 10.0
        now = 11.0
        assert budget.spent()
        with pytest.raises(budget.Spent, match=r"Fix: raise budget"):
            budget.check()
        with budget.finishing(5.0, clock=lambda: now):
            budget.check()
            assert budget.left(soft=True) == 1.0
    assert budget.left() == float("inf")


@pytest.mark.parametrize(
    ("cost", "most", "runs"), [(1e-3, 1000, 1000), (0.01, 1000, 500), (1.0, 1000, 50), (1.0, 20, 20)]
)
def test_runs_one_by_one_are_halved_until_there_is_time_for_them(cost: float, most: int, runs: int) -> None:
    assert budget.affordable(cost, most, 6.0) == runs
    with budget.within(6.0, clock=lambda: 0.0):
        assert budget.affordable(cost, most) == runs


def test_a_held_signal_and_a_spent_budget_end_work_at_the_same_places() -> None:
    with held() as pending, looks(3):
        pending.check()
        with pytest.raises(Stopped):
            for _ in range(5):
                pending.check()


# --- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["pyro", "c"])
def test_a_fit_keeps_the_steps_that_it_has_and_is_not_trusted(engine: str) -> None:
    with looks(6):
        fit = lvm.fit(problem(), "mean_field", engine=engine, draws=100, progress=False)
    group = fit.data["optimization"]
    assert 0 < group.sizes["step"] < 5_000
    assert "the seconds of the budget were over" in group.attrs["stop_reason"]
    assert not group.attrs["converged"] and not group.attrs["interrupted"]
    assert not fit.verdict.trusted
    assert np.isfinite(fit.log_p).all()


def test_a_fit_whose_budget_is_over_before_it_begins_has_a_step() -> None:
    with looks(1):
        fit = lvm.fit(problem(), lvm.guide("mean_field", precondition="none"), engine="pyro", draws=50, progress=False)
    assert fit.data["optimization"].sizes["step"] > 0


KERNELS = [("pyro", "auto"), ("jax", "numpyro"), *([("c", "nutpie")] if importlib.util.find_spec("nutpie") else [])]


@pytest.mark.parametrize(("engine", "kernel"), KERNELS)
def test_chains_keep_the_draws_that_they_have(engine: str, kernel: str) -> None:
    seen: list[int] = []

    def over() -> float:
        return float(bool(seen) and seen[-1] > 60)

    with budget.within(1.0, clock=over):
        chains = lvm.nuts(
            problem(), chains=2, warmup=20, draws=200_000, engine=engine, kernel=kernel, precondition="none",
            progress=lambda done, *_: seen.append(done),
        )  # fmt: skip
    had = chains.data["posterior"].sizes["draw"]
    assert 0 < had < 200_000
    attrs = chains.data["sample_stats"].attrs
    assert attrs["stopped_by"] == "budget" and not attrs["interrupted"] and attrs["draws_asked"] == 200_000
    assert f"each chain has {had:,} of 200,000 draws" in str(chains.verdict)


def test_chains_without_a_draw_say_that_the_budget_was_too_small() -> None:
    with pytest.raises(budget.Spent, match=r"before every chain had a draw after warmup. Fix: raise budget"), looks(1):
        lvm.nuts(problem(), chains=2, warmup=500, draws=10, engine="pyro", precondition="none", progress=False)


def test_a_frame_that_a_budget_cuts_short_is_used_and_not_kept() -> None:
    whole = problem()
    lvm.fit(whole, "student", draws=100, progress=False)
    cut = problem()
    with looks(8):
        fit = lvm.fit(cut, "student", draws=100, progress=False)
    assert whole.kept["frames"] and not cut.kept["frames"]
    assert fit.data["posterior"].attrs["evaluations"] < 20_000
    assert np.isfinite(fit.log_p).all()


def test_weights_that_a_budget_cuts_short_are_of_fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correction, "THOROUGH", 60_000)
    monkeypatch.setattr(correction, "LIGHT", -1.0)
    fit = lvm.fit(problem(), "student", draws=100, progress=False)
    assert correction.correct(fit).data["proposal_stats"].sizes["draw"] == 60_000
    with looks(40, then=20.0):
        cut = correction.correct(fit)
    assert cut.data["proposal_stats"].sizes["draw"] == correction.FIRST


# --- infer ------------------------------------------------------------------------------------------------------------


def _infer(monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float], **options: Any) -> lvm.Posterior:
    clocks = [clock]  # of the call; what comes after it has the machine's

    def within(seconds: float) -> Any:
        return budget.within(seconds, **({"clock": clocks.pop()} if clocks else {}))

    monkeypatch.setattr("pyrolvm._methods.infer.inference.within", within)
    return lvm.infer(problem(), progress=False, budget=10.0, **options)


def test_infer_returns_what_the_method_has_that_the_budget_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _infer(monkeypatch, Clock(4), methods=["mean_field", "nuts"])
    assert [rung["method"] for rung in result.ladder] == ["mean_field"]
    assert "the seconds of the budget were over" in result.data["optimization"].attrs["stop_reason"]
    assert not result.verdict.trusted


def test_infer_returns_a_quick_fit_where_the_budget_ends_before_anything_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[bool] = []

    def nothing(*_: Any) -> lvm.Fit:
        begun.append(True)
        budget.check()
        raise AssertionError("the budget is over")

    monkeypatch.setattr("pyrolvm._methods.infer.inference._variational", nothing)
    result = _infer(monkeypatch, lambda: 100.0 if begun else 0.0, methods=["mean_field"])
    assert [rung["status"] == "error" for rung in result.ladder] == [True, False]
    assert result.ladder[1]["method"] == "mean_field, for a second"
    assert not result.verdict.trusted


def test_infer_runs_no_restart_once_the_budget_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _infer(monkeypatch, lambda: 100.0 if found else 0.0, methods=[_counted()], restarts=3)
    assert "restarts" not in str(result.data.attrs)


found: list[bool] = []


def _counted() -> Any:
    recipe = lvm.guide("student")

    def construct(problem: lvm.Problem, **options: Any) -> Any:
        built = recipe.construct(problem, **options)
        solve = built.solve

        def solved(*args: Any, **rest: Any) -> Any:
            result = solve(*args, **rest)
            found.append(True)
            return result

        object.__setattr__(built, "solve", solved)
        return built

    from dataclasses import replace

    return replace(recipe, construct=construct)
