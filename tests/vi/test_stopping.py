"""When a fit stops, and what it says about that."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._methods.fit.loop import Step
from pyrolvm._methods.fit.stopping import Plateau, Schedule, improvement

Short = Callable[..., lvm.Fit]


def noise(count: int, seed: int = 0, sd: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, sd, count)


# --- the test for a plateau -------------------------------------------------------------------------------------------


def test_flat_noise_is_a_plateau() -> None:
    found = [Plateau().reached(list(50 + noise(4000, seed, 0.1))) for seed in range(20)]
    assert sum(found) >= 16  # one-sided test at two standard errors


@pytest.mark.parametrize("slope", [0.001, 0.01])
def test_a_loss_that_still_falls_is_no_plateau(slope: float) -> None:
    for seed in range(20):
        losses = 50 - slope * np.arange(4000) + noise(4000, seed, 0.5)
        assert not Plateau().reached(list(losses))


def test_noise_that_could_hide_a_rise_is_no_plateau() -> None:
    for seed in range(20):
        assert not Plateau().reached(list(50 + noise(1000, seed, 20.0)))


def test_a_slow_exponential_approach_is_no_plateau_until_it_is_over() -> None:
    steps = np.arange(6000)
    losses = list(50 + 20 * np.exp(-steps / 300) + noise(6000, 1, 0.2))
    first = next(n for n in range(400, 6001, 50) if Plateau().reached(losses[:n]))
    assert 20 * np.exp(-first / 300) < 0.5  # less than half a nat is missing when it says so


def test_too_few_steps_are_no_plateau() -> None:
    minimum = Plateau().minimum
    assert not Plateau().reached([1.0] * (minimum - 1))
    assert Plateau().reached([1.0] * (3 * minimum))


def test_improvement_is_signed_and_scaled() -> None:
    rise, error = improvement([3.0, 3.0, 3.0, 1.0, 1.0, 1.0], 6)
    assert (rise, error) == (2.0, 0.0)
    rise, error = improvement([1.0, 1.0, 3.0, 3.0], 4)
    assert rise == -2.0
    assert improvement([1.0], 6) == (float("inf"), float("inf"))
    _, wide = improvement(list(noise(400, sd=4.0)), 400)
    assert wide == pytest.approx(4.0 * np.sqrt(2 / 200), rel=0.1)


def test_schedule_is_constant_then_decays_and_ends_within_the_budget() -> None:
    schedule = Schedule(1000)
    assert schedule.factor(500) == 1.0
    schedule.begin(600)
    assert schedule.end <= 1000
    factors = [schedule.factor(step) for step in range(600, schedule.end + 1)]
    assert factors[0] == 1.0
    assert factors[-1] == pytest.approx(0.01)
    assert (np.diff(factors) <= 0).all()


def test_schedule_without_decay() -> None:
    schedule = Schedule(100, constant=True)
    schedule.begin(100)
    assert [schedule.factor(step) for step in (0, 50, 100)] == [1.0, 1.0, 1.0]


# --- what a fit says --------------------------------------------------------------------------------------------------


def test_a_fit_that_is_still_rising_says_so(normal_problem: lvm.Problem, short: Short) -> None:
    fit = short(normal_problem, lvm.guide("mean_field", precondition="none"), learning_rate=1e-3, max_steps=600)
    assert not fit.converged
    assert "max_steps=600" in fit.stop_reason
    assert "still rising" in fit.stop_reason
    assert fit.verdict.status != "trusted"
    assert any("converged" in reason.text for reason in fit.verdict.reasons)


def test_a_fit_at_its_plateau_stops_early(normal_problem: lvm.Problem) -> None:
    fit = lvm.fit(
        normal_problem, "mean_field", learning_rate=0.05, tolerance=0.3, max_steps=6000, progress=False, draws=200
    )
    assert fit.converged
    assert len(fit.losses) < 6000
    assert "flat" in fit.stop_reason
    # What it calls flat is flat: the ELBO of the draws is that of the last steps.
    tail = -fit.losses[-200:]
    assert fit.elbo == pytest.approx(tail.mean(), abs=4 * fit.elbo_error + 4 * tail.std() / 200**0.5)


def test_tolerance_zero_takes_every_step(normal_problem: lvm.Problem, short: Short) -> None:
    fit = short(normal_problem, max_steps=37, tolerance=0)
    assert len(fit.losses) == 37
    assert "37" in fit.stop_reason


@pytest.mark.parametrize("options", [{"max_steps": 1}, {"max_steps": 20}])
@pytest.mark.parametrize("tolerance", [None, 0])
def test_a_handful_of_steps_is_never_converged(
    normal_problem: lvm.Problem, short: Short, options: dict[str, Any], tolerance: Any
) -> None:
    fit = short(normal_problem, learning_rate=1e-9, tolerance=tolerance, **options)
    assert not fit.converged
    assert "inf" not in fit.stop_reason


def test_a_learning_rate_too_small_to_get_anywhere_is_not_converged(normal_problem: lvm.Problem, short: Short) -> None:
    fit = short(normal_problem, learning_rate=1e-4, max_steps=300)
    assert not fit.converged


@pytest.mark.parametrize("value", [0, -3, 2.5, True, "many"])
@pytest.mark.parametrize("name", ["max_steps", "num_particles", "batch_size"])
def test_counts_out_of_range_are_refused(normal_problem: lvm.Problem, short: Short, name: str, value: Any) -> None:
    with pytest.raises(lvm.ArgumentError, match=name):
        short(normal_problem, **{name: value})


@pytest.mark.parametrize("value", [-0.1, float("nan"), "tight"])
def test_tolerances_out_of_range_are_refused(normal_problem: lvm.Problem, short: Short, value: Any) -> None:
    with pytest.raises(lvm.ArgumentError, match="tolerance"):
        short(normal_problem, tolerance=value)


# --- callbacks and interrupts -----------------------------------------------------------------------------------------


def test_callbacks_see_every_step(normal_problem: lvm.Problem, short: Short) -> None:
    seen: list[Step] = []
    scales: list[float] = []

    def watch(step: Step) -> None:
        seen.append(step)
        scales.append(float(next(iter(step.parameters().values())).detach().sum()))

    fit = short(normal_problem, callbacks=[watch], tolerance=0)
    assert [step.step for step in seen] == list(range(30))
    assert [step.loss for step in seen] == fit.losses.tolist()
    assert [step.elbo for step in seen] == (-fit.losses).tolist()
    assert [step.learning_rate for step in seen] == fit.data["optimization"]["learning_rate"].values.tolist()
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(seen))
    assert len(set(scales)) == 30  # the parameters of the step, not of the start


def test_a_callback_stops_the_search(normal_problem: lvm.Problem, short: Short) -> None:
    fit = short(normal_problem, callbacks=[lambda step: step.step >= 9], max_steps=1000)
    assert "callback" in fit.stop_reason
    assert 10 <= len(fit.losses) < 1000


def test_only_true_stops(normal_problem: lvm.Problem, short: Short) -> None:
    """A callback that returns something, as ``list.append`` and friends may, does not end the fit."""
    fit = short(normal_problem, callbacks=[lambda step: 1, lambda step: "yes"], tolerance=0)
    assert len(fit.losses) == 30


def test_all_callbacks_run_in_the_last_step_too(normal_problem: lvm.Problem, short: Short) -> None:
    counts = [0, 0]

    def first(step: Step) -> bool:
        counts[0] += 1
        return True

    def second(step: Step) -> None:
        counts[1] += 1

    short(normal_problem, callbacks=[first, second])
    assert counts[0] == counts[1]


def test_an_error_in_a_callback_is_the_callers(normal_problem: lvm.Problem, short: Short) -> None:
    def broken(step: Step) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        short(normal_problem, callbacks=[broken])


def test_what_is_no_callback_is_refused(normal_problem: lvm.Problem, short: Short) -> None:
    with pytest.raises(lvm.ArgumentError, match="callbacks"):
        short(normal_problem, callbacks=["print"])


def test_an_interrupt_keeps_what_was_reached(normal_problem: lvm.Problem, short: Short) -> None:
    def interrupt(step: Step) -> None:
        if step.step == 19:
            raise KeyboardInterrupt

    fit = short(normal_problem, callbacks=[interrupt], max_steps=5000, seed=8)
    assert len(fit.losses) == 20
    assert not fit.converged
    assert "interrupted by the user after 20 steps" in fit.stop_reason
    assert fit.data["optimization"].attrs["interrupted"] == 1
    assert fit.verdict.status != "trusted"
    # The state is that of 20 steps, no other.
    twenty = short(normal_problem, max_steps=5000, seed=8, callbacks=[interrupt])
    assert twenty.losses.tolist() == fit.losses.tolist()
    assert all(torch.equal(twenty.params[name], fit.params[name]) for name in fit.params)


def test_progress_is_told_and_may_interrupt(normal_problem: lvm.Problem, short: Short) -> None:
    calls: list[tuple[int, int, str]] = []

    def progress(done: int, total: int, text: str) -> None:
        calls.append((done, total, text))
        raise KeyboardInterrupt

    fit = short(normal_problem, progress=progress, max_steps=500)
    assert calls[0][0] == len(fit.losses) == 10  # one block of steps
    assert "ELBO" in calls[0][2]
    assert fit.data["optimization"].attrs["interrupted"] == 1


# --- losses that are not finite ---------------------------------------------------------------------------------------


def test_no_finite_start_is_an_error_that_names_the_site(short: Short) -> None:
    def impossible(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        pyro.factor("wall", mean.new_tensor(-float("inf")) + 0 * mean)

    with pytest.raises((lvm.FitError, lvm.ProblemError), match="wall"):
        short(lvm.Problem(impossible, torch.zeros(3)))


def test_steps_that_are_not_finite_are_skipped_and_counted(make_data: Any, short: Short) -> None:
    """Every fifth run of the model is poisoned: the parameters must never see it."""
    state = {"runs": 0, "poison": False}

    def fragile(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
        state["runs"] += 1
        bad = state["poison"] and state["runs"] % 5 == 0
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        pyro.factor("poison", mean * (float("nan") if bad else 0.0))

    def start(step: Step) -> None:
        state["poison"] = step.step < 40

    fit = short(lvm.Problem(fragile, make_data()), callbacks=[start], max_steps=50, tolerance=0, draws=20)
    assert fit.data["optimization"].attrs["skipped_steps"] > 3
    assert len(fit.losses) + fit.data["optimization"].attrs["skipped_steps"] == 50
    assert np.isfinite(fit.losses).all()
    assert all(bool(torch.isfinite(value).all()) for value in fit.params.values())
